"""What a run is to be, what it is known by, and what it records when it has ended."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dive.data.longtail import Dataset
from dive.errors import SeveralErrors, TrainingError
from dive.feeds.teacher_logits import TeacherLogits
from dive.models import checkpoint
from dive.recipe.recipe import Recipe
from dive.training.device import Runtime, device_name
from dive.training.evaluation import Accuracy
from dive.training.step import Loss, ViewDraw
from dive.versions import versions
from dive.views.space import ViewSpace


@dataclass(frozen=True)
class Order:
    """What the user asked of runs besides their recipes."""

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
class Trained:
    """What became of the runs of one command: those that finished, in their order, and why others failed."""

    results: list[Result]
    failures: list[TrainingError]

    def require_all(self) -> None:
        """Raise the TrainingError of the run that failed, or SeveralErrors where several did."""
        if len(self.failures) > 1:
            raise SeveralErrors(self.failures)
        if self.failures:
            raise self.failures[0]


@dataclass(frozen=True)
class Lesson:
    """One run to make, and what makes it a teacher's or a student's.

    kind: teacher or student. views: where the views are drawn from. teacher: makes the source of the
    teacher's logits. make_loss: from the class counts' logarithms (C,) on the device to the loss.
    facts: plain values that belong to the run's identity and its record (loss, cache hash, …). reads: files
    that it reads, which it must not replace.
    """

    kind: str
    recipe: Recipe
    out: Path
    views: Callable[[ViewSpace], ViewDraw]
    teacher: Callable[[], TeacherLogits] | None
    make_loss: Callable[[torch.Tensor], Loss]
    facts: dict[str, Any]
    reads: tuple[Path, ...] = ()


def identity(recipe: Recipe, kind: str, fingerprint: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to be resumed: the recipe, the images, and the lesson's facts.

    Where the data lie does not matter, what they are does; the precision is the state's.
    """
    document = recipe.as_dict() | {"data": recipe.data.identity()}
    del document["precision"]
    return {"kind": kind, "recipe": document, "data fingerprint": fingerprint, **facts}


def record_of(
    lesson: Lesson,
    dataset: Dataset,
    runtime: Runtime,
    weights: dict[str, torch.Tensor],
    accuracy: Accuracy,
    history: list[dict[str, Any]],
) -> dict[str, Any]:
    """What a finished result says of itself, in plain values."""
    train_set, recipe = dataset.train, lesson.recipe
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
        "device": device_name(runtime.device, runtime.threads),
        "precision": runtime.precision,
        "threads": runtime.threads,
        "versions": versions(),
    }
