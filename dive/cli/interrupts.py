"""Ctrl-C while a command runs: the command ends in order, once.

The first Ctrl-C raises KeyboardInterrupt, and the stack unwinds: files are tidied up and locks are released.
The second is ignored, because it would interrupt the unwinding. The third ends the process at once, in case
the unwinding is blocked.
"""

import atexit
import os
import signal
import sys
from types import FrameType, TracebackType

RAISE_AGAIN_AFTER = 0.01  # seconds


class Interrupted(KeyboardInterrupt):
    """Ctrl-C.

    If a KeyboardInterrupt passes through `exec`, which a `namedtuple` in an imported module calls, Python
    ends the process by a signal in the end, although the exception was handled. It does not do so for a
    subclass.
    """


class Interrupts:
    """The handling of SIGINT from `begin` on; after `end`, Ctrl-C raises nothing.

    count: how often Ctrl-C was pressed.
    """

    def __init__(self) -> None:
        self.count = 0
        self._active = False
        self._process = os.getpid()
        self._hooks = sys.excepthook, sys.unraisablehook

    def begin(self) -> None:
        """Handle SIGINT, unless this process was started to ignore it, as `nohup` and `&` in scripts do."""
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            return
        self._active = True
        signal.signal(signal.SIGINT, self._pressed)
        sys.excepthook, sys.unraisablehook = self._printed, self._swallowed
        # Handlers run in reverse order of registration: no code of dive runs after this one.
        atexit.unregister(_ignore)
        atexit.register(_ignore)

    def end(self) -> None:
        """Stop raising: the command is over, and the little that is left must not be interrupted."""
        self._active = False
        sys.excepthook, sys.unraisablehook = self._hooks
        # As the interpreter ends, it removes the handler, and without one the signal would end the process.
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _pressed(self, number: int, frame: FrameType | None) -> None:
        if os.getpid() != self._process:
            return  # a forked worker: it ends with its parent, which got the signal too
        self.count += 1
        if self.count > 1:
            signal.signal(signal.SIGINT, signal.SIG_DFL)
        elif self._active:
            raise Interrupted

    def _raise(self, number: int, frame: FrameType | None) -> None:
        if self._active:
            raise Interrupted

    # An exception cannot leave a callback or finaliser that Python runs, or an import made by C code: it is
    # printed and then dropped. A KeyboardInterrupt that is dropped there is raised again a moment later.

    def _swallowed(self, unraisable: "sys.UnraisableHookArgs") -> None:
        if issubclass(unraisable.exc_type, KeyboardInterrupt):
            self._raise_again()
        else:
            self._hooks[1](unraisable)

    def _printed(self, kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
        # After Ctrl-C it may be an ImportError that C code made of the KeyboardInterrupt, as numpy does.
        if self.count or issubclass(kind, KeyboardInterrupt):
            self._raise_again()
        else:
            self._hooks[0](kind, error, trace)

    def _raise_again(self) -> None:
        signal.signal(signal.SIGALRM, self._raise)
        signal.setitimer(signal.ITIMER_REAL, RAISE_AGAIN_AFTER)


def _ignore() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
