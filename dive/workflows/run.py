"""Runs from the first epoch, or from where they were stopped, to finished checkpoints.

Teacher and student are the same run with another objective; this module owns what they share: the
outputs and their locks, resuming, precision, the last evaluation, and what a finished result records.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import files, outputs
from dive.errors import ModelError, OutputError, TrainingError
from dive.feeds.feed import Batch
from dive.models import checkpoint
from dive.models.network import ALONE, Network, require_trainable
from dive.models.registry import family_of, network_versions, parameter_count
from dive.progress import Progress, duration
from dive.randomness import epoch_order
from dive.recipe.documents import differences
from dive.recipe.reading import build
from dive.training.device import NO_TF32, Runtime, choose_precision, device_name, precisions
from dive.training.evaluation import Accuracy
from dive.training.loop import Run, train
from dive.training.saved_state import EpochRecord, Journal, SavedState
from dive.training.spec import RunSpec
from dive.training.step import Inputs, inputs_of
from dive.versions import warn_if_others
from dive.workflows.prepared import Prepared
from dive.workflows.results import (
    INITIAL,
    Result,
    Trained,
    TrainOptions,
    identity_of,
    record_of,
)

WORTH_TELLING = 0.1  # of a run's time, spent waiting for images


def run(specs: Sequence[RunSpec], prepared: Prepared, options: TrainOptions, progress: Progress) -> Trained:
    """Train as the specs say and write checkpoint, record and history of each; resume what was stopped.

    The recipes of several may differ in seed and distillation alone. On CUDA they train side by side; on a
    CPU, which one fills, one after the other. Among several, one that is finished already is kept as it is,
    and one whose loss is not finite does not stop the others; it is among the failures returned. Raises
    OutputError where another finished result, another process or an unfinished run of another recipe is in
    the way. torch's settings are afterwards as they were.
    """
    with contextlib.ExitStack() as locks:
        for spec in specs:
            locks.enter_context(outputs.only_writer(spec.out))
        return _Runs(prepared, options, progress).trained(specs)


class _Runs:
    """What the runs of one command share: the prepared data set, the user's options, and the precision."""

    def __init__(self, prepared: Prepared, options: TrainOptions, progress: Progress) -> None:
        self._prepared, self._options, self._progress = prepared, options, progress
        self._device = prepared.device
        self._runtime: Runtime | None = None

    def trained(self, specs: Sequence[RunSpec]) -> Trained:
        """What became of all of them, in their order."""
        found: dict[Path, Result] = {}
        waiting = []
        for spec in specs:
            if len(specs) > 1 and not self._options.force and (kept := self._finished(spec)):
                self._progress.note(f"{spec.out} is finished already")
                found[spec.out] = kept
            else:
                waiting.append((spec, self._stopped(spec)))
        groups = [waiting] if self._device.type == "cuda" else [[one] for one in waiting]
        failures = []
        for group in filter(None, groups):
            results, failed = self._train(group)
            found |= {result.path: result for result in results}
            failures += failed
        return Trained([found[spec.out] for spec in specs if spec.out in found], failures)

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
        if self._options.force:
            journal.discard()
        return journal.read(spec.identity)

    def _train(
        self, group: Sequence[tuple[RunSpec, SavedState | None]]
    ) -> tuple[list[Result], list[TrainingError]]:
        """Train some runs side by side and write their results; and the errors of those that failed."""
        runs = [self._begin(spec, state) for spec, state in group]
        train(runs, self._progress)
        results, failures = [], []
        for (spec, _), done in zip(group, runs, strict=True):
            if done.failure is None:
                results.append(self._finish(done, len(group)))
            else:
                failures.append(TrainingError(f"{spec.out}: {done.failure}"))
        return results, failures

    def _begin(self, spec: RunSpec, state: SavedState | None) -> Run:
        network = new_network(spec, self._device, state is not None, self._progress)
        inputs = inputs_of(spec)
        runtime = self._choose_runtime(spec, network, inputs, state)
        self._progress.note(
            f"{spec.kind}: {spec.architecture.name}, {parameter_count(network):,} parameters, "
            f"{spec.epochs} epoch{'s' * (spec.epochs > 1)} of {spec.steps_per_epoch} "
            f"step{'s' * (spec.steps_per_epoch > 1)}, "
            f"on {device_name(self._device, runtime.threads)}"
        )
        measured = (self._prepared.evaluator, self._options.eval_every, state, self._prepared.validator)
        return Run(spec, network, inputs, runtime, *measured)

    def _choose_runtime(
        self, spec: RunSpec, network: Network, inputs: Inputs, state: SavedState | None
    ) -> Runtime:
        """The precision and threads of the stopped run, or one choice for all on the first real batch."""
        if state is not None:
            return _runtime_of(state, spec, self._device, self._progress)
        if self._runtime is None:
            self._runtime = _try_precisions(spec, network, inputs, self._device)
            self._progress.note(f"precision {self._runtime.precision}: {self._runtime.reason}")
        return self._runtime

    def _finish(self, done: Run, together: int) -> Result:
        """Evaluate a trained model and write its history, record and checkpoint."""
        accuracy, validation, journal, spec = done.evaluate(), done.validate(), done.journal, done.spec
        weights = {name: tensor.cpu() for name, tensor in done.network.body.state_dict().items()}
        samples = self._prepared.dataset.train
        record = record_of(spec, samples, done.runtime, weights, accuracy, done.history)
        record["architecture"]["parameters"] = parameter_count(done.network)
        record["trained_together"] = together
        if validation is not None:
            record["val_accuracy"] = validation.as_dict()
        journal.write_history(done.history)
        files.write_json(journal.record_path, record)
        checkpoint.save(spec.out, {**record, "model": weights})
        journal.discard()
        self._progress.note(f"{spec.out}: trained in {_time_of(done.history)}")
        return Result(spec.out, record, accuracy)


