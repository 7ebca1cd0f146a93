"""Runs from the first epoch, or from where they were stopped, to finished checkpoints.

Teacher and student are the same run with another objective; this module owns what they share: the
outputs and their locks, resuming, precision, the last evaluation, and what a finished result records.
"""

import contextlib
import gc
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from dive import outputs
from dive.errors import OutputError, TrainingError
from dive.models import checkpoint
from dive.models.network import Network
from dive.models.registry import parameter_count
from dive.progress import Progress, duration
from dive.recipe.documents import differences
from dive.recipe.reading import build
from dive.training.device import Runtime, device_name
from dive.training.evaluation import Accuracy
from dive.training.loop import NoRoomTogether, Run, train
from dive.training.saved_state import EpochRecord, Journal, SavedState
from dive.training.shared import has_batch_norm, synchronise
from dive.training.spec import RunSpec
from dive.training.step import Inputs, inputs_of
from dive.training.tensorboard import logged
from dive.workflows.begin import new_network, runtime_of, try_precisions
from dive.workflows.prepared import Prepared
from dive.workflows.results import (
    INITIAL,
    Result,
    Trained,
    TrainOptions,
    identity_of,
    record_of,
)
from dive.world import started_again

WORTH_TELLING = 0.1  # of a run's time, spent waiting for images


def run(
    specs: Sequence[RunSpec],
    prepared: Prepared,
    options: TrainOptions,
    progress: Progress,
    of_grid: bool = False,
) -> Trained:
    """Train as the specs say and write checkpoint, record and history of each; resume what was stopped.

    The recipes of several may differ in seed and distillation alone. On CUDA they train side by side, as many
    as its memory takes; on a CPU, which one fills, one after the other. Of a grid, one that is finished
    already is kept as it is, and one whose loss is not finite does not stop the others; it is among the
    failures returned. Raises OutputError where another finished result, another process or an unfinished run
    of another recipe is in the way. torch's settings are afterwards as they were.

    Where several processes train together each calls it with the same specs, and gets the same. The first
    of them alone reads and writes outputs.
    """
    with contextlib.ExitStack() as locks:

        def lock() -> None:
            for spec in specs:
                locks.enter_context(outputs.only_writer(spec.out))

        prepared.ranks.from_first(lock)
        return _Runs(prepared, options, progress, of_grid).trained(specs)


def refuse_finished(out: Path, force: bool, reads: Sequence[Path] = ()) -> None:
    """Raise OutputError where a finished result would be replaced without `force`; see `Journal`.

    Not where torchrun started this process again: an earlier one may have finished it.
    """
    if not started_again():
        Journal(out).refuse_finished(force, reads)


