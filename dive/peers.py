"""How the processes that torchrun started find each other: by a key-value store that all of them reach.

If torchrun restarts the processes, the store still has the keys of the earlier attempt. The processes
therefore first agree on a prefix that no process of an earlier attempt knows. torch is imported only then.
"""

import os
import socket
import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from dive.errors import DiveError
from dive.world import this_world

if TYPE_CHECKING:
    from torch.distributed import Store

PATIENCE = timedelta(minutes=10)  # for all to connect: they import torch first, perhaps from a slow disk
A_WORD = timedelta(seconds=60)  # for the same, if a process only has an error left to report
TOLD = "told"  # the key that exists once a process has reported an error
_EVERY_SECONDS = 0.02  # between two attempts, or two looks at the store
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # the variable that is "True" if torchrun itself runs the store


class Unmet(DiveError):
    """The processes of a command did not find each other."""


_met: "Store | None" = None
_apart = False  # whether this process does its part without meeting the others


@contextmanager
def apart() -> Iterator[None]:
    """Within it, and after an error in it, this process meets no others and reports its own errors."""
    global _apart
    _apart = True
    yield
    _apart = False


def meet(patience: timedelta = PATIENCE) -> "Store":
    """The store of the processes that run now; returns when all of them have called this function.

    Raises DiveError if they have not within `patience`.
    """
    global _met
    if _met is None:
        from torch.distributed import DistError, PrefixStore

        agree = _welcome_all if this_world().first else _be_welcomed
        try:
            store = _store(patience)
            _met = PrefixStore(f"dive/{agree(store, patience)}", store)
        except (DistError, TimeoutError) as error:
            raise Unmet(
                f"the processes that torchrun started did not all meet within {patience} ({error}); is dive "
                "started on every machine, and does each reach the address that torchrun was given?"
            ) from error
    return _met


def has_met() -> bool:
    """Whether this process has met the others."""
    return _met is not None


def _store(patience: timedelta) -> "Store":
    """torchrun's store, or one that the first process runs if torchrun has none."""
    from torch.distributed import TCPStore

    keeps = this_world().first and os.environ.get(_AGENT) != "True"
    if not keeps:
        _wait_for_store(patience)
    return TCPStore(
        os.environ["MASTER_ADDR"],
        int(os.environ["MASTER_PORT"]),
        is_master=keeps,
        timeout=patience,
        wait_for_workers=False,
        multi_tenant=True,
    )


def _wait_for_store(patience: timedelta) -> None:
    """Wait until the store accepts connections; raises TimeoutError. torch would print every attempt."""
    host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    end = time.monotonic() + patience.total_seconds()
    while True:
        try:
            socket.create_connection((host, port), timeout=5).close()
            return
        except OSError as error:
            if time.monotonic() > end:
                raise TimeoutError(f"nobody listens on port {port} of {host}") from error
            time.sleep(_EVERY_SECONDS)


def _welcome_all(store: "Store", patience: timedelta) -> str:
    """Choose a prefix and send it to every rank that says hello, until all have confirmed it.

    A hello may come from a process of an earlier attempt, so a later one of the same rank is answered too.
    """
    chosen = uuid.uuid4().hex
    end = time.monotonic() + patience.total_seconds()
    answered: dict[int, bytes] = {}
    missing = set(range(1, this_world().size))
    while missing:
        for rank in sorted(missing):
            if store.check([f"dive/confirmed/{chosen}/{rank}"]):
                missing.discard(rank)
            elif store.check([f"dive/hello/{rank}"]):
                hello = store.get(f"dive/hello/{rank}")
                if answered.get(rank) != hello:
                    store.set(f"dive/welcome/{hello.decode()}", chosen)
                    answered[rank] = hello
        if time.monotonic() > end:
            raise TimeoutError(f"process {min(missing)} did not connect")
        time.sleep(_EVERY_SECONDS)
    return chosen


def _be_welcomed(store: "Store", patience: timedelta) -> str:
    """Say hello, wait for the prefix that the first process chose, and confirm it."""
    rank, own = this_world().rank, uuid.uuid4().hex
    store.set(f"dive/hello/{rank}", own)
    store.wait([f"dive/welcome/{own}"], patience)
    chosen: str = store.get(f"dive/welcome/{own}").decode()
    store.set(f"dive/confirmed/{chosen}/{rank}", "")
    return chosen


def first_to_tell(all_have_it: bool = False) -> bool:
    """Whether this process is the first that has an error to report; the others are silent then.

    all_have_it: whether all processes have this error, as after Ctrl-C. Then process 0 reports it if this
    process has not met the others, or never does. A single process always reports its error.
    """
    world = this_world()
    if world.size == 1:
        return True
    if all_have_it and (_apart or _met is None):
        return world.first
    if _apart or (_met is None and world.first):  # no other process can have reported one yet
        return True
    try:
        store = meet(A_WORD)
        _wait_for_store(timedelta())
        return bool(store.add(TOLD, 1) == 1)
    except (Unmet, TimeoutError, RuntimeError):  # the first process has ended, with its own error
        return False
