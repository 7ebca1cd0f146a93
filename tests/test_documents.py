"""What the documents show is what there is: the demo's output, the README's result, and every command."""

import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import click
import pytest

from dive.cli.group import group

# What differs from run to run and from machine to machine, and what is compared in its place.
MASKS = (
    (r"(\d+ h )?\d+ (s|min)\b", "TIME"),
    (r"\bon .+, \d+ threads?", "on PROCESSOR, N threads"),
    (r"\bloss \d+\.\d+", "loss LOSS"),
    (r"\d+\.\d\d points (above|below)", "SOME points above or below"),
    # Whether the curves of so small a teacher cross is a matter of its rounding; what follows is told anyway.
    (r"^Crossing: (none|τ/p = [\d.e+]+, where few-shot .* each)\.$", "Crossing: NONE OR ITS RATIO."),
    (r"^Take τ = [\d.]+, p = 0\.5 \((rule crossing|fallback)\): few-shot .*\.$", "RECOMMENDATION AND REASON"),
    (r"^ +\d+\.\d+ +0\.5 +\d+\.?\d* .*\d$", "ROW OF THE RECOMMENDED PAIR"),
)
# A line of progress on the way; a slow machine prints more of them.
ON_THE_WAY = re.compile(r"\w+: +\d\d?% · .* left")
FIGURE = re.compile(r"(?<= )\d+\.(\d+)(?=\s|$)")
# In points. One test image of the only many-shot class is 2.8 points of that column.
ACCURACY = {"many": 6, "medium": 6, "few": 6, "all": 3, "class mean": 3}
VIRTUAL_EXAMPLES = 0.25  # of their value


def examples(document: str) -> list[tuple[str, list[str]]]:
    """Each command of a document's transcript (`    $ dive …`) with the lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for line in document.splitlines():
        if line.startswith("    $ "):
            found.append((line.removeprefix("    $ "), []))
        elif found and (line.startswith("    ") or not line):
            found[-1][1].append(line.removeprefix("    "))
    return found


def normal(lines: Sequence[str]) -> list[str]:
    """Lines of output with what may differ masked, and without the width of columns."""
    kept = [line.rstrip() for line in lines if not ON_THE_WAY.match(line)]
    for pattern, mask in MASKS:
        kept = [re.sub(pattern, mask, line) for line in kept]
    while kept and not kept[-1]:
        kept.pop()
    return [re.sub(r" {2,}", "  ", re.sub("─+", "─", line)) for line in kept]


def differences(shown: Sequence[str], found: Sequence[str]) -> list[str]:
    """What a transcript shows and a run did not print, line by line."""
    shown, found = normal(shown), normal(found)
    if len(shown) != len(found):
        return [f"{len(shown)} lines shown, {len(found)} printed", *found]
    wrong, title = [], ""
    for left, right in zip(shown, found, strict=True):
        if right.startswith(("Test accuracy", "Virtual examples", "Logit cache")):
            title = right
        if not (_shape(left) == _shape(right) and _close(left, right, title)):
            wrong.append(f"shown {left!r}, printed {right!r}")
    return wrong


def _shape(line: str) -> str:
    """A line without its figures; how many digits follow the point stays."""
    return FIGURE.sub(lambda figure: "." + "0" * len(figure[1]), line)


def _close(shown: str, found: str, title: str) -> bool:
    """Whether the figures of a row of a table agree as well as those of two machines do."""
    figures = [[float(figure[0]) for figure in FIGURE.finditer(line)] for line in (shown, found)]
    if title.startswith("Test accuracy") and figures[0]:
        near = zip(*figures, ACCURACY.values(), strict=True)
        return all(abs(one - other) <= points for one, other, points in near)
    if title.startswith("Virtual examples") and not shown.lstrip().startswith("images"):
        near = zip(*figures, strict=True)
        return all(abs(one - other) <= VIRTUAL_EXAMPLES * one for one, other in near)
    return figures[0] == figures[1]


@pytest.fixture
def demo(repository) -> list[tuple[str, list[str]]]:
    """The transcript in docs/demo.md."""
    return examples((repository / "docs" / "demo.md").read_text(encoding="utf-8"))


@pytest.mark.slow
def test_the_demo_prints_what_its_page_shows(demo, tmp_path):
    """With one thread: the other processors may be busy."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONIOENCODING": "utf-8"}
    wrong = {}
    for command, shown in demo:
        words = [sys.executable, "-m", *shlex.split(command)]
        done = subprocess.run(
            words, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=environment, cwd=tmp_path,
            encoding="utf-8", timeout=600,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout
        if different := differences(shown, done.stdout.splitlines()):
            wrong[command] = different
    assert wrong == {}
    assert (tmp_path / "checkpoints/digits_lt_bbn/virtual_examples.png").is_file()


def test_the_page_shows_the_commands_of_make_demo(demo, repository):
    makefile = (repository / "Makefile").read_text(encoding="utf-8")
    (recipe,) = re.findall(r"^DEMO := (.*)$", makefile, flags=re.MULTILINE)
    (lines,) = re.findall(r"^demo: env\n((?:\t.*\n)+)", makefile, flags=re.MULTILINE)
    made = lines.replace("$(DIVE)", "dive").replace("$(DEMO)", recipe).replace(" --force", "")
    assert [command for command, _ in demo] == [line.strip() for line in made.splitlines()]


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        ("teacher", "97.22    99.29   83.21   91.09        91.04", "100.00   95.00   80.00   94.00   89.00"),
        ("teacher", "trained in 2 s", "trained in 1 h 10 min"),
        ("teacher", "AMD EPYC, 2 threads", "Some Processor @ 2.50GHz, 16 threads"),
        ("teacher", "loss 0.053", "loss 1.234"),
        (
            "teacher",
            "teacher: 100%",
            "teacher:   8% · epoch 5 · loss 0.214 · lr 0.1 · 3 min left\nteacher: 100%",
        ),
        ("student", "0.56 points above", "1.20 points below"),
        ("tune-tau", "125.0     51.2   13.9      9.02       1.897", "131.4   50.7   13.0   10.14   1.931"),
    ],
)
def test_another_machine_may_print_this(demo, command, before, after):
    assert changed(demo, command, before, after) == []


