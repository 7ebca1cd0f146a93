"""Runs from the first epoch, or from where they were stopped, to finished checkpoints.

Teacher and student are the same run with another loss; this module owns what they share: the
outputs and their locks, resuming, precision, the last evaluation, and what a finished result records.
"""

import contextlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import files, outputs
from dive.data.longtail import Dataset
from dive.errors import OutputError, TrainingError
from dive.feeds.images import ViewedImages
from dive.models import checkpoint
from dive.models.registry import build_model, parameter_count
from dive.progress import Progress, duration
from dive.randomness import epoch_order
from dive.recipe.documents import differences
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from dive.training.device import NO_TF32, Runtime, choose_precision, device_name, precisions
from dive.training.evaluation import Accuracy, evaluate
from dive.training.journal import Journal
from dive.training.loop import Evaluation, Learner, train
from dive.training.schedule import epochs_of
from dive.training.step import Task
from dive.versions import warn_if_others
from dive.views.registry import view_space
from dive.workflows.lesson import Lesson, Order, Result, Trained, identity, record_of


def run(
    lessons: Sequence[Lesson], dataset: Dataset, order: Order, device: torch.device, progress: Progress
) -> Trained:
    """Train as the lessons say and write checkpoint, record and history of each; resume what was stopped.

    The recipes of several lessons may differ in seed and distillation alone. On CUDA they train side
    by side; on a CPU, which one fills, one after the other. Among several, one that is finished
    already is kept as it is, and one whose loss is not finite does not stop the others; it is among the
    failures returned. Raises OutputError where another finished result, another process or an
    unfinished run of another recipe is in the way. torch's settings are afterwards as they were.
    """
    with contextlib.ExitStack() as locks:
        for lesson in lessons:
            locks.enter_context(outputs.only_writer(lesson.out))
        return _Runs(lessons[0].recipe, dataset, order, device, progress).trained(lessons)


class _Runs:
    """What the runs of one command share: the data on the device, their views, and the user's order.

    recipe: of one of them; the others differ in seed and distillation alone.
    """

    def __init__(
        self, recipe: Recipe, dataset: Dataset, order: Order, device: torch.device, progress: Progress
    ) -> None:
        self._dataset, self._order, self._device, self._progress = dataset, order, device, progress
        self._data, self._train_set = recipe.data, dataset.train
        self._space = view_space(recipe.views, dataset.train.images.shape[1:])
        self._labels = torch.from_numpy(dataset.train.labels).to(device)
        self._log_counts = torch.from_numpy(np.log(dataset.train.counts)).float().to(device)
        self._runtime: Runtime | None = None

    def trained(self, lessons: Sequence[Lesson]) -> Trained:
        """What became of all lessons, in their order."""
        found: dict[Path, Result] = {}
        waiting = []
        for lesson in lessons:
            if len(lessons) > 1 and not self._order.force and (kept := self._finished(lesson)):
                self._progress.note(f"{lesson.out} is finished already")
                found[lesson.out] = kept
            else:
                waiting.append((lesson, self._stopped(lesson)))
        groups = [waiting] if self._device.type == "cuda" else [[one] for one in waiting]
        failures = []
        for group in filter(None, groups):
            results, failed = self._train(group)
            found |= {result.path: result for result in results}
            failures += failed
        return Trained([found[lesson.out] for lesson in lessons if lesson.out in found], failures)

    def _finished(self, lesson: Lesson) -> Result | None:
        """The result at the lesson's place, if there is one; raises OutputError where it is another's."""
        if not lesson.out.exists():
            return None
        record = checkpoint.load_finished(lesson.out)
        del record["model"]
        own = build(record["recipe"], where=str(lesson.out))
        facts = {key: record.get(key) for key in lesson.facts}
        before = identity(own, record["kind"], record["data fingerprint"], facts)
        if different := differences(before, self._identity(lesson)):
            raise OutputError(
                f"{lesson.out} exists already and is of another recipe ({'; '.join(different)}); "
                "give another --out, or --force to replace it"
            )
        accuracy = Accuracy(**record["accuracy"], per_class=tuple(record["per_class"]))
        return Result(lesson.out, record, accuracy)

    def _stopped(self, lesson: Lesson) -> dict[str, Any] | None:
        """The state of the lesson's unfinished run; raises OutputError where something is in the way."""
        journal = Journal(lesson.out)
        journal.remove_stale()
        # Again: another process may have finished it meanwhile.
        journal.refuse_finished(self._order.force, lesson.reads)
        if self._order.force:
            journal.discard()
        return journal.read(self._identity_of_state(lesson))

    def _identity(self, lesson: Lesson) -> dict[str, Any]:
        return identity(lesson.recipe, lesson.kind, self._train_set.fingerprint, lesson.facts)

    def _identity_of_state(self, lesson: Lesson) -> dict[str, Any]:
        """What must be equal for a run to be resumed: also what its views are made by."""
        return self._identity(lesson) | {"view space": self._space.describe()}

    def _train(
        self, group: Sequence[tuple[Lesson, dict[str, Any] | None]]
    ) -> tuple[list[Result], list[TrainingError]]:
        """Train some lessons side by side and write their results; and the errors of those that failed."""
        data = self._data
        images = ViewedImages(self._train_set.images, self._space, data.mean, data.std, self._device)
        learners = [self._learner(lesson, state, images) for lesson, state in group]
        train(learners, self._progress)
        results, failures = [], []
        for (lesson, _), learner in zip(group, learners, strict=True):
            if learner.failure is None:
                results.append(self._finish(lesson, learner, len(group)))
            else:
                failures.append(TrainingError(f"{lesson.out}: {learner.failure}"))
        return results, failures

    def _learner(self, lesson: Lesson, state: dict[str, Any] | None, images: ViewedImages) -> Learner:
        recipe, train_set = lesson.recipe, self._train_set
        model = build_model(recipe.model.name, len(train_set.classes), images.channels, recipe.seed)
        task = Task(
            recipe=recipe,
            identity=self._identity_of_state(lesson),
            model=model.to(self._device, memory_format=torch.channels_last),
            images=images,
            labels=self._labels,
            hashes=train_set.hashes,
            views=lesson.views(images.space),
            teacher=None if lesson.teacher is None else lesson.teacher(),
            loss=lesson.make_loss(self._log_counts),
        )
        runtime = self._choose_runtime(task, state, lesson.out)
        self._progress.note(
            f"{lesson.kind}: {recipe.model.name}, {parameter_count(model):,} parameters, "
            f"{epochs_of(recipe.schedule, task.steps_per_epoch)} epochs of {task.steps_per_epoch} steps, "
            f"on {device_name(self._device, runtime.threads)}"
        )
        evaluation = Evaluation(lambda trained: self._accuracy(trained, recipe).all, self._order.eval_every)
        return Learner(task, runtime, Journal(lesson.out), evaluation, state)

    def _choose_runtime(self, task: Task, state: dict[str, Any] | None, out: Path) -> Runtime:
        """The precision and threads of the stopped run, or one choice for all on the first real batch."""
        if state is not None:
            return _runtime_of(state, task, self._device, out, self._progress)
        if self._runtime is None:
            self._runtime = _try_precisions(task, self._device)
            self._progress.note(f"precision {self._runtime.precision}: {self._runtime.reason}")
        return self._runtime

    def _accuracy(self, model: torch.nn.Module, recipe: Recipe) -> Accuracy:
        return evaluate(model, self._dataset.test, self._train_set.counts, recipe.data, self._device)

    def _finish(self, lesson: Lesson, learner: Learner, together: int) -> Result:
        """Evaluate a trained model and write its history, record and checkpoint."""
        model, history, journal = learner.task.model, learner.history, learner.journal
        with learner.runtime.computing():
            final = self._accuracy(model, lesson.recipe)
        history[-1]["test_accuracy"] = final.all
        weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
        record = record_of(lesson, self._dataset, learner.runtime, weights, final, history)
        record["architecture"]["parameters"] = parameter_count(model)
        record["trained together"] = together
        journal.write_history(history)
        files.write_json(journal.record_path, record)
        checkpoint.save(lesson.out, {**record, "model": weights})
        journal.discard()
        self._progress.note(f"{lesson.out}: trained in {duration(record['seconds'])}")
        return Result(lesson.out, record, final)


