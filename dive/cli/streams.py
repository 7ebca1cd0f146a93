"""The standard streams of a process: open, and able to take any text.

A process may be started with stdin, stdout or stderr closed. The next file that it opens would then get that
descriptor, and printed text would be written into a result.
"""

import io
import os
import sys

from dive.world import this_world


def prepare() -> None:
    """Open /dev/null for closed standard streams, and let stdout replace characters it cannot encode.

    Of several processes of one command, only the first has a standard output. Call this before anything else
    is opened.
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
        sys.stdout.reconfigure(errors="replace")  # such as τ or letters of class names


def settle() -> OSError | None:
    """Flush stdout and stderr; returns the first error, or None if everything was written.

    A stream that cannot be written to is redirected to /dev/null. The interpreter flushes again when it ends,
    and would report the error.
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
    """Open /dev/null as the given descriptor, for this process and those that it starts."""
    handle = os.open(os.devnull, os.O_RDWR)
    if handle == number:
        os.set_inheritable(number, True)
    else:
        os.dup2(handle, number)
        os.close(handle)
