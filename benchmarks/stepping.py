"""Training for the benchmarks: step by step, or epoch by epoch."""

import numpy as np

from benchmarks.scene import Student
from dive.models.network import Network
from dive.randomness import epoch_order
from dive.training.device import Runtime
from dive.training.evaluation import Accuracy
from dive.training.loop import Run
from dive.training.step import Step

RATE = 0.01


class Stepping:
    """Each call makes one step, and begins a new epoch first if the last one has ended."""

    def __init__(self, student: Student, runtime: Runtime) -> None:
        self.spec = student.spec
        self.step = Step(student.spec, student.network, student.inputs, runtime)
        self._epoch, self._at = 0, 0
        self._cpu = runtime.device.type == "cpu"
        self.begin()

    def begin(self) -> None:
        """Begin the next epoch."""
        self._epoch += 1
        spec = self.spec
        order = epoch_order(0, self._epoch, spec.hashes)
        ids, columns = spec.views.draw(0, self._epoch, spec.hashes)
        plan = np.stack([order, ids[order], columns[order]])
        self.step.begin(plan, [RATE] * spec.steps_per_epoch)
        self._at = 0

    def __call__(self) -> None:
        """Make the next step of full size; on a CPU read its loss, as the training loop does."""
        if self._at >= self.spec.steps_per_epoch - 1:
            self.begin()
        self.step.advance()
        if self._cpu:
            self.step.losses[self._at].item()
        self._at += 1


def not_evaluated(network: Network) -> Accuracy:
    """A stand-in for the evaluation, which no benchmark times."""
    return Accuracy(many=None, medium=None, few=None, all=0.0, class_mean=0.0, per_class=())


def run_of(student: Student, runtime: Runtime) -> Run:
    """A run of the training loop."""
    return Run(student.spec, student.network, student.inputs, runtime, not_evaluated)


class Epochs:
    """Each call runs one epoch of the training loop, in all its phases."""

    def __init__(self, student: Student, runtime: Runtime) -> None:
        self.run = run_of(student, runtime)

    def __call__(self) -> None:
        """Train for one epoch."""
        self.run.begin_epoch()
        for step in range(self.run.spec.steps_per_epoch):
            self.run.advance()
            self.run.status(step)
        self.run.plan_ahead()
        self.run.wait()
        self.run.end_epoch()
