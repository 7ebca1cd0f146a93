"""The training loop: one for teacher and student, one run or several at once.

The order and the views of an epoch are functions of (seed, epoch), so a run that is stopped and
resumed takes the same steps as an uninterrupted one. On a CPU, with the same threads and precision,
its weights are the same bit for bit. On CUDA they are only with torch's deterministic algorithms,
because some kernels add in no fixed order.
"""

import contextlib
import math
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any

import numpy as np
import torch

from dive.errors import ModelError, OutputError, TrainingError
from dive.models.network import Network
from dive.models.registry import network_versions
from dive.progress import Bar, Progress
from dive.randomness import epoch_order
from dive.training import diverged
from dive.training.device import Runtime
from dive.training.draws import network_draws
from dive.training.evaluation import Accuracy, Evaluator
from dive.training.pace import SAVING_SHARE, SavingPace
from dive.training.ranks import ALONE, Ranks
from dive.training.saved_state import EpochRecord, Journal, Listener, SavedState, worlds_with
from dive.training.schedule import rates_of
from dive.training.spec import RunSpec
from dive.training.step import Inputs, Step
from dive.versions import versions


class NoRoomTogether(Exception):
    """The device has too little memory for these runs side by side; none of them has taken a step."""


class Run:
    """A run in training: its network, its progress, and its state on disk.

    On CUDA it has its own stream. evaluator: measures it on the test set at the end. validator: the same on
    the validation set, if there is one. eval_every: epochs between evaluations by the validator or, without
    one, by the evaluator; 0 evaluates only at the end. state: that of the stopped run to resume, None for a
    new run. ranks: the processes that train it; the evaluators must have the same. history: the record of
    each epoch done. listeners: called with it whenever it changes. worlds: pairs of an epoch and the number
    of processes from it on. failure: the error that ended the run, None if there is none.
    """

    def __init__(
        self,
        spec: RunSpec,
        network: Network,
        inputs: Inputs,
        runtime: Runtime,
        evaluator: Evaluator,
        eval_every: int = 0,
        state: SavedState | None = None,
        validator: Evaluator | None = None,
        ranks: Ranks = ALONE,
    ) -> None:
        self.spec, self.network, self.runtime, self._ranks = spec, network, runtime, ranks
        self.journal = Journal(spec.out)
        self.history: list[EpochRecord] = [] if state is None else list(state.history)
        self.worlds = worlds_with([] if state is None else state.worlds, self.epoch, ranks.size)
        self._evaluator, self._validator = evaluator, validator
        self._eval_every, self._pace = eval_every, SavingPace()
        self._stream = torch.cuda.Stream(runtime.device) if runtime.device.type == "cuda" else None
        if self._stream is not None:
            self._stream.wait_stream(torch.cuda.current_stream(runtime.device))
        with self.on_stream():
            self._step = Step(spec, network, inputs, runtime, ranks)
            if state is not None:
                self._take_up(state)
        self._plans: dict[int, np.ndarray] = {}
        self._start, self._seconds, self.listeners = 0.0, 0.0, list[Listener]()
        self.failure: TrainingError | None = None

    def _take_up(self, state: SavedState) -> None:
        """Continue from the state of a stopped run; raises OutputError if it does not fit this run."""
        try:
            if state.epochs != self.epochs:
                raise ValueError(f"its run has {state.epochs} epochs, not {self.epochs}")
            self._step.load_state(state.model, state.optimizer)
        except ValueError as error:
            raise OutputError(
                f"{self.journal.state_path} does not fit the run: {error}; --force starts over"
            ) from error

    @property
    def epochs(self) -> int:
        """The number of epochs of the whole run."""
        return self.spec.epochs

    @property
    def finished(self) -> bool:
        """Whether the last epoch is done."""
        return len(self.history) == self.epochs

    def on_stream(self) -> AbstractContextManager[Any]:
        """The context in which this run's work is enqueued on the device."""
        return contextlib.nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    @property
    def epoch(self) -> int:
        """The epoch that is running or comes next, from 1."""
        return len(self.history) + 1

    def prepare(self) -> None:
        """Capture the step as CUDA graphs, if the run is on CUDA and in a single process.

        Raises RuntimeError if the capture fails; the step then runs eagerly.
        """
        if self._stream is not None and self._ranks.alone and not self.finished:
            with self.on_stream():
                self._step.take_plan(self._plan(self.epoch), self._rates_of(self.epoch))
                self._step.capture()

    def begin_epoch(self) -> None:
        """Transfer the next epoch's order, views and learning rates to the device."""
        self._start = time.perf_counter()
        self._rates = self._rates_of(self.epoch)
        with self.on_stream():
            self._step.begin(self._plan(self.epoch), self._rates)

    def _rates_of(self, epoch: int) -> list[float]:
        return rates_of(epoch, self.spec.steps_per_epoch, self.spec.optimizer, self.spec.schedule)

    def _plan(self, epoch: int) -> np.ndarray:
        """The epoch's plan, computed now unless it was planned ahead; plans of other epochs are dropped."""
        plan = self._plans.get(epoch)
        self._plans = {epoch: self._make_plan(epoch) if plan is None else plan}
        return self._plans[epoch]

    def _make_plan(self, epoch: int) -> np.ndarray:
        """The rows of the samples in the epoch's order, their view ids and cache columns: (3, N) int64."""
        spec = self.spec
        order = epoch_order(spec.seed, epoch, spec.hashes)
        ids, columns = spec.views.draw(spec.seed, epoch, spec.hashes)
        return np.stack([order, ids[order], columns[order]])

    def advance(self) -> None:
        """Enqueue the next step of the epoch."""
        where = (self.spec.seed, self.epoch, self._step.done, self._ranks.rank)
        drawn = network_draws(self.runtime.device, *where)
        with self.on_stream(), drawn:
            self._step.advance()

    def status(self, step: int) -> str:
        """Epoch, loss and learning rate after step `step` (from 0) of the running epoch, for a progress bar.

        In a single process on a CPU it is the loss of this step, which ends the run if it is not finite.
        Otherwise it is the loss of the last epoch, so as not to wait for the device or other processes.
        """
        if self._stream is None and self._ranks.alone:
            loss = self._step.losses[step].item()
            if not math.isfinite(loss):
                self.failure = diverged.of_loss(loss, self.epoch, step)
        else:
            loss = self.history[-1].loss if self.history else math.nan
        return f"epoch {self.epoch} · loss {loss:.3f} · lr {self._rates[step]:.3g}"

    def plan_ahead(self) -> None:
        """Compute the plan of the epoch after this one, while the device is still busy."""
        if self.epoch < self.epochs:
            self._plans[self.epoch + 1] = self._make_plan(self.epoch + 1)

    def wait(self) -> None:
        """Wait for the epoch's last step, and take the time of the epoch."""
        if self._stream is not None:
            self._stream.synchronize()
        self._seconds = time.perf_counter() - self._start

    def end_epoch(self) -> None:
        """Add the epoch's record to the history, evaluate and save if it is time; to be called after `wait`.

        A loss that is not finite ends the run instead. Such logits in an evaluation end it unsaved.
        """
        epoch = self.epoch
        with self.on_stream(), self.runtime.computing():
            losses = self._ranks.sum(self._step.losses.cpu()) / self._ranks.size
            correct = int(self._ranks.sum(self._step.correct.cpu()))
            if not torch.isfinite(losses).all():
                step = int((~torch.isfinite(losses)).int().argmax())
                self.failure = diverged.of_loss(losses[step].item(), epoch, step)
                return
            n = len(self.spec.hashes)
            sizes = torch.full_like(losses, self.spec.schedule.batch_size)
            sizes[-1] = self.spec.last_batch
            self.history.append(
                EpochRecord(
                    epoch=epoch,
                    loss=float((losses * sizes).sum() / n),
                    lr=self._rates[-1],
                    seconds=round(self._seconds, 3),
                    train_accuracy=correct / n,
                    image_wait=None if (waited := self._step.image_wait) is None else round(waited, 3),
                )
            )
            if self._eval_every and epoch % self._eval_every == 0:
                name = "test_accuracy" if self._validator is None else "val_accuracy"
                if (accuracy := self._measured(self._validator or self._evaluator)) is None:
                    return
                self._note(**{name: accuracy.all})
            self._note()
            if self._ranks.first and not self.finished and self._pace.due(SAVING_SHARE):
                with self._pace:
                    self.journal.write(self._state())

    def evaluate(self) -> tuple[Accuracy, Accuracy | None] | None:
        """The network's accuracies now, on the test set and on the validation set (None without one).

        They are added to the record of the last epoch. Returns None if the run has failed, or fails here.
        """
        with self.runtime.computing():
            accuracy = None if self.failure else self._measured(self._evaluator)
            if accuracy is None:
                return None
            validation = None if self._validator is None else self._measured(self._validator)
        if self.failure:
            return None
        self._note(test_accuracy=accuracy.all, val_accuracy=validation and validation.all)
        return accuracy, validation

    def _measured(self, evaluator: Evaluator) -> Accuracy | None:
        """The accuracy by an evaluator; None if logits are not finite, which ends the run."""
        self._ranks.share_buffers(self.network)
        try:
            return evaluator(self.network)
        except ModelError as error:
            self.failure = diverged.of_logits(error, len(self.history))
            return None

    def _note(self, **accuracy: Any) -> None:
        """Add accuracies, if any, to the record of the last epoch, and notify the listeners."""
        self.history[-1] = replace(self.history[-1], **accuracy)
        for listener in self.listeners:
            listener(self.history)

    def _state(self) -> SavedState:
        return SavedState(
            identity=self.spec.identity,
            model=self.network.body.state_dict(),
            optimizer=self._step.optimizer.state_dict(),
            history=self.history,
            epochs=self.epochs,
            precision=self.runtime.precision,
            threads=self.runtime.threads,
            worlds=self.worlds,
            versions=versions() | network_versions(self.spec.architecture.name),
        )


