"""The processes that run one command together: how many there are, and which one this is.

torchrun states this in environment variables. A single process is a world of size one. This module does not
import torch.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from dive import notation
from dive.errors import DiveError

_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
_MEETING = ("MASTER_ADDR", "MASTER_PORT")  # what a process also needs to find the others


@dataclass(frozen=True)
class World:
    """The processes that run one command together.

    rank: number of this process, from 0. size: number of processes on all machines. local_rank, local_size:
    the same among the processes of this machine.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    local_size: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes results and prints progress."""
        return self.rank == 0

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> "World":
        """The world that torchrun describes in environment variables; one process if they are not all set.

        Raises DiveError if their values are not numbers, or contradict each other.

        >>> World.of({"PATH": "/bin"})
        World(rank=0, size=1, local_rank=0, local_size=1)
        """
        if not all(name in environment for name in (*_VARIABLES, *_MEETING)):
            return cls()
        try:
            world = cls(*(notation.whole(environment[name]) for name in _VARIABLES))
        except ValueError:
            world = cls(size=0)
        if not (0 <= world.rank < world.size and 0 <= world.local_rank < world.local_size <= world.size):
            told = ", ".join(f"{name}={environment[name][:20]}" for name in _VARIABLES)
            raise DiveError(
                f"{told} in the environment are not valid; start dive with torchrun, or unset them"
            )
        return world


def started_again() -> bool:
    """Whether torchrun started this process to replace one that failed or was ended."""
    return this_world().size > 1 and os.environ.get("TORCHELASTIC_RESTART_COUNT", "0") != "0"


def this_world() -> World:
    """The world that this process is in."""
    return World.of(os.environ)
