"""What a long command tells on stderr: lines in a log, a bar in a terminal, nothing when quiet."""

import io
import sys

import pytest

from dive import progress
from dive.progress import Progress, duration


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 1000.0

    monkeypatch.setattr(progress.time, "monotonic", lambda: Clock.now)
    return Clock


def test_everything_goes_to_stderr(capsys):
    reporter = Progress()
    reporter.note("a note")
    reporter.warn("take care")
    with reporter.bar("train", 1) as bar:
        bar.advance()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines()[:2] == ["a note", "warning: take care"]


def test_quiet_leaves_warnings_and_nothing_else(capsys):
    reporter = Progress(quiet=True)
    reporter.note("a note")
    with reporter.bar("train", 2) as bar:
        bar.advance()
        reporter.warn("take care")
        bar.advance()
    assert capsys.readouterr().err == "warning: take care\n"


def test_a_log_gets_a_line_now_and_then_with_share_status_and_time_left(capsys, clock):
    with Progress().bar("teacher", 200) as bar:
        for step in range(100):
            clock.now += 1
            bar.advance(1, f"loss {step}")
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "teacher:   8% · loss 14 · 3 min left"  # 185 s to go
    assert len(lines) == 6  # every 15 of 100 seconds


def test_the_last_step_is_always_told(capsys, clock):
    with Progress().bar("export", 3) as bar:
        for _ in range(3):
            bar.advance()
    assert capsys.readouterr().err == "export: 100% · 0 s left\n"


def test_the_time_left_is_reckoned_from_this_processs_own_pace(capsys, clock):
    with Progress().bar("teacher", 1000, done=900) as bar:
        clock.now += 20
        bar.advance(10)
    assert capsys.readouterr().err == "teacher:  91% · 3 min left\n"  # 90 steps of 2 s


def test_after_a_pause_the_time_left_is_soon_reckoned_from_the_recent_pace(capsys, clock):
    with Progress().bar("teacher", 1000) as bar:
        for step in range(300):
            clock.now += 3600 if step == 150 else 1
            bar.advance()
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1] == "teacher:  29% · 12 min left"  # some 700 steps of a second


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_terminal_gets_a_bar_and_notes_above_it_as_they_are(monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    monkeypatch.setenv("TERM", "xterm")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    reporter = Progress()
    with reporter.bar("teacher", 4) as bar:
        bar.advance(2, "loss 0.123")
        reporter.note("[/x] is no markup")
        bar.advance(2, "loss 0.100")
    shown = terminal.getvalue()
    assert "teacher" in shown and "100%" in shown and "loss 0.100" in shown
    assert "[/x] is no markup" in shown
    reporter.note("after the bar")
    assert terminal.getvalue().endswith("after the bar\n")


def test_a_failure_within_the_bar_passes_through(monkeypatch):
    monkeypatch.setattr(sys, "stderr", Terminal())
    reporter = Progress()
    with pytest.raises(KeyboardInterrupt), reporter.bar("teacher", 4):
        raise KeyboardInterrupt
    reporter.note("still there")
    assert sys.stderr.getvalue().endswith("still there\n")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0 s"),
        (48.4, "48 s"),
        (89.4, "89 s"),
        (90, "2 min"),
        (720, "12 min"),
        (89 * 60, "89 min"),
        (90 * 60, "1 h 30 min"),
        (4200, "70 min"),
        (3600 * 25 + 60 * 7, "25 h 7 min"),
    ],
)
def test_a_span_of_time_is_written_as_people_do(seconds, text):
    assert duration(seconds) == text


ODD = "a\x1b[31m\u202e\udce4\n"
SHOWN = r"a\x1b[31m\u202e\xe4\n"


def test_what_a_terminal_would_obey_is_shown_escaped_in_a_log(capsys):
    reporter = Progress()
    reporter.note(ODD)
    reporter.warn(ODD)
    with reporter.bar(ODD, 1) as bar:
        bar.advance(1, ODD)
    assert capsys.readouterr().err.splitlines() == [
        SHOWN,
        f"warning: {SHOWN}",
        f"{SHOWN}: 100% · {SHOWN} · 0 s left",
    ]


def test_what_a_terminal_would_obey_is_shown_escaped_in_a_bar(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys, "stderr", Terminal())
    reporter = Progress()
    with reporter.bar(ODD, 1) as bar:
        reporter.note(ODD)
        bar.advance(1, ODD)
    shown = sys.stderr.getvalue()
    assert shown.count(SHOWN) >= 3 and "a\x1b[31m" not in shown and "\u202e" not in shown
