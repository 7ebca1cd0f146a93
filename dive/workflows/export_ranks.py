"""The ranks of an export that torchrun starts: their shares and their errors.

The ranks open no connection to each other; they communicate only through files.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from dive import peers
from dive.cache.shards import Share
from dive.errors import DiveError, OutputError
from dive.workflows.merge_shards import is_begun
from dive.world import World

_ANOTHER_MAY_TELL = 1.5  # seconds; if rank 0 fails too, torchrun ends this rank within them


def share_of(shard: tuple[int, int] | None, world: World) -> Share | None:
    """The share of this process: the requested shard, or that of its rank. None if one process exports all.

    shard: (k, n), from 1. Raises DiveError if it is out of range, or given under torchrun.
    """
    if shard is None:
        return Share(world.rank + 1, world.size) if world.size > 1 else None
    number, of = shard
    if not 1 <= number <= of:
        raise DiveError(f"--shard {number}/{of}: shards are counted from 1/N to N/N")
    if world.size > 1:
        raise DiveError(
            f"--shard {number}/{of}: torchrun gives each of its ranks a shard; give one of the two"
        )
    return Share(number, of)


def launch_of(world: World) -> str | None:
    """A text that identifies this start of torchrun; None for a single process.

    On one machine, the process of torchrun; on several, its run id (--rdzv-id) and the address of the machine
    of rank 0.
    """
    if world.size == 1:
        return None
    if world.local_size == world.size:
        return f"process {os.getppid()} {_started(os.getppid())}".rstrip()
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} at {os.environ['MASTER_ADDR']}"


def _started(process: int) -> str:
    """The start time of a process, in clock ticks since boot, because process numbers are reused.

    Empty on systems without /proc.
    """
    try:
        return "of " + Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no such files on this system
        return ""


def is_left_to_first(out: Path, force: bool, world: World) -> bool:
    """Whether this rank has nothing to do because the cache is finished; rank 0 then reports on it.

    Raises OutputError on rank 0 if, after a restart with `force`, it cannot know whether the cache is the new
    one or the one to replace.
    """
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if world.size == 1 or not out.exists() or is_begun(out) or (force and not restarted):
        return False
    if world.first and force:
        raise OutputError(
            f"{out} exists: before torchrun restarted, it was either finished or not begun yet; check which, "
            "and if it is the earlier one, start torchrun again with --force"
        )
    return not world.first


@contextmanager
def one_voice(world: World) -> Iterator[None]:
    """A context in which an error that all ranks have is reported once, by rank 0.

    The other ranks delay their errors, and torchrun ends them before they report, if rank 0 fails too. An
    error of one rank only is reported with the number of the rank. The ranks are not connected and so cannot
    agree on which of them reports.
    """
    try:
        with peers.apart():
            yield
    except DiveError as error:
        if world.first:
            raise
        time.sleep(_ANOTHER_MAY_TELL)
        error.args = (f"rank {world.rank}: {error}",)
        raise
