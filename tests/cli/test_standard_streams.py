"""Closed, full and broken standard streams: no result is written over, and no traceback is shown."""

import os
import subprocess
import sys
from pathlib import Path

import chain
import pytest
import torch

from dive.cli import main
from dive.models import checkpoint

RUN = (sys.executable, "-c", "from dive.cli import main; main()")
CLOSED = ["2>&-", ">&-", "<&-", ">&- 2>&-", "<&- >&- 2>&-"]


def shell(redirections: str, *arguments: object) -> subprocess.CompletedProcess:
    """`dive` as a shell starts it, with redirections of its streams."""
    words = map(str, (*RUN, *arguments))
    return subprocess.run(
        ["sh", "-c", f'"$@" {redirections}', "sh", *words], capture_output=True, text=True, timeout=120
    )


@pytest.mark.parametrize("closed", CLOSED)
def test_a_command_works_with_closed_streams(digits, closed):
    whole = shell("", "tune-tau", "--cache", digits.cache, "--tau", 3)
    done = shell(closed, "tune-tau", "--cache", digits.cache, "--tau", 3, "--plot", "plot.png")
    assert done.returncode == 0
    assert done.stdout == ("" if ">&- " in f"{closed} ".replace("2>&- ", "") else whole.stdout)
    assert done.stderr == ("" if "2>&-" in closed else "wrote plot.png\n")
    assert Path("plot.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize("closed", CLOSED)
def test_a_mistake_has_its_exit_code_with_closed_streams(closed):
    assert shell(closed, "teacher", "--nope").returncode == 2
    assert shell(closed, "--help").returncode == 0


@pytest.mark.slow
def test_a_run_with_every_stream_closed_writes_what_it_writes_with_them():
    arguments = ("teacher", *chain.DIGITS[:-1], "--epochs", 1)
    assert shell("<&- >&- 2>&-", *arguments, "--out", "closed.pt").returncode == 0
    chain.succeed(*arguments, "--out", "open.pt")
    models = [checkpoint.load(Path(name))["model"] for name in ("closed.pt", "open.pt")]
    assert all(torch.equal(models[0][name], models[1][name]) for name in models[1])
    for name in chain.files_under():
        assert b"training images" not in Path(name).read_bytes(), name


PREPARE = """
import os, sys
for number in map(int, sys.argv[1]):
    os.close(number)
from dive.cli import streams
streams.prepare()
with open("result", "w") as file:
    assert file.fileno() > 2
    os.write(1, b"out"), os.write(2, b"err")
assert open("result").read() == "" and all(os.get_inheritable(number) for number in range(3))
"""


@pytest.mark.parametrize("numbers", ["0", "1", "2", "01", "12", "012"])
def test_a_result_never_gets_the_number_of_a_standard_stream(numbers):
    done = subprocess.run([sys.executable, "-c", PREPARE, numbers], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout == ("" if "1" in numbers else "out")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_an_output_that_is_full_is_one_line(digits):
    for arguments in (("--help",), ("tune-tau", "--cache", digits.cache), ("inspect", "--help")):
        done = shell(">/dev/full", *arguments)
        assert done.returncode == 1
        assert done.stderr.startswith("dive: No space left on device") and done.stderr.count("\n") == 1
        assert shell("2>/dev/full", *arguments).returncode == 0
    assert shell("2>/dev/full", "nonsense").returncode == 2


def test_json_is_json_in_a_terminal_of_few_letters(digits, monkeypatch):
    monkeypatch.setenv("PYTHONIOENCODING", "ascii")
    Path("Füße").mkdir()
    cache = Path("Füße") / "ä.h5"
    cache.write_bytes(digits.cache.read_bytes())
    done = shell("", "tune-tau", "--cache", cache, "--json")
    assert done.stdout.isascii() and f'"{cache}"'.encode("ascii", "backslashreplace").decode() != done.stdout
    assert chain.Outcome(0, done.stdout, "").document["cache"] == str(cache)


def test_the_entry_module_loads_nothing_but_itself():
    code = "import sys; before = set(sys.modules); import dive.cli; print(sorted(set(sys.modules) - before))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "['dive', 'dive.cli']\n"


def test_tab_completion_still_works(monkeypatch, capsysbinary):
    monkeypatch.setenv("_DIVE_COMPLETE", "bash_source")
    monkeypatch.setattr(sys, "argv", ["dive"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0 and b"_dive_completion" in capsysbinary.readouterr().out
