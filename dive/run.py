"""A run from the first epoch, or from where it was stopped, to a finished checkpoint.

Teacher and student are the same run with another loss; this module owns what they share: the
output and its lock, resuming, precision, the last evaluation, and what a finished result records.
"""

import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import __version__, checkpoint, files
from dive.device import Runtime, choose_precision, device_name
from dive.errors import OutputError
from dive.evaluation import Accuracy, evaluate
from dive.longtail import Dataset
from dive.models import build_model, parameter_count
from dive.progress import Progress, duration
from dive.randomness import epoch_order
from dive.recipe import Recipe
from dive.training import Evaluation, Journal, Loss, Task, ViewDraw, train
from dive.views import CropFlip, ViewedImages, view_space


@dataclass(frozen=True)
class Order:
    """What the user asked of a run besides the recipe."""

    out: Path
    device: str = "auto"
    force: bool = False
    eval_every: int = 0


@dataclass(frozen=True)
class Result:
    """A finished run: where its checkpoint is, what it recorded, and its accuracy."""

    path: Path
    record: dict[str, Any]
    accuracy: Accuracy


@dataclass(frozen=True)
class Lesson:
    """What makes a run a teacher's or a student's.

    kind: teacher or student. views: where the views are drawn from. make_loss: from the class
    counts' logarithms (C,) on the device and the labels (N,) to the loss. facts: plain values that
    belong to the run's identity and its record (loss, cache hash, …).
    """

    kind: str
    views: Callable[[CropFlip], ViewDraw]
    make_loss: Callable[[torch.Tensor, torch.Tensor], Loss]
    facts: dict[str, Any]


def run(
    lesson: Lesson, recipe: Recipe, dataset: Dataset, order: Order, device: torch.device, progress: Progress
) -> Result:
    """Train as the lesson says and write checkpoint, record and history; resume what was stopped.

    Raises OutputError where a finished result, another process or an unfinished run of another
    recipe is in the way.
    """
    with files.only_writer(order.out):
        return _run(lesson, recipe, dataset, order, device, progress)


def _run(
    lesson: Lesson, recipe: Recipe, dataset: Dataset, order: Order, device: torch.device, progress: Progress
) -> Result:
    train_set = dataset.train
    identity = _identity(lesson, recipe, train_set.fingerprint)
    journal = Journal(order.out)
    journal.refuse_finished(order.force)  # again: another process may have finished it meanwhile
    if order.force:
        journal.discard()
    state = journal.read(identity)
    model = build_model(recipe.model.name, len(train_set.classes), train_set.images.shape[-1], recipe.seed)
    model = model.to(device, memory_format=torch.channels_last)
    space = view_space(recipe.views, train_set.images.shape[1:])
    images = ViewedImages(train_set.images, space, recipe.data.mean, recipe.data.std, device)
    labels = torch.from_numpy(train_set.labels).to(device)
    log_counts = torch.from_numpy(np.log(train_set.counts)).float().to(device)
    task = Task(
        recipe=recipe,
        identity=identity,
        model=model,
        images=images,
        labels=labels,
        hashes=train_set.hashes,
        views=lesson.views(space),
        loss=lesson.make_loss(log_counts, labels),
    )
    runtime = _runtime(task, device, state, journal, progress)
    progress.note(
        f"{lesson.kind}: {recipe.model.name}, {parameter_count(model):,} parameters, "
        f"{recipe.schedule.epochs} epochs of {task.steps_per_epoch} steps, on {device_name(device)}"
    )

    def accuracy(trained: torch.nn.Module) -> Accuracy:
        return evaluate(trained, dataset.test, train_set.counts, recipe.data, device)

    evaluation = Evaluation(lambda trained: accuracy(trained).all, order.eval_every)
    history = train(task, runtime, journal, state, progress, evaluation)
    final = accuracy(model)
    history[-1]["test_accuracy"] = final.all
    weights = {name: tensor.cpu() for name, tensor in model.state_dict().items()}
    record = _record(lesson, recipe, dataset, runtime, weights, final, history)
    record["architecture"]["parameters"] = parameter_count(model)
    journal.write_history(history)
    files.write_json(journal.record_path, record)
    checkpoint.save(order.out, {**record, "model": weights})
    journal.discard()
    progress.note(f"{order.out}: trained in {duration(record['seconds'])}")
    return Result(order.out, record, final)


def _identity(lesson: Lesson, recipe: Recipe, fingerprint: str) -> dict[str, Any]:
    """What must be equal for an unfinished run to be gone on with.

    Where the data lie does not matter, what they are does; the precision is the state's.
    """
    document = recipe.as_dict() | {"data": recipe.data.identity()}
    del document["precision"]
    return {"kind": lesson.kind, "recipe": document, "data fingerprint": fingerprint, **lesson.facts}


def _runtime(
    task: Task, device: torch.device, state: dict[str, Any] | None, journal: Journal, progress: Progress
) -> Runtime:
    """The precision and threads of the stopped run, or a choice made on the first real batch."""
    wanted = task.recipe.precision
    if state is None:
        first = epoch_order(task.recipe.seed, 1, task.hashes)[: task.recipe.schedule.batch_size]
        rows = torch.from_numpy(first).to(device)
        ids = torch.full_like(rows, task.images.space.clean_id)
        columns = torch.zeros_like(rows)
        batch = task.images.batch(rows, ids)
        loss = lambda logits: task.loss(logits, rows, columns)  # noqa: E731
        runtime = choose_precision(wanted, device, task.model, batch, loss)
        progress.note(f"precision {runtime.precision}: {runtime.reason}")
        return runtime
    if wanted not in ("auto", state["precision"]):
        raise OutputError(
            f"{journal.state_path} is an unfinished run in {state['precision']}, not {wanted}; "
            f"give --precision {state['precision']} to go on with it, or --force to start anew"
        )
    if device.type == "cpu" and state["threads"] != torch.get_num_threads():
        progress.note(f"going on with the {state['threads']} threads of the stopped run")
        torch.set_num_threads(state["threads"])
    done, epochs = len(state["history"]), task.recipe.schedule.epochs
    progress.note(f"going on after epoch {done} of {epochs} in {state['precision']} ({journal.state_path})")
    return Runtime(device, state["precision"], "as the stopped run")


def _record(
    lesson: Lesson,
    recipe: Recipe,
    dataset: Dataset,
    runtime: Runtime,
    weights: dict[str, torch.Tensor],
    accuracy: Accuracy,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a finished result says of itself, in plain values."""
    train_set = dataset.train
    return {
        "kind": lesson.kind,
        **lesson.facts,
        "recipe": recipe.as_dict(),
        "seed": recipe.seed,
        "architecture": {
            "name": recipe.model.name,
            "classes": len(train_set.classes),
            "channels": train_set.images.shape[-1],
        },
        "classes": list(train_set.classes),
        "class_counts": train_set.counts.tolist(),
        "data fingerprint": train_set.fingerprint,
        "weights hash": checkpoint.weights_hash(weights),
        "accuracy": accuracy.as_dict(),
        "per_class": list(accuracy.per_class),
        "train_accuracy": history[-1]["train_accuracy"],
        "epochs": len(history),
        "seconds": round(sum(entry["seconds"] for entry in history), 1),
        "device": device_name(runtime.device),
        "precision": runtime.precision,
        "threads": torch.get_num_threads(),
        "versions": versions(),
    }


def versions() -> dict[str, str]:
    """Versions of dive and of what its numbers depend on."""
    others = {name: importlib.metadata.version(name) for name in ("torchvision", "numpy", "h5py")}
    return {"dive": __version__, "torch": str(torch.__version__), **others}
