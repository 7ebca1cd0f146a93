"""What a worker process does first, whichever library started it."""

import multiprocessing
import os
import signal
import threading


def begin_worker() -> None:
    """Ignore Ctrl-C, which the parent handles, and end this process as soon as the parent has ended.

    Call this first in a process that multiprocessing started.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()

    def end_with_parent() -> None:
        if parent is not None:
            parent.join()
        os._exit(1)

    threading.Thread(target=end_with_parent, daemon=True).start()
