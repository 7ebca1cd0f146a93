"""Ctrl-C at any moment, once or more: one line, exit code 130, nothing left half tidied."""

import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

pytestmark = pytest.mark.alone

LINE = "dive: interrupted; the same command resumes from its last saved state, or starts again\n"
HERE = "import os, signal, sys, time\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
# The first byte says that dive's code has begun; before, only the interpreter could answer.
MAIN = f"""{HERE}
from dive import cli
run = cli._run
def begun():
    sys.stdout.write(".")
    sys.stdout.flush()
    return run()
cli._run = begun
cli.main()
"""
MOMENTS = random.Random(23)


def interrupted(words: list[str], delay: float, again: float | None) -> subprocess.CompletedProcess:
    """`dive` in a process of its own that gets SIGINT after `delay`, and once more after `again`."""
    child = subprocess.Popen(
        [sys.executable, "-c", MAIN, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert child.stdout.read(1) == "."
    time.sleep(delay)
    child.send_signal(signal.SIGINT)
    if again is not None:
        time.sleep(again)
        child.send_signal(signal.SIGINT)
    out, err = child.communicate(timeout=60)
    return subprocess.CompletedProcess(words, child.returncode, out, err)


@pytest.mark.parametrize("again", [None, 0.0, 0.01], ids=["once", "twice", "twice in 10 ms"])
@pytest.mark.parametrize(
    ("command", "longest", "times"), [("--help", 0.04, 8), ("tune-tau", 0.15, 5), ("eval", 0.15, 4)]
)
def test_ctrl_c_soon_after_the_start_is_one_line(digits, command, longest, times, again):
    words = {"tune-tau": ["--cache", str(digits.cache)], "eval": [str(digits.teacher), "--device", "cpu"]}
    ends = []
    for _ in range(times):
        done = interrupted([command, *words.get(command, [])], MOMENTS.uniform(0, longest), again)
        # One that was done by then, as --help may be, says nothing of it.
        assert (done.returncode, done.stderr) in [(130, LINE), (0, "")], done
        ends.append(done.returncode)
    assert command == "--help" or 130 in ends


def python(code: str) -> subprocess.CompletedProcess:
    """A process, started as `python -m` starts one, that handles Ctrl-C and can `press` it itself."""
    begin = "from dive.cli.interrupts import Interrupts\ninterrupts = Interrupts()\ninterrupts.begin()\n"
    press = "def press(): os.kill(os.getpid(), signal.SIGINT)\n"
    Path("program.py").write_text(HERE + begin + press + code)
    return subprocess.run([sys.executable, "-m", "program"], capture_output=True, text=True, timeout=30)


TIDYING = """
try:
    try:
        press()
        time.sleep(5)
    finally:
        for _ in range({more}):
            press()
            time.sleep(0.01)
        print("tidied", flush=True)
except KeyboardInterrupt:
    print(interrupts.count)
"""


def test_a_second_ctrl_c_does_not_break_off_the_tidying():
    done = python(TIDYING.format(more=1))
    assert (done.returncode, done.stdout, done.stderr) == (0, "tidied\n2\n", "")


def test_a_third_ctrl_c_ends_a_process_that_cannot_tidy():
    done = python(TIDYING.format(more=2))
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


# Python prints and drops an exception that leaves a finaliser.
DROPPED = """
class Callback:
    def __del__(self):
        press()
        sum(range(1000))
def happens():
    Callback()
"""
WAITING = """
try:
    happens()
    for _ in range(100):
        time.sleep(0.05)
except KeyboardInterrupt:
    print("raised")
"""


def test_ctrl_c_in_a_finaliser_where_python_would_forget_it_still_ends_the_command():
    done = python(DROPPED + WAITING)
    assert (done.stdout, done.stderr) == ("raised\n", "")


CONVERTED = """
def happens():
    try:
        press()
        time.sleep(5)
    except KeyboardInterrupt:
        sys.excepthook(ImportError, ImportError("failed"), None)  # as PyErr_Print does
"""


def test_ctrl_c_of_which_c_code_makes_an_import_error_still_ends_the_command():
    done = python(CONVERTED + WAITING)
    assert (done.stdout, done.stderr) == ("raised\n", "")


FAILS_AFTER_IT = """
from dive import cli
from dive.cli import group
def run(words):
    happens()
    raise RuntimeError("caused by it")
def slowly(line):
    tell(line)
    time.sleep(0.05)
tell, cli._tell, group.run = cli._tell, slowly, run
cli.main()
"""


def test_ctrl_c_in_a_finaliser_and_then_an_error_are_one_line():
    done = python(DROPPED + FAILS_AFTER_IT)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", LINE)


def test_ctrl_c_in_a_finaliser_at_the_end_of_the_command_does_not_end_the_process_by_a_signal():
    # The interpreter does this to a signal with a handler in Python as it ends.
    ended = "happens()\ninterrupts.end()\nsignal.signal(signal.SIGALRM, signal.SIG_DFL)\ntime.sleep(0.05)\n"
    done = python(DROPPED + ended + "print('done')\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_another_error_in_a_finaliser_is_still_shown():
    done = python("class Callback:\n    def __del__(self):\n        1 / 0\nCallback()\n")
    assert "ZeroDivisionError" in done.stderr


def test_ctrl_c_within_exec_leaves_the_exit_code_as_it_is_set():
    code = "try:\n    exec('press(); time.sleep(5)')\nexcept KeyboardInterrupt:\n    sys.exit(130)\n"
    assert python(code).returncode == 130


@pytest.mark.parametrize("at", ["", "import atexit\natexit.register(lambda: (press(), time.sleep(0.01)))\n"])
def test_ctrl_c_when_the_command_is_over_changes_nothing(at):
    done = python(f"{at}interrupts.end()\npress()\ntime.sleep(0.01)\nprint('done')\n")
    assert (done.returncode, done.stdout, done.stderr) == (0, "done\n", "")


def test_a_forked_worker_leaves_ctrl_c_to_its_parent():
    code = "child = os.fork()\nif not child:\n    press()\n    time.sleep(0.01)\n    os._exit(7)\n"
    done = python(code + "print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))\n")
    assert (done.stdout, done.stderr) == ("7\n", "")


def test_a_process_started_to_ignore_ctrl_c_ignores_it():
    ignoring = "signal.signal(signal.SIGINT, signal.SIG_IGN)\ninterrupts = Interrupts()\ninterrupts.begin()\n"
    assert python(ignoring + "press()\ntime.sleep(0.01)\nprint('on')\n").stdout == "on\n"
