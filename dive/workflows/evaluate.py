"""Comparing checkpoints on one test set: the work of `dive eval`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive.data.dataset import load_test
from dive.errors import CheckpointError
from dive.models import checkpoint
from dive.progress import Progress
from dive.recipe.reading import build, load
from dive.recipe.recipe import Recipe
from dive.recipe.records import of_one_run
from dive.training.device import choose_device
from dive.training.evaluation import evaluate
from dive.workflows.lesson import Result


@dataclass(frozen=True)
class Seeds:
    """Several seeds of one run: means and sample standard deviations, None where a group is empty."""

    count: int
    record: dict[str, Any]
    means: list[float | None]
    deviations: list[float | None]


def recorded_recipe(path: Path, assignments: tuple[str, ...], data: str | None) -> Recipe:
    """The recipe a checkpoint was trained with, `KEY=VALUE` assignments and a place of the images over it.

    Raises CheckpointError where `path` is no finished model, RecipeError for a bad assignment.
    """
    document = checkpoint.load_finished(path)["recipe"]
    return load(document, assignments, {"data.path": data})


def compare(paths: Sequence[Path], recipe: Recipe, device_name: str, progress: Progress) -> list[Result]:
    """Evaluate each checkpoint on the recipe's test set; shots by the checkpoint's own class counts.

    Raises CheckpointError where a checkpoint is corrupt, of other classes or of images of another
    source or size.
    """
    device = choose_device(device_name)
    loaded = [(path, *checkpoint.load_model(path)) for path in paths]
    recipes = [build(document["recipe"], where=str(path)) for path, _, document in loaded]
    for (path, _, _), own in zip(loaded, recipes, strict=True):
        _check_images(path, own, recipe)
    test = load_test(recipe, progress)
    evaluated = []
    with progress.bar("eval", len(loaded)) as bar:
        for (path, model, document), own in zip(loaded, recipes, strict=True):
            _check_classes(path, document["classes"], test.classes)
            model = model.to(device, memory_format=torch.channels_last)
            accuracy = evaluate(model, test, np.array(document["class_counts"]), own.data, device)
            record = {key: value for key, value in document.items() if key != "model"}
            evaluated.append(Result(path, record, accuracy))
            bar.advance()
    return evaluated


def _check_images(path: Path, own: Recipe, recipe: Recipe) -> None:
    sizes = [own.data.size or 32, recipe.data.size or 32] if own.data.source == "folder" else []
    if own.data.source != recipe.data.source or len(set(sizes)) > 1:
        raise CheckpointError(
            f"{path} was trained on {_images(own)}, the test set is of {_images(recipe)}; "
            "evaluate it with its own recipe"
        )


def _images(recipe: Recipe) -> str:
    size = f" at {recipe.data.size or 32} pixels" if recipe.data.source == "folder" else ""
    return f"{recipe.data.source} images{size}"


def _check_classes(path: Path, classes: list[str], test_classes: tuple[str, ...]) -> None:
    if tuple(classes) != test_classes:
        raise CheckpointError(
            f"{path} tells {len(classes)} classes apart ({classes[0]}, …), the test set has "
            f"{len(test_classes)} ({test_classes[0]}, …); give the checkpoint's own data with --data"
        )


def across_seeds(evaluated: Sequence[Result]) -> list[Seeds]:
    """Runs at two or more seeds that differ in nothing else, summed up."""
    runs = of_one_run(evaluated, lambda one: one.record)
    return [_summary(members) for members in runs if len(members) > 1]


def _summary(members: Sequence[Result]) -> Seeds:
    columns = list(zip(*(m.accuracy.as_dict().values() for m in members), strict=True))
    return Seeds(
        count=len(members),
        record=members[0].record,
        means=[None if None in column else statistics.fmean(column) for column in columns],
        deviations=[None if None in column else statistics.stdev(column) for column in columns],
    )
