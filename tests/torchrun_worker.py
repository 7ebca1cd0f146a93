"""`dive`, as torchrun starts it in tests: one rank may end at a chosen step of the first attempt.

DIVE_TEST_KILL: `rank:step`, both numbers; the process of that rank gets SIGKILL just before that step. The
state is saved after every epoch.
"""

import atexit
import math
import os
import signal

from dive.cli import main
from dive.training import loop
from dive.training.step import Step
from dive.world import this_world


def strike(rank: int, step: int) -> None:
    """Let this process end just before a step, counted from 1, if it is of that rank."""
    real, calls = Step.advance, []

    def counted(self: Step) -> None:
        calls.append(1)
        if len(calls) == step:
            os.kill(os.getpid(), signal.SIGKILL)
        real(self)

    if this_world().rank == rank:
        Step.advance = counted


atexit.register(os.abort)  # what torch's threads do there now and then: dive must have ended before
loop.SAVING_SHARE = math.inf
if (kill := os.environ.get("DIVE_TEST_KILL")) and os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
    strike(*map(int, kill.split(":")))
main()
