"""The shares and errors of the ranks of an export under torchrun. The ranks do not communicate."""

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
    """The share given by --shard, or that of a rank; None if one process exports all. Raises DiveError."""
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
    """Identifies a start of torchrun, the same after it restarts its ranks; None for one process.

    On one machine, the process of torchrun; on several, its run id and endpoint (--rdzv-id, --rdzv-endpoint).
    """
    if world.size == 1:
        return None
    if world.local_size == world.size:
        return f"process {os.getppid()} {_started(os.getppid())}".rstrip()
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} at {os.environ['MASTER_ADDR']}"


def _started(process: int) -> str:
    """When a process was started, in clock ticks since boot, because process numbers are reused."""
    try:
        return "of " + Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no such files on this system
        return ""


def is_left_to_first(out: Path, force: bool, world: World) -> bool:
    """Whether the cache is finished, so that only rank 0 goes on, to report it.

    Raises OutputError on rank 0 if it cannot know whether the cache is the earlier or the new one.
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
    """Print an error that all ranks have only once, on rank 0: the others wait a moment before they raise it.

    torchrun ends them meanwhile. An error of one rank alone is raised with the number of that rank. The ranks
    do not communicate, so they cannot agree on who reports an error.
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
