"""Tables: what stands in a cell, and that names are shown as they are."""

import io
import sys

import pytest

from dive.cli.tables import cell, named, new_table, number, percent, print_table, shot_table
from dive.recipe.teachers import model_name
from dive.training.evaluation import Accuracy


def printed(table, capsys) -> str:
    print_table(table)
    return capsys.readouterr().out


@pytest.mark.parametrize(
    ("value", "text"), [(0.0, "0.00"), (1.0, "100.00"), (0.45352, "45.35"), (1 / 3, "33.33"), (None, "–")]
)
def test_a_share_is_written_in_percent_with_two_digits_and_an_absent_one_as_a_dash(value, text):
    assert percent(value) == text


def test_a_share_with_its_deviation_shows_both():
    assert percent(0.4535, 0.00212).split() == ["45.35", "±0.21"]
    assert percent(None, None) == "–"


@pytest.mark.parametrize(
    ("value", "digits", "text"),
    [(1.25, 1, "1.2"), (237.0, 0, "237"), (None, 2, "–"), (float("inf"), 2, "–"), (float("nan"), 2, "–")],
)
def test_a_number_is_written_with_its_digits_and_an_absent_or_infinite_one_as_a_dash(value, digits, text):
    assert number(value, digits) == text


def test_the_shot_table_has_a_row_a_result_and_a_dash_for_a_group_without_classes(capsys):
    rows = [
        ("one", Accuracy(0.7, 0.5, 0.25, 0.5, 0.48, ())),
        ("two", Accuracy(0.7, 0.5, None, 0.625, 0.5, ())),
    ]
    shown = [line.split() for line in printed(shot_table("A title", rows), capsys).splitlines()]
    assert ["model", "many", "medium", "few", "all", "class", "mean"] in shown
    assert ["one", "70.00", "50.00", "25.00", "50.00", "48.00"] in shown
    assert ["two", "70.00", "50.00", "–", "62.50", "50.00"] in shown


def test_a_name_that_looks_like_markup_is_shown_as_it_is(capsys):
    rows = [("[/x] [bold]name[/bold]", Accuracy(0.7, 0.5, 0.25, 0.5, 0.48, ()))]
    shown = printed(shot_table("[red]title[/red] [/x]", rows), capsys)
    assert "[/x] [bold]name[/bold]" in shown and "[red]title[/red] [/x]" in shown


def test_in_a_file_a_table_is_as_wide_as_it_needs_and_without_colour(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    table = new_table("t", ["name"], ["value"])
    table.add_row("x" * 150, "1.00")
    shown = printed(table, capsys)
    assert "x" * 150 in shown and "\x1b" not in shown


def test_in_a_terminal_no_line_is_wider_than_it(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("TERM", "dumb")
    monkeypatch.setattr(sys, "stdout", Terminal())
    rows = [("/a/long/path/" + "x" * 100, Accuracy(1.0, 1.0, 1.0, 1.0, 1.0, ()))]
    print_table(shot_table("t", rows))
    lines = sys.stdout.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "".join(lines).count("100.00") == 5


@pytest.mark.parametrize(
    ("own", "name"),
    [
        (None, "student (τ=3, p=0.5, w=0.5)"),
        (3.0, "student (τ=3, p=0.5, w=0.5)"),
        (9.0, "student (τ=3, p=0.5, w=0.5, student τ=9)"),
    ],
)
def test_a_student_is_named_after_what_it_was_distilled_with(own, name):
    distillation = {"tau": 3.0, "power": 0.5, "weight": 0.5, "student_tau": own}
    assert model_name("student", {"recipe": {"distillation": distillation}}) == name


def test_a_teacher_is_named_after_its_loss():
    assert model_name("teacher", {"loss": "ce"}) == "teacher (ce)"


def test_what_a_terminal_would_obey_is_shown_escaped_and_makes_no_row_of_its_own(capsys):
    odd = "a\x1b[31m\u202e\udce4\n  teacher   99.99"
    record = {"kind": "teacher", "loss": odd}
    table = new_table(odd, ["model"], [])
    table.add_row(cell(odd))
    table.add_row(named(record, odd, 1))
    shown = printed(table, capsys)
    escaped = r"a\x1b[31m\u202e\xe4\n  teacher   99.99"
    assert shown.count(escaped) == 4 and len(shown.splitlines()) == 8
    assert escaped in printed(shot_table("t", [(odd, Accuracy(1.0, 1.0, 1.0, 1.0, 1.0, ()))]), capsys)
