"""The standard streams of a process: there, and able to take any text.

A process may be started with stdin, stdout or stderr closed. The next file it opens then gets that
number, and what is printed lands in a result.
"""

import io
import os
import sys

from dive.world import this_world


def prepare() -> None:
    """Put /dev/null where a standard stream is closed, and let stdout take letters it does not know.

    Of several processes of one command the first alone has a standard output. To be called before anything
    else is opened.
    """
    for number, (name, mode) in enumerate((("stdin", "r"), ("stdout", "w"), ("stderr", "w"))):
        try:
            os.fstat(number)
        except OSError:
            _to_null(number)
        if getattr(sys, name) is None:
            setattr(sys, name, open(number, mode, encoding="utf-8", closefd=False))
    if not this_world().first:
        _to_null(1)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace")  # τ and class names in a terminal without such letters


def settle() -> OSError | None:
    """Write out what stdout and stderr still hold; the first error, None if all of it is written.

    A stream that cannot be written to is pointed at /dev/null, so that the interpreter, which tries
    again when it ends, has nothing to complain about.
    """
    errors = []
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError as error:
            errors.append(error)
            _to_null(stream.fileno())
    return errors[0] if errors else None


def _to_null(number: int) -> None:
    """Open /dev/null under a descriptor's number, for this process and those it starts."""
    handle = os.open(os.devnull, os.O_RDWR)
    if handle == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(handle, number)
        os.close(handle)