def _try_precisions(task: Task, device: torch.device) -> Runtime:
    """The runtime for the recipe's precision; where that is `auto`, chosen on the first real batch."""
    recipe = task.recipe
    if recipe.precision != "auto" or len(precisions(device)) == 1:
        return choose_precision(recipe.precision, device, task.model)  # nothing to try
    order = epoch_order(recipe.seed, 1, task.hashes)[: recipe.schedule.batch_size]
    columns = np.zeros_like(order)
    if task.teacher is not None:
        task.teacher.begin(order, columns)
        task.teacher.load()
    rows = torch.from_numpy(order).to(device)
    batch = task.images.batch(rows, torch.full_like(rows, task.images.space.clean_id))
    zeros = torch.from_numpy(columns).to(device)
    return choose_precision(
        recipe.precision, device, task.model, batch, lambda logits: task.losses(logits, rows, zeros)
    )


def _runtime_of(
    state: dict[str, Any], task: Task, device: torch.device, out: Path, progress: Progress
) -> Runtime:
    """The precision and threads of a stopped run; raises OutputError where another precision is asked for."""
    wanted = task.recipe.precision
    path = Journal(out).state_path
    if wanted not in ("auto", state["precision"]):
        raise OutputError(
            f"{path} is an unfinished run in {state['precision']}, not {wanted}; "
            f"give --precision {state['precision']} to go on with it, or --force to start anew"
        )
    if state["precision"] == "tf32" and "tf32" not in precisions(device):
        raise OutputError(
            f"{path} is an unfinished run in tf32: {NO_TF32} on {device_name(device)}; "
            "resume it on such a device, or --force to start anew"
        )
    threads = torch.get_num_threads()
    if device.type == "cpu" and state["threads"] != threads:
        threads = state["threads"]
        progress.note(f"going on with the {threads} threads of the stopped run")
    warn_if_others(state.get("versions", {}), f"{path}", progress)
    done, epochs = len(state["history"]), state["epochs"]
    progress.note(f"going on after epoch {done} of {epochs} in {state['precision']} ({path})")
    return Runtime(device, state["precision"], "as the stopped run", threads)
