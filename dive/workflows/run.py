"""Training runs, started or resumed, up to the finished checkpoints.

A teacher and a student are trained by the same kind of run with different objectives. This module owns what
they share: outputs and their locks, resuming, precision, the last evaluation and the record of the result.
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

WORTH_TELLING = 0.1  # share of a run's time spent waiting for images, above which it is reported


def run(
    specs: Sequence[RunSpec],
    prepared: Prepared,
    options: TrainOptions,
    progress: Progress,
    of_grid: bool = False,
) -> Trained:
    """Train the runs of `specs` and write checkpoint, record and history of each; stopped runs are resumed.

    The recipes may differ only in seed and distillation. On CUDA the runs train side by side, as many as fit
    into memory; on a CPU, which one run uses fully, they train one after another. of_grid: whether the runs
    are of a grid. Then finished runs are kept. A run whose loss is not finite does not stop the others; its
    error is among the failures. Raises OutputError if an output is a finished result (without a grid) or the
    result of another recipe, is locked by another process, or has an unfinished run of another recipe.
    torch's settings are restored.

    Processes that train together all call this with the same specs and get the same result. Only the first
    of them reads and writes outputs.
    """
    with contextlib.ExitStack() as locks:

        def lock() -> None:
            for spec in specs:
                locks.enter_context(outputs.only_writer(spec.out))

        prepared.ranks.from_first(lock)
        return _Runs(prepared, options, progress, of_grid).trained(specs)


def refuse_finished(out: Path, force: bool, reads: Sequence[Path] = ()) -> None:
    """Raise OutputError if a finished result would be replaced without `force`; see `Journal`.

    Do nothing if torchrun restarted this process, since the earlier process may have finished the result.
    """
    if not started_again():
        Journal(out).refuse_finished(force, reads)


class _Runs:
    """The runs of one command, which share the prepared data set, the user's options and the precision."""

    def __init__(self, prepared: Prepared, options: TrainOptions, progress: Progress, of_grid: bool) -> None:
        self._prepared, self._options, self._progress = prepared, options, progress
        self._keeps_finished = of_grid or started_again()
        self._device, self._ranks = prepared.device, prepared.ranks
        self._runtime: Runtime | None = None

    def trained(self, specs: Sequence[RunSpec]) -> Trained:
        """Train the runs that are not finished; returns the results in the order of `specs`, and failures."""
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
                gc.collect()  # their memory is held by reference cycles, and the next group needs it
            found |= {result.path: result for result in results}
            failures += failed
        return Trained([found[spec.out] for spec in specs if spec.out in found], failures)

    def _before(self, spec: RunSpec) -> tuple[Result | None, SavedState | None]:
        """What exists of a run already: its result if that is kept, or the state in which it was stopped.

        A result is kept if the run is one of a grid, or if torchrun restarted this process, since the earlier
        process may have written it.
        """
        keeps = self._keeps_finished and not self._options.force and not _is_being_replaced(spec.out)
        if keeps and (kept := self._finished(spec)):
            Journal(spec.out).tidy()
            return kept, None
        return None, self._stopped(spec)

    def _finished(self, spec: RunSpec) -> Result | None:
        """The finished result of the run, None if there is none.

        Raises OutputError if the result at its output is that of another recipe.
        """
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
        """The state of the unfinished run, None if there is none; prepares the run's files.

        Raises OutputError if there is a result or a state that the run must not replace.
        """
        journal = Journal(spec.out)
        journal.remove_stale()
        # Again, because another process may have finished it meanwhile.
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
        """Train some runs side by side and write their results; returns these, and the errors of the others.

        Raises NoRoomTogether if there are several runs and they do not fit into the device's memory.
        """
        try:
            runs = [self._begin(spec, state) for spec, state in group]
        except torch.OutOfMemoryError as error:
            if len(group) == 1:
                raise
            raise NoRoomTogether from error
        if self._device.type == "cuda" and not self._ranks.alone:
            self._progress.note("steps run eagerly: CUDA graphs are used by a single process only")
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
        """The precision and threads of a stopped run, or one choice for all others, tried on a batch."""
        if state is not None:
            return runtime_of(state, spec, self._device, self._progress)
        if self._runtime is None:
            size, device = self._ranks.size, self._device
            told = self._ranks.from_first(lambda: try_precisions(spec, network, inputs, device, size))
            self._runtime = replace(told, device=device)
            self._progress.note(f"precision {self._runtime.precision}: {self._runtime.reason}")
        return self._runtime

    def _write(self, done: Run, together: int, accuracy: Accuracy, validation: Accuracy | None) -> Result:
        """Write history, record and checkpoint of a finished run."""
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
    """Whether there is the state of a run that was begun with `force` to replace `out`; false if damaged."""
    with contextlib.suppress(OutputError):
        return Journal(out).replaces_result()
    return False


def _time_of(history: Sequence[EpochRecord]) -> str:
    """How long training took, and how long it waited for images if that is more than `WORTH_TELLING`."""
    seconds = sum(epoch.seconds for epoch in history)
    waited = sum(epoch.image_wait or 0 for epoch in history)
    if waited <= WORTH_TELLING * seconds:
        return duration(seconds)
    return f"{duration(seconds)}, {duration(waited)} of it waiting for images; more --workers may help"


def accuracy_of(record: dict[str, Any]) -> Accuracy:
    """The accuracy in a record."""
    per_class, confusion = tuple(record["per_class"]), record.get("group_confusion")
    return Accuracy(**record["accuracy"], per_class=per_class, group_confusion=confusion)