def new_network(spec: RunSpec, device: torch.device, resumed: bool, progress: Progress) -> Network:
    """The network of a run on its device, with the weights it begins with, unless a state holds later ones.

    Raises ModelError where it cannot be built, or is not to be trained on such views.
    """
    network, shape = spec.architecture.build(spec.seed).on(device), spec.images.space.shape
    name = spec.architecture.name
    if refusal := family_of(name).refusal(name, max(network.sees(shape))):
        raise ModelError(refusal)
    require_trainable(network, spec.architecture, shape, spec.smallest_part, _about_one(spec))
    if spec.initial is not None and not resumed:
        views = network.normalised(network.blank(spec.architecture.channels, shape))
        progress.note(spec.initial.put_into(network.body, views))
    return network


def _time_of(history: Sequence[EpochRecord]) -> str:
    """How long training took, and how long of it images were waited for, where that is worth a change."""
    seconds = sum(epoch.seconds for epoch in history)
    waited = sum(epoch.image_wait or 0 for epoch in history)
    if waited <= WORTH_TELLING * seconds:
        return duration(seconds)
    return f"{duration(seconds)}, {duration(waited)} of it waiting for images; more --workers may help"


def _about_one(spec: RunSpec) -> str:
    """What to do where a network does not take one view, and a batch or a part of one has no more."""
    if spec.last_batch == 1:
        return ALONE
    whole = "a batch" if min(spec.parts(0)) == 1 else "the last batch of an epoch"
    return (
        f"schedule.accumulate {spec.schedule.accumulate} leaves one to a part of {whole}: lower it, or "
        "change schedule.batch_size"
    )


def accuracy_of(record: dict[str, Any]) -> Accuracy:
    """The accuracy that a record tells of."""
    per_class, confusion = tuple(record["per_class"]), record.get("group_confusion")
    return Accuracy(**record["accuracy"], per_class=per_class, group_confusion=confusion)


def _try_precisions(spec: RunSpec, network: Network, inputs: Inputs, device: torch.device) -> Runtime:
    """The runtime for the recipe's precision; where that is `auto`, chosen on a part of the first batch."""
    if spec.precision != "auto" or len(precisions(device)) == 1:
        return choose_precision(spec.precision, device, network)  # nothing to try
    order = epoch_order(spec.seed, 1, spec.hashes)[: spec.largest_part]
    clean = np.full_like(order, spec.images.space.clean_id)
    first = Batch(order, clean, np.zeros_like(order))
    inputs.begin([first])
    inputs.load()
    places = tuple(torch.from_numpy(index).to(device) for index in (first.rows, first.ids, first.columns))
    objective = spec.objective.to(device)
    return choose_precision(
        spec.precision,
        device,
        network,
        inputs.images.batch(*places),
        lambda logits: objective(logits, *inputs.targets(*places)),
    )


def _runtime_of(state: SavedState, spec: RunSpec, device: torch.device, progress: Progress) -> Runtime:
    """The precision and threads of a stopped run; raises OutputError where another precision is asked for."""
    path = Journal(spec.out).state_path
    if spec.precision not in ("auto", state.precision):
        raise OutputError(
            f"{path} is an unfinished run in {state.precision}, not {spec.precision}; "
            f"give --precision {state.precision} to resume it, or --force to start over"
        )
    if state.precision == "tf32" and "tf32" not in precisions(device):
        raise OutputError(
            f"{path} is an unfinished run in tf32: {NO_TF32} on {device_name(device)}; "
            "resume it on such a device, or --force to start over"
        )
    threads = torch.get_num_threads()
    if device.type == "cpu" and state.threads != threads:
        threads = state.threads
        progress.note(f"resuming with the {threads} threads of the stopped run")
    warn_if_others(state.versions, f"{path}", progress, network_versions(spec.architecture.name))
    done = len(state.history)
    progress.note(f"resuming after epoch {done} of {state.epochs} in {state.precision} ({path})")
    return Runtime(device, state.precision, "as the stopped run", threads)
