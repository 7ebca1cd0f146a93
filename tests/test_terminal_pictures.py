"""The terminal pictures of the documents: what is in them, and that they are whole and stand alone."""

import re
import xml.etree.ElementTree

import pytest
import terminal_pictures


def words_of(svg: str) -> str:
    """The text of a picture, its spaces as they are read."""
    root = xml.etree.ElementTree.fromstring(svg)
    return " ".join("".join(root.itertext()).replace("\xa0", " ").split())


def test_a_picture_shows_the_command_and_what_it_printed():
    svg = terminal_pictures.picture("x", "eval --json", "\x1b[1mTest <accuracy>\x1b[0m\n  many   97.22\n")
    text = words_of(svg)
    assert "$ dive eval --json" in text and "Test <accuracy>" in text and "many 97.22" in text
    assert "\x1b" not in svg
    assert svg == terminal_pictures.picture(
        "x", "eval --json", "\x1b[1mTest <accuracy>\x1b[0m\n  many   97.22\n"
    )


@pytest.mark.parametrize("name", terminal_pictures.PICTURES)
def test_the_pictures_of_the_documents_are_of_their_commands(name):
    svg = (terminal_pictures.FIGURES / f"{name}.svg").read_text(encoding="utf-8")
    assert f"$ dive {terminal_pictures.PICTURES[name]}" in words_of(svg)
    assert "url(http" not in svg and "@font-face" not in svg
    places = re.findall(r"/(?:root|home|work|tmp|usr)/\S*", words_of(svg))
    assert places == []  # of the machine that drew them


def test_every_picture_in_the_folder_is_shown_in_a_document(repository):
    documents = [*repository.glob("*.md"), *(repository / "docs").glob("*.md")]
    text = "".join(path.read_text(encoding="utf-8") for path in documents)
    for path in (repository / "docs" / "figures").glob("*.svg"):
        assert f"figures/{path.name})" in text, path.name
