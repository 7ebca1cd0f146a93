"""Comparing checkpoints on one test set: the work of `dive eval`."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import checkpoint
from dive.dataset import load_test
from dive.device import choose_device
from dive.errors import CheckpointError
from dive.evaluation import Accuracy, evaluate
from dive.progress import Progress
from dive.recipe import Recipe, build, merge


@dataclass(frozen=True)
class Evaluated:
    """A checkpoint with what it recorded and its accuracy here, in fp32."""

    path: Path
    record: dict[str, Any]
    accuracy: Accuracy


@dataclass(frozen=True)
class Seeds:
    """Several seeds of one run: means and sample standard deviations, None where a group is empty."""

    count: int
    record: dict[str, Any]
    means: list[float | None]
    deviations: list[float | None]


def recorded_recipe(path: Path, data: str | None) -> Recipe:
    """The recipe a checkpoint was trained with, its images found at `data` if given."""
    document = checkpoint.load(path)["recipe"]
    return build(merge(document, {"data": {"path": data}}) if data else document, where=str(path))


def compare(paths: Sequence[Path], recipe: Recipe, device_name: str, progress: Progress) -> list[Evaluated]:
    """Evaluate each checkpoint on the recipe's test set; shots by the checkpoint's own class counts.

    Raises CheckpointError where a checkpoint is corrupt or of other classes.
    """
    device = choose_device(device_name)
    loaded = [(path, *checkpoint.load_model(path)) for path in paths]
    test = load_test(recipe, progress)
    evaluated = []
    with progress.bar("eval", len(loaded)) as bar:
        for path, model, document in loaded:
            if tuple(document["classes"]) != test.classes:
                raise CheckpointError(
                    f"{path} tells {len(document['classes'])} classes apart ({document['classes'][0]}, …), "
                    f"the test set has {len(test.classes)} ({test.classes[0]}, …); "
                    "give the checkpoint's own recipe"
                )
            model = model.to(device, memory_format=torch.channels_last)
            data = build(document["recipe"], where=str(path)).data
            record = {key: value for key, value in document.items() if key != "model"}
            evaluated.append(
                Evaluated(
                    path, record, evaluate(model, test, np.array(document["class_counts"]), data, device)
                )
            )
            bar.advance()
    return evaluated


def across_seeds(evaluated: Sequence[Evaluated]) -> list[Seeds]:
    """Runs that differ in nothing but their seed, two or more of each."""
    runs: dict[str, list[Evaluated]] = {}
    for one in evaluated:
        recipe = {key: value for key, value in one.record["recipe"].items() if key != "seed"}
        runs.setdefault(repr((one.record["kind"], one.record["loss"], recipe)), []).append(one)
    return [_summary(members) for members in runs.values() if len({m.record["seed"] for m in members}) > 1]


def _summary(members: Sequence[Evaluated]) -> Seeds:
    columns = list(zip(*(m.accuracy.as_dict().values() for m in members), strict=True))
    return Seeds(
        count=len(members),
        record=members[0].record,
        means=[None if None in column else statistics.fmean(column) for column in columns],
        deviations=[None if None in column else statistics.stdev(column) for column in columns],
    )