@pytest.mark.parametrize(
    ("command", "before", "after"),
    [
        ("teacher", "91.09        91.04", "94.40        91.04"),
        ("teacher", "99.29", "99.3"),
        ("teacher", "class mean", "mean"),
        ("teacher", "  class mean", ""),
        ("teacher", "many   medium", "medium   many"),
        ("teacher", "precision fp32: as asked for\n", ""),
        ("teacher", "399 training images", "400 training images"),
        ("teacher", "trained in", "finished in"),
        ("teacher", "teacher (bsce)", "teacher (ce)"),
        ("export-logits", "111 kB", "112 kB"),
        ("tune-tau", "142.0", "141.9"),
        ("tune-tau", "66.4", "99.9"),
        ("tune-tau", "Crossing: ", "The crossing: "),
        ("tune-tau", "Take τ = ", "Take τ = ?"),
        ("tune-tau", ", p = 0.5 (", ", p = 1 ("),
        ("tune-tau", "\n       6     1       6 ", "\n       7     1       7 "),
        ("student", "p=0.5", "p=0.6"),
        ("student", "points above its teacher", "points above the teacher"),
        ("eval", "\n  checkpoints/digits_lt_bbn/teacher.pt, seed 0", ""),
        ("eval", "student.pt, seed 0", "student.pt"),
    ],
)
def test_another_text_or_table_would_be_found(demo, command, before, after):
    assert changed(demo, command, before, after) != []


def changed(demo: list[tuple[str, list[str]]], name: str, before: str, after: str) -> list[str]:
    """What is found different after a replacement in what a command of the demo prints."""
    (shown,) = (lines for command, lines in demo if command.split()[1] == name)
    text = "\n".join(shown)
    assert before in text
    return differences(shown, text.replace(before, after).splitlines())


def test_the_readmes_result_stands_in_the_results(repository):
    """Name and figures of each row, and the paper's figure in the same row."""
    readme, results = (
        (repository / name).read_text(encoding="utf-8") for name in ("README.md", "RESULTS.md")
    )
    rows = re.findall(r"^(\| (?:teacher|student) .*? \|) ([\d.]+) \|$", readme, flags=re.MULTILINE)
    assert len(rows) == 3
    for row, paper in rows:
        (line,) = (line for line in results.splitlines() if line.startswith(row))
        assert f" {paper} (" in line


def commands() -> list[tuple[str, str]]:
    """Every command in an indented block of the documents, with the document's name."""
    root = Path(__file__).resolve().parents[1]
    return [
        (document.name, command.partition("#")[0].strip())
        for document in sorted([root / "README.md", *(root / "docs").glob("*.md")])
        if document.name != "cli.md"
        for command in re.findall(r"^ {4}(?:\$ )?(dive .*)$", document.read_text("utf-8"), flags=re.MULTILINE)
    ]


@pytest.mark.parametrize(("document", "command"), commands())
def test_every_command_in_the_documents_can_be_given(document, command):
    _, name, *words = shlex.split(command)
    subcommand = group.get_command(click.Context(group), name)
    assert subcommand is not None
    with subcommand.make_context(name, words, click.Context(group, **group.context_settings)):
        pass


@pytest.mark.parametrize("name", ["torture", "photographs", "training-ranks", "export-ranks"])
def test_the_reliability_page_says_what_the_records_of_kills_say(name, repository):
    path = Path("results/reliability", f"{name}.json")
    record = json.loads((repository / path).read_text())
    page = (repository / "docs/reliability.md").read_text()
    (line,) = (line for line in page.splitlines() if f"`{path}`" in line)
    kills = ", ".join(f"{command} {count}" for command, count in record["kills"].items())
    told = f"{sum(record['kills'].values())} kills that hit ({kills})"
    told += f" over {sum(record['runs'].values())} runs in {record['seconds']:.0f} s"
    assert f"seed {record['seed']}" in line
    assert line.endswith(f": {told}, {len(record['faults'])} faults.")