class _Runs:
    """What the runs of one command share: the prepared data set, the user's options, and the precision."""

    def __init__(self, prepared: Prepared, options: TrainOptions, progress: Progress, of_grid: bool) -> None:
        self._prepared, self._options, self._progress = prepared, options, progress
        self._keeps_finished = of_grid or started_again()
        self._device, self._ranks = prepared.device, prepared.ranks
        self._runtime: Runtime | None = None

    def trained(self, specs: Sequence[RunSpec]) -> Trained:
        """What became of all of them, in their order."""
        found: dict[Path, Result] = {}
        waiting = []
        for spec in specs:
            kept, state = self._ranks.from_first(partial(self._before, spec))
            if kept is not None:
                self._progress.note(f"{spec.out} is finished already")
                found[spec.out] = kept
            else:
                waiting.append((spec, state))
        together = self._device.type == "cuda" and self._ranks.alone
        groups = deque(filter(None, [waiting] if together else [[one] for one in waiting]))
        failures = []
        while groups:
            group = groups.popleft()
            try:
                results, failed = self._train(group)
            except NoRoomTogether:
                results, failed = [], []
                half = math.ceil(len(group) / 2)
                groups.extendleft((group[half:], group[:half]))
                self._progress.note(f"no memory for {len(group)} students side by side; {half} at a time")
            if not results and not failed:
                gc.collect()  # what they took is in cycles, and the next group needs it
            found |= {result.path: result for result in results}
            failures += failed
        return Trained([found[spec.out] for spec in specs if spec.out in found], failures)

    def _before(self, spec: RunSpec) -> tuple[Result | None, SavedState | None]:
        """What there is of a run already: its result, or where it was stopped.

        A result is kept where it is one of a grid, or may be of a process that torchrun started this one in
        place of.
        """
        keeps = self._keeps_finished and not self._options.force and not _is_being_replaced(spec.out)
        if keeps and (kept := self._finished(spec)):
            Journal(spec.out).tidy()
            return kept, None
        return None, self._stopped(spec)

    def _finished(self, spec: RunSpec) -> Result | None:
        """The result at the run's place, if there is one; raises OutputError where it is another's."""
        if not spec.out.exists():
            return None
        record = checkpoint.load_finished(spec.out)
        del record["model"]
        own = build(record["recipe"], where=str(spec.out))
        facts = {key: record.get(key) for key in {*spec.facts, INITIAL}}
        before = identity_of(own, record["kind"], record["data_fingerprint"], facts)
        fingerprint = self._prepared.dataset.train.fingerprint_of(record["fingerprint_version"])
        wanted = {key: value for key, value in spec.identity.items() if key != "view_space"}
        if different := differences(before, wanted | {"data_fingerprint": fingerprint}):
            raise OutputError(
                f"{spec.out} exists already and is of another recipe ({'; '.join(different)}); "
                "give another --out, or --force to replace it"
            )
        return Result(spec.out, record, accuracy_of(record))

    def _stopped(self, spec: RunSpec) -> SavedState | None:
        """The state of the unfinished run; raises OutputError where something is in the way."""
        journal = Journal(spec.out)
        journal.remove_stale()
        # Again: another process may have finished it meanwhile.
        journal.refuse_finished(self._options.force, spec.reads)
        if self._options.force and not (started_again() and journal.replaces_result()):
            journal.discard()
        state = journal.read(spec.identity)
        if state is None and self._options.force:
            journal.announce(spec.identity, spec.epochs)
        return state

    def _train(
        self, group: Sequence[tuple[RunSpec, SavedState | None]]
    ) -> tuple[list[Result], list[TrainingError]]:
        """Train some runs side by side and write their results; and the errors of those that failed.

        Raises NoRoomTogether where there are several and the device has no memory for them.
        """
        try:
            runs = [self._begin(spec, state) for spec, state in group]
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                raise
            raise NoRoomTogether from error
        if self._device.type == "cuda" and not self._ranks.alone:
            self._progress.note("steps run eagerly: CUDA graphs are of one process alone")
        results, failures = [], []
        with logged(runs, self._options.tensorboard if self._ranks.first else None):
            train(runs, self._progress)
            for (spec, _), done in zip(group, runs, strict=True):
                if (measured := done.evaluate()) is None:
                    self._ranks.from_first(done.journal.withdraw)
                    failures.append(TrainingError(f"{spec.out}: {done.failure}"))
                else:
                    write = partial(self._write, done, len(group), *measured)
                    results.append(self._ranks.from_first(write))
        return results, failures

    def _begin(self, spec: RunSpec, state: SavedState | None) -> Run:
        ranks = self._ranks
        network = new_network(spec, self._device, state is not None, self._progress, ranks.size)
        inputs = inputs_of(spec, ranks)
        runtime = self._choose_runtime(spec, network, inputs, state)
        inexact = has_batch_norm(network) and not spec.sync_batchnorm
        if state is not None and inexact and state.worlds[-1][1] != ranks.size:
            self._progress.warn(
                f"resuming with another number of processes ({ranks.size}) than before "
                f"({state.worlds[-1][1]}): batch norm sees batches of another size, which changes the result"
            )
        if spec.sync_batchnorm:
            synchronise(network, spec.architecture.name, ranks, self._device)
        several = "" if ranks.alone else f", in {ranks.size} processes"
        self._progress.note(
            f"{spec.kind}: {spec.architecture.name}, {parameter_count(network):,} parameters, "
            f"{spec.epochs} epoch{'s' * (spec.epochs > 1)} of {spec.steps_per_epoch} "
            f"step{'s' * (spec.steps_per_epoch > 1)}, "
            f"on {device_name(self._device, runtime.threads)}{several}"
        )
        measured = (self._prepared.evaluator, self._options.eval_every, state, self._prepared.validator)
        return Run(spec, network, inputs, runtime, *measured, ranks)

    def _choose_runtime(
        self, spec: RunSpec, network: Network, inputs: Inputs, state: SavedState | None
    ) -> Runtime:
        """The precision and threads of the stopped run, or one choice for all on the first real batch."""
        if state is not None:
            return runtime_of(state, spec, self._device, self._progress)
        if self._runtime is None:
            size, device = self._ranks.size, self._device
            told = self._ranks.from_first(lambda: try_precisions(spec, network, inputs, device, size))
            self._runtime = replace(told, device=device)
            self._progress.note(f"precision {self._runtime.precision}: {self._runtime.reason}")
        return self._runtime

    def _write(self, done: Run, together: int, accuracy: Accuracy, validation: Accuracy | None) -> Result:
        """Write history, record and checkpoint of a trained model."""
        journal, spec = done.journal, done.spec
        weights = {name: tensor.cpu() for name, tensor in done.network.body.state_dict().items()}
        samples = self._prepared.dataset.train
        record = record_of(spec, samples, done.runtime, weights, accuracy, done.history)
        record["architecture"]["parameters"] = parameter_count(done.network)
        record["trained_together"] = together
        if done.worlds != [[1, 1]]:
            record |= {"worlds": done.worlds, "batch_norm": has_batch_norm(done.network)}
        if validation is not None:
            record["val_accuracy"] = validation.as_dict()
        journal.write_result(done.history, record, weights)
        self._progress.note(f"{spec.out}: trained in {_time_of(done.history)}")
        return Result(spec.out, record, accuracy)


def _is_being_replaced(out: Path) -> bool:
    """Whether a run with `force` was begun, or announced, and has a state; a damaged one does not count."""
    with contextlib.suppress(OutputError):
        return Journal(out).replaces_result()
    return False


def _time_of(history: Sequence[EpochRecord]) -> str:
    """How long training took, and how long of it images were waited for, where that is worth a change."""
    seconds = sum(epoch.seconds for epoch in history)
    waited = sum(epoch.image_wait or 0 for epoch in history)
    if waited <= WORTH_TELLING * seconds:
        return duration(seconds)
    return f"{duration(seconds)}, {duration(waited)} of it waiting for images; more --workers may help"


def accuracy_of(record: dict[str, Any]) -> Accuracy:
    """The accuracy that a record tells of."""
    per_class, confusion = tuple(record["per_class"]), record.get("group_confusion")
    return Accuracy(**record["accuracy"], per_class=per_class, group_confusion=confusion)