def train(runs: Sequence[Run], progress: Progress) -> None:
    """Train runs with equally many steps per epoch to their last epochs, side by side on the device.

    A loss or a logit that is not finite ends only its own run, whose `failure` is then set. Raises
    NoRoomTogether if the device has too little memory for several runs.
    """
    steps = runs[0].spec.steps_per_epoch
    total = sum(run.epochs for run in runs) * steps
    done = sum(len(run.history) for run in runs) * steps
    _capture(runs, progress)
    with progress.bar(runs[0].spec.kind, total, done) as bar:
        while going := [run for run in runs if not run.finished and run.failure is None]:
            _epoch(going, steps, bar)


def _capture(runs: Sequence[Run], progress: Progress) -> None:
    """Capture the steps of all runs; if one fails, warn, and leave it and those after it to run eagerly."""
    try:
        for run in runs:
            run.prepare()
    except RuntimeError as error:
        causes: list[BaseException] = [error]
        while earlier := causes[-1].__context__:  # torch's error on ending the capture hides its cause
            causes.append(earlier)
        if len(runs) > 1 and any(isinstance(cause, torch.OutOfMemoryError) for cause in causes):
            raise NoRoomTogether from error
        reason = str(causes[-1]).partition("\n")[0]
        progress.warn(f"the step could not be captured as a CUDA graph and runs eagerly: {reason}")


def _epoch(runs: Sequence[Run], steps: int, bar: Bar) -> None:
    """One epoch of each run; the host only enqueues steps, and waits at the end."""
    for run in runs:
        run.begin_epoch()
    for step in range(steps):
        for run in runs:
            run.advance()
        bar.advance(len(runs), runs[0].status(step))
        runs = [run for run in runs if run.failure is None]
        if not runs:
            return
    for phase in (Run.plan_ahead, Run.wait, Run.end_epoch):
        for run in runs:
            phase(run)
