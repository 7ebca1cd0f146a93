"""Training as the benchmarks call it: step by step, or epoch by epoch."""

from pathlib import Path

import numpy as np

from dive.randomness import epoch_order
from dive.training.device import Runtime
from dive.training.journal import Journal
from dive.training.loop import Evaluation, Learner
from dive.training.step import Step, Task

RATE = 0.01


class Stepping:
    """Call it for one step; a new epoch begins by itself, outside the time of a GPU's step."""

    def __init__(self, task: Task, runtime: Runtime) -> None:
        self._task, self.step = task, Step(task, runtime)
        self._epoch, self._at = 0, 0
        self._cpu = runtime.device.type == "cpu"
        self.begin()

    def begin(self) -> None:
        """Begin the next epoch."""
        self._epoch += 1
        task = self._task
        order = epoch_order(0, self._epoch, task.hashes)
        ids, columns = task.views.draw(0, self._epoch, task.hashes)
        plan = np.stack([order, ids[order], columns[order]])
        self.step.begin(plan, [RATE] * task.steps_per_epoch)
        self._at = 0

    def __call__(self) -> None:
        """The next step of full size; on a CPU its loss is read, as the training loop does."""
        if self._at >= self._task.steps_per_epoch - 1:
            self.begin()
        self.step.advance()
        if self._cpu:
            self.step.losses[self._at].item()
        self._at += 1


class Epochs:
    """Call it for one epoch of the training loop, with everything that belongs to one."""

    def __init__(self, task: Task, runtime: Runtime, out: Path) -> None:
        self.learner = Learner(task, runtime, Journal(out), Evaluation(lambda _: 0.0), None)

    def __call__(self) -> None:
        """Train for one epoch."""
        self.learner.begin_epoch()
        for step in range(self.learner.task.steps_per_epoch):
            self.learner.advance()
            self.learner.status(step)
        self.learner.plan_ahead()
        self.learner.wait()
        self.learner.end_epoch()
