"""How the processes that torchrun started find each other: a store of keys that all of them reach.

The store outlives the processes where torchrun starts them again, and its keys are still there then. So they
agree on a prefix of their own first, which no process of an earlier attempt knows. No torch until then.
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

PATIENCE = timedelta(minutes=10)  # for all to be there: they import torch, from a slow disk perhaps
A_WORD = timedelta(seconds=60)  # for the same where a process has nothing left to do but tell an error
TOLD = "told"  # the key that is there once a process has told an error
_EVERY_SECONDS = 0.02  # that the first process looks who is there
_AGENT = "TORCHELASTIC_USE_AGENT_STORE"  # whether torchrun itself keeps the store


class Unmet(DiveError):
    """The processes of a command did not find each other."""


_met: "Store | None" = None
_apart = False  # whether this process does its part without ever meeting the others


@contextmanager
def apart() -> Iterator[None]:
    """Within it, and after an error in it, this process does not meet others: each tells its own errors."""
    global _apart
    _apart = True
    yield
    _apart = False


def meet(patience: timedelta = PATIENCE) -> "Store":
    """The store of the processes that run now; returns when all of them have called it.

    Raises DiveError where they do not within `patience`.
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
    """torchrun's store; without an agent the first process keeps one."""
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
    """Wait until somebody listens there; raises TimeoutError. torch's own way prints of every attempt."""
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
    """Tell the prefix to whoever says hello, until each has confirmed it.

    A hello may be of a process of an earlier attempt: a later one of the same rank is answered too.
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
            raise TimeoutError(f"process {min(missing)} did not come")
        time.sleep(_EVERY_SECONDS)
    return chosen


def _be_welcomed(store: "Store", patience: timedelta) -> str:
    """The prefix that the first process chose."""
    rank, own = this_world().rank, uuid.uuid4().hex
    store.set(f"dive/hello/{rank}", own)
    store.wait([f"dive/welcome/{own}"], patience)
    chosen: str = store.get(f"dive/welcome/{own}").decode()
    store.set(f"dive/confirmed/{chosen}/{rank}", "")
    return chosen


def first_to_tell(all_have_it: bool = False) -> bool:
    """Whether this process is the first that has an error to tell; the others are silent then.

    all_have_it: what happened to each of them, as Ctrl-C does; those that have not met, or never do, leave
    it to process 0. True in a process alone.
    """
    world = this_world()
    if world.size == 1:
        return True
    if all_have_it and (_apart or _met is None):
        return world.first
    if _apart or (_met is None and world.first):  # nobody else can have told one yet
        return True
    try:
        store = meet(A_WORD)
        _wait_for_store(timedelta())
        return bool(store.add(TOLD, 1) == 1)
    except (Unmet, TimeoutError, RuntimeError):  # the first process has ended, with an error of its own
        return False
