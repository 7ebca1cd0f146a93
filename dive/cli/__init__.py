"""The process of the `dive` command: its standard streams, Ctrl-C, errors as one line, and exit codes.

Before `main` runs, this module imports only what the interpreter has loaded already, so that a Ctrl-C
during the imports is handled too. The commands are in the modules beside this one.
"""

import os
import sys
import time

INTERRUPTED = 130
MOST_CHARACTERS = 4000  # of a message; the longest path has about as many
LAST_SECONDS = 5.0  # that a process whose peers are gone waits to be ended
_RESUMED_WITHOUT_FORCE = ("teacher", "student", "export-logits", "convert", "merge-caches", "import-logits")
_OUT_OF_MEMORY = (
    "out of memory; try a larger schedule.accumulate, a smaller schedule.batch_size or views.size, "
    "fewer --views, or --device cpu"
)


def main() -> None:
    """Run the command line and exit; a user's mistake never shows a traceback."""
    try:
        try:
            code = _run()
        except KeyboardInterrupt:
            code = _interrupted_early()
    except KeyboardInterrupt:  # a second one, while the first is handled
        code = _interrupted_early()
    if _has_met_peers():
        # When the interpreter ends, torch's threads wait for processes that are gone. Occasionally a thread
        # that still runs then aborts this process (SIGABRT), and a finished run looks like a failed one.
        os._exit(code)
    sys.exit(code)


def _run() -> int:
    from dive.cli.interrupts import Interrupts

    interrupts = Interrupts()
    try:
        interrupts.begin()
        from dive.cli import streams

        streams.prepare()
        if _has_peers():  # torch, imported later, would print a trace when one of them is gone
            os.environ.setdefault("TORCH_CPP_LOG_LEVEL", "ERROR")
        from dive.cli.group import run

        code = run(sys.argv[1:])
        if error := streams.settle():
            raise error
        return code
    except BaseException as error:
        # Errors that Ctrl-C causes while the stack unwinds are not reported.
        if interrupts.count or isinstance(error, KeyboardInterrupt):
            interrupts.end()  # one that is raised again from here on would print the line twice
            return _interrupted()
        reported = _report(error)
        if reported is None:
            raise
        return reported
    finally:
        interrupts.end()


def _interrupted_early() -> int:
    """Handle a Ctrl-C in the first milliseconds, before a handler was installed; returns the exit code."""
    import signal

    signal.signal(signal.SIGINT, signal.SIG_IGN)
    return _interrupted()


def _interrupted() -> int:
    if _speaks(all_have_it=True):
        forced = "--force" in sys.argv and sys.argv[1] in _RESUMED_WITHOUT_FORCE
        same = "the same command" + " without --force" * forced
        _tell(f"interrupted; {same} resumes from its last saved state, or starts again")
    return INTERRUPTED


def _report(error: BaseException) -> int | None:
    """Print an error for the user; returns the exit code, or None if it is a defect of dive.

    Of several processes of one command, the first that has an error prints it. A process whose peers are gone
    reports that only if no process has reported an error by the time that torchrun ends the remaining ones.
    """
    from dive.cli import streams
    from dive.errors import PeerError
    from dive.peers import Unmet

    unwritten = streams.settle()
    if isinstance(error, PeerError):
        # torchrun names the process that ended first as the cause. This one must not be the first.
        time.sleep(LAST_SECONDS)
    code, lines = _explained(error, unwritten)
    if lines and (isinstance(error, Unmet) or _speaks()):
        for line in lines:
            _complain(line)
    return code


def _explained(error: BaseException, unwritten: OSError | None) -> tuple[int | None, tuple[str, ...]]:
    """The exit code of an error and the lines to print; the code is None if it is a defect of dive."""
    import click

    from dive.errors import DiveError
    from dive.printable import shortened

    if isinstance(error, click.ClickException):
        context = getattr(error, "ctx", None)
        hint = f" (see {context.command_path} --help)" if context else ""
        return error.exit_code, (_on_one_line(error.format_message()) + hint,)
    if isinstance(error, DiveError):
        return error.exit_code, error.messages
    if isinstance(error, BrokenPipeError):
        return 1, ()  # the reader of the output has closed it
    if _out_of_memory(error):
        return 1, (_OUT_OF_MEMORY,)
    if isinstance(error, OSError):
        where = shortened(str(error.filename or ""), 300) or ("standard output" if unwritten else "")
        return 1, (_on_one_line(str(error.strerror or error)) + (f" ({where})" if where else ""),)
    return None, ()


def _has_peers() -> bool:
    """Whether other processes run this command too."""
    from dive.errors import DiveError
    from dive.world import this_world

    try:
        return this_world().size > 1
    except DiveError:  # the variables that describe them are invalid: this is reported
        return False


def _has_met_peers() -> bool:
    """Whether this process is connected to others."""
    from dive.peers import has_met

    return has_met()


def _speaks(all_have_it: bool = False) -> bool:
    """Whether this process reports the command's error; see `first_to_tell`."""
    if not _has_peers():
        return True
    from dive.peers import first_to_tell

    return first_to_tell(all_have_it)


def _out_of_memory(error: BaseException) -> bool:
    """Whether Python, a GPU's allocator or torch's on the CPU ran out of memory."""
    if not isinstance(error, MemoryError | RuntimeError):
        return False
    named = type(error).__name__ in ("MemoryError", "OutOfMemoryError")
    return named or "can't allocate memory" in str(error)


def _on_one_line(text: str) -> str:
    """A library's message, which may have several lines, on one line."""
    return " ".join(text.split())


def _complain(message: str) -> None:
    from dive.printable import printable, shortened

    _tell(shortened(printable(message), MOST_CHARACTERS))


def _tell(line: str) -> None:
    if sys.stderr is None:
        return
    try:
        print(f"dive: {line}", file=sys.stderr, flush=True)
    except OSError:
        pass  # stderr has no reader
