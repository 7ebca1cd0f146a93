"""The ranks of an export that torchrun starts: their shares and their errors. They never meet."""

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

_ANOTHER_MAY_TELL = 1.5  # seconds, in which torchrun ends this rank where rank 0 fails too


def share_of(shard: tuple[int, int] | None, world: World) -> Share | None:
    """The share that is asked for, or a rank's; None where one process does all. Raises DiveError."""
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
    """What tells one start of torchrun from another, its restarts of ranks aside; None for one process.

    On one machine its process; on several the name and place that it was given (--rdzv-id, --rdzv-endpoint).
    """
    if world.size == 1:
        return None
    if world.local_size == world.size:
        return f"process {os.getppid()} {_started(os.getppid())}".rstrip()
    return f"{os.environ.get('TORCHELASTIC_RUN_ID')} at {os.environ['MASTER_ADDR']}"


def _started(process: int) -> str:
    """When a process was started, in ticks since the machine was: its number may be used again."""
    try:
        return "of " + Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[19]
    except OSError:  # no such files on this system
        return ""


def is_left_to_first(out: Path, force: bool, world: World) -> bool:
    """Whether a rank has nothing to do because the cache is finished: rank 0 says what is to be said of it.

    Raises OutputError on rank 0 where it cannot know which of two caches this is.
    """
    restarted = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"
    if world.size == 1 or not out.exists() or is_begun(out) or (force and not restarted):
        return False
    if world.first and force:
        raise OutputError(
            f"{out} is there: it was finished, or not yet begun, when torchrun started anew; look"
        )
    return not world.first


@contextmanager
def one_voice(world: World) -> Iterator[None]:
    """Let the error of rank 0 be told where all ranks have the same: the others wait a moment with theirs.

    torchrun ends them then. What befalls one rank alone is told with its number. Ranks that do not meet
    cannot agree on who tells it.
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
