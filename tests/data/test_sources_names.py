"""Names that cannot be told apart, in a folder and in an archive."""

import unicodedata
import warnings
import zipfile
from pathlib import Path

import pytest

from dive.data.sources.folder import open_folder
from dive.errors import DataError

COMPOSED, DECOMPOSED = "café", unicodedata.normalize("NFD", "café")


def archive(entries: list[tuple[str, bytes]], path: Path = Path("images.zip")) -> Path:
    """A .zip of entries in their order, names as they are given."""
    with zipfile.ZipFile(path, "w") as file, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # zipfile warns of a name written twice
        for name, content in entries:
            file.writestr(zipfile.ZipInfo(name), content)
    return path


def refusal(path: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_folder(path)
    assert "\n" not in str(caught.value) and str(path) in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("top", ["", "photos/"])
def test_two_entries_of_a_zip_under_one_name_are_refused(tree, top):
    files = list(tree.images({"cat": 2, "dog": 1}).items())
    entries = [(top + name, content) for name, content in [*files, ("train/cat/001.png", files[-1][1])]]
    assert f"two files are named {top}train/cat/001.png" in refusal(archive(entries))


@pytest.mark.parametrize("top", ["", "photos/"])
@pytest.mark.parametrize(
    "other",
    [
        "./train/cat/001.png",
        "train//cat/001.png",
        "train/cat/./001.png",
        "/train/cat/001.png",
        "train/cat\\001.png",
        "train\\cat\\001.png",
    ],
)
def test_two_spellings_of_one_path_in_a_zip_are_refused_naming_both(tree, top, other):
    files = list(tree.images({"cat": 2, "dog": 1}).items())
    entries = [(top + name, content) for name, content in [*files, (other, files[-1][1])]]
    assert f"{top}train/cat/001.png and {top}{other} are the same path" in refusal(archive(entries))


def test_a_zip_whose_paths_have_empty_and_idle_steps_is_as_its_unpacked_folder(tree):
    files = tree.images({"cat": 2, "dog": 1})
    odd = [(f"./{name.replace('/', '//', 1)}", content) for name, content in files.items()]
    source = open_folder(archive(odd))
    assert source.train.keys == open_folder(tree.files(files)).train.keys
    assert source.classes == ("cat", "dog")


def test_duplicates_of_what_is_no_image_do_no_harm(tree):
    files = list(tree.images({"cat": 2}).items())
    twice = [("train/notes.txt", b"x"), ("train/cat/.000.png", b"x"), ("__MACOSX/train/cat/000.png", b"x")]
    assert len(open_folder(archive([*files, *twice, *twice])).train.keys) == 2


def forms(tree, files: dict[str, bytes]) -> list[Path]:
    return [tree.files(files, "folder"), tree.archive(files, "archive.zip")]


def test_classes_that_differ_in_their_unicode_form_alone_are_refused_naming_both(tree):
    for path in forms(tree, tree.images({COMPOSED: 2, DECOMPOSED: 1, "dog": 1})):
        message = refusal(path)
        assert r"the classes 'cafe\u0301' and 'caf\xe9' differ only in their Unicode normal form" in message


def test_a_class_whose_unicode_form_differs_between_train_and_test_is_refused_naming_both(tree):
    files = {
        name.replace(COMPOSED, DECOMPOSED) if name.startswith("test") else name: content
        for name, content in tree.images({COMPOSED: 2, "dog": 1}).items()
    }
    for path in forms(tree, files):
        assert r"'cafe\u0301' and 'caf\xe9'" in refusal(path)


def test_files_that_differ_in_their_unicode_form_alone_are_refused_naming_both(tree):
    files = tree.images({"cat": 1})
    files |= {f"train/cat/{form}.png": files["train/cat/000.png"] for form in (COMPOSED, DECOMPOSED)}
    for path in forms(tree, files):
        message = refusal(path)
        assert r"'train/cat/cafe\u0301.png'" in message and r"'train/cat/caf\xe9.png'" in message


def test_one_name_in_two_classes_or_in_another_case_is_no_duplicate(tree):
    files = tree.images({COMPOSED: 1, "Cat": 1, "cat": 1})
    files |= {f"train/cat/{name}.png": files["train/cat/000.png"] for name in ("a", "A", "Straße", "strasse")}
    for path in forms(tree, files):
        source = open_folder(path)
        assert source.classes == ("Cat", COMPOSED, "cat") and len(source.train.keys) == 7


def test_a_name_that_is_not_utf8_is_refused(tree):
    path = tree.files(tree.images({"cat": 1}))
    (path / "train/cat" / b"caf\xe9.png".decode("utf-8", "surrogateescape")).write_bytes(b"x")
    assert r"the file name 'train/cat/caf\udce9.png' is not UTF-8" in refusal(path)
