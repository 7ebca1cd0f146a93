"""docs/cli.md is what the commands say of themselves, at any width of the terminal."""

import re
import subprocess
import sys

import cli_reference
import click
import pytest

from dive.cli.group import COMMANDS, group


def test_the_page_is_what_would_be_written(repository):
    found = (repository / "docs" / "cli.md").read_text(encoding="utf-8")
    assert found == cli_reference.page(), "make docs writes it again"


@pytest.mark.parametrize("columns", [20, 500])
def test_the_width_of_the_terminal_changes_nothing(repository, columns, monkeypatch):
    monkeypatch.setenv("COLUMNS", str(columns))
    code = "import cli_reference; print(cli_reference.page(), end='')"
    words = [sys.executable, "-X", "utf8", "-c", code]
    monkeypatch.setenv("PYTHONPATH", f"{repository}:{repository / 'tests'}")
    done = subprocess.run(words, capture_output=True, encoding="utf-8", timeout=60)
    assert done.stdout == cli_reference.page(), done.stderr


def sections() -> dict[str, str]:
    """Command to its section of the page."""
    _, *parts = re.split(r"^## dive ", cli_reference.page(), flags=re.MULTILINE)
    return {part.split("\n")[0]: part for part in parts}


def plain(text: str) -> str:
    """Markdown without its marks and line breaks."""
    return " ".join(re.sub(r"[`\\]", "", text).split())


@pytest.mark.parametrize("name", COMMANDS)
def test_a_section_says_of_a_command_all_that_its_help_says(name):
    section, command = sections()[name], group.get_command(click.Context(group), name)
    context = click.Context(command, click.Context(group, **group.context_settings), info_name=name)
    assert f"    dive {name} {' '.join(command.collect_usage_pieces(context))}\n" in section
    assert " ".join(command.help.replace("\b", "").split()) in plain(section)
    shown = {line.split("`")[1].split()[0]: line for line in section.splitlines() if line.startswith("- `")}
    options = [one for one in command.params if isinstance(one, click.Option)]
    assert list(shown) == [option.opts[0] for option in options]
    for option in options:
        _, text = option.get_help_record(context)
        words = re.findall(r"[\w.<>/-]+", text.replace("default", ""))
        missing = [word for word in words if word.rstrip(".") not in plain(shown[option.opts[0]])]
        assert not missing, (option.opts, missing)


def test_a_default_that_the_help_names_in_brackets_is_told_as_such():
    student = sections()["student"]
    assert "`--power P [P ...]`: Power normalisations of the target. Default: `0.5`.\n" in student
    assert (
        "`--out FILE`: Checkpoint to write; for a grid, the names are derived from it. Default: `checkpoints"
        in student
    )
    assert "`--student-tau T [T ...]`: Temperatures of the student. Default: the teacher's.\n" in student
    store = "`--store float16|float32|int8|features|features-int8`: What the cache holds for each view: the "
    store += "logits, or the input of the teacher's last linear layer. Default: `float16`.\n"
    assert store in sections()["export-logits"]
