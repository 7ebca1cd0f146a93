"""Comparing checkpoints on one test or validation set, as `dive eval` does."""

import json
import statistics
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import outputs
from dive.arguments import as_paths, as_texts, require_choice
from dive.data.longtail import Samples
from dive.errors import CheckpointError, ModelError
from dive.feeds.images import Images
from dive.models import checkpoint
from dive.printable import printable
from dive.progress import SILENT, Progress
from dive.recipe.reading import build, load
from dive.recipe.recipe import Recipe
from dive.recipe.records import alike_but_for_precision, of_one_run, precisions_told
from dive.recipe.teachers import model_name
from dive.training.device import choose_device
from dive.training.evaluation import Evaluator
from dive.training.ranks import Ranks, ranks_on
from dive.views.registry import view_space
from dive.workflows.data import load_part, warn_of_workers
from dive.workflows.prepared import room_of
from dive.workflows.results import Result
from dive.workflows.together import require_same_pictures
from dive.workflows.tune import PLOT_SUFFIXES
from dive.workflows.untrained import require_untrained

PARTS = {"test": "Test accuracy", "val": "Validation accuracy"}


@dataclass(frozen=True)
class Seeds:
    """Several seeds of one run: means and sample standard deviations, None if a group is empty."""

    count: int
    record: dict[str, Any]
    means: list[float | None]
    deviations: list[float | None]


@dataclass(frozen=True)
class Apart:
    """Runs that differ only in seed and precision.

    record: of the first run. seeds: the seeds of each precision, both sorted; the keys are texts from
    `precisions_told`.
    """

    record: dict[str, Any]
    seeds: dict[str, list[int]]

    @property
    def model(self) -> str:
        """The name of their model, as in the table of results."""
        return model_name(self.record["kind"], self.record)

    def __str__(self) -> str:
        """A message that explains why there is no common mean of these runs."""
        told = "; ".join(
            f"seed{'s' * (len(numbers) > 1)} {', '.join(map(str, numbers))} in {precision}"
            for precision, numbers in self.seeds.items()
        )
        return (
            f"{self.model} of {self.record['recipe']['name']} is not averaged over precisions: {told}; "
            "train them with one --precision"
        )


def recorded_recipe(path: Path, assignments: tuple[str, ...], data: str | None) -> Recipe:
    """The recipe of a checkpoint, overridden by `KEY=VALUE` assignments and by `data`, the images' place.

    Raises CheckpointError if `path` is not a finished model, RecipeError for an invalid assignment.
    """
    document = checkpoint.load_finished(path)["recipe"]
    return load(document, assignments, {"data.root": data})


def evaluate(
    paths: str | Path | Sequence[str | Path],
    recipe: Recipe | None = None,
    device: str = "auto",
    progress: Progress = SILENT,
    own: str | Sequence[str] = (),
    workers: int | None = None,
    part: str = "test",
    plot: str | Path | None = None,
    force: bool = False,
) -> list[Result]:
    """The accuracy of each checkpoint on the recipe's test set: a list of `Result`, in the order of `paths`.

    A class is many-, medium- or few-shot by the checkpoint's own training set. A network sees the images at
    the size that its own recipe gives them. Processes that torchrun starts share the images; all of them
    return the same list.

    paths: the checkpoints.
    recipe: the recipe of the test set; None for that of the first checkpoint.
    device: `auto`, `cpu`, `cuda` or `cuda:N`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.
    own: the custom networks (`package.module:callable`) that a checkpoint may import and call. The network of
        `recipe` is not among them unless it is given.
    workers: processes that read images which are not held in memory, as in `TrainOptions`.
    part: `test`, or `val` for the validation set.
    plot: a file (.png, .svg or .pdf) for a plot of the accuracy of each class against its training images.
    force: replace an existing plot.

    Raises:
        CheckpointError: a checkpoint is missing or corrupt, has other classes or channels than the test set,
            or was trained on images of that part.
        DataError: the images are missing, or there is no validation set.
        DiveError: the device does not exist.
        OptionError: there is no such part, or the name of the plot has another suffix.
        OutputError: the plot cannot be written.

    >>> import dive
    >>> (teacher,) = dive.evaluate([Path("checkpoints/digits_lt_bbn/teacher.pt")])
    >>> sorted(teacher.accuracy.as_dict())
    ['all', 'class_mean', 'few', 'many', 'medium']
    """
    require_choice("part", part, PARTS)
    paths, plot = as_paths(paths), None if plot is None else Path(plot)
    if plot is not None:
        _refuse_plot(plot, paths, force)
    recipe = recipe or recorded_recipe(paths[0], (), None)
    target = choose_device(device)
    with ranks_on(target) as ranks:
        evaluated = _evaluate(paths, recipe, target, progress, as_texts(own), workers, part, ranks)
    if plot is not None and ranks.first:
        _plot(plot, evaluated, PARTS[part])
    return evaluated


def _evaluate(
    paths: Sequence[Path],
    recipe: Recipe,
    target: torch.device,
    progress: Progress,
    own: Sequence[str],
    workers: int | None,
    part: str,
    ranks: Ranks,
) -> list[Result]:
    ranks.require_same({"recipe": recipe.as_dict() | {"data": recipe.data.identity()}}, "their recipes")
    loaded = [(path, *checkpoint.load_model(path, own)) for path in paths]
    weights = {str(place): document["weights_hash"] for place, (_, _, document) in enumerate(loaded, 1)}
    ranks.require_same({"weights": weights}, "their checkpoints")
    tests: dict[tuple[int | None, bool], Samples] = {}
    prepared: dict[str, Images] = {}
    evaluators = []
    for path, _, document in loaded:  # before the progress bar, because indexing images has one of its own
        own_recipe = build(document["recipe"], where=str(path))
        asked = (path, document, own_recipe, recipe, part, progress)
        ranks.from_first(partial(require_untrained, *asked))
        views = own_recipe.views
        if (pictures := (views.picture_size, views.one_size)) not in tests:
            with ranks.one_a_machine_first():
                tests[pictures] = load_part(replace(recipe, views=views), part, SILENT if tests else progress)
            require_same_pictures(ranks, {part: tests[pictures]})
        test = tests[pictures]
        _check_classes(path, document["classes"], test.classes)
        _check_channels(path, document["architecture"]["channels"], test.pictures.channels)
        space = view_space(views.kind, test.pictures.shape, **views.keys()).clean
        if (key := json.dumps(space.describe())) not in prepared:
            prepared[key] = Images(test.pictures, space, target, workers, room_of(ranks))
            warn_of_workers(prepared[key], workers, progress)
        counts = np.array(document["class_counts"])
        evaluators.append(Evaluator(prepared[key], test.labels, counts, target, ranks))
    evaluated = []
    with progress.bar("eval", len(loaded)) as bar:
        for (path, network, document), evaluator in zip(loaded, evaluators, strict=True):
            record = {key: value for key, value in document.items() if key != "model"}
            try:
                evaluated.append(Result(path, record, evaluator(network.on(target))))
            except ModelError as error:
                raise CheckpointError(f"{path}: {error}") from error
            bar.advance()
    return evaluated


def _refuse_plot(plot: Path, paths: Sequence[Path], force: bool) -> None:
    outputs.require_suffix(plot, PLOT_SUFFIXES, "--plot")
    from dive.report.figures import KIND

    outputs.refuse_existing(plot, force, KIND, paths, "--plot")
    outputs.require_place(plot)


def _plot(plot: Path, evaluated: Sequence[Result], title: str) -> None:
    from dive.report.class_figure import ClassAccuracies, plot_classes

    outputs.prepare_folder(plot)
    names = [printable(model_name(one.record["kind"], one.record)) for one in evaluated]
    seeds = [f", seed {one.record['seed']}" if len(evaluated) > 1 else "" for one in evaluated]
    models = [
        ClassAccuracies(name + seed, one.record["class_counts"], one.accuracy.per_class)
        for name, seed, one in zip(names, seeds, evaluated, strict=True)
    ]
    plot_classes(plot, f"{title} by class, {printable(evaluated[0].record['recipe']['name'])}", models)


def _check_channels(path: Path, channels: int, here: int) -> None:
    if channels != here:
        raise CheckpointError(
            f"{path} takes images of {channels} channel{'s' * (channels > 1)}, the test set has {here}; "
            "evaluate it with its own recipe"
        )


def _check_classes(path: Path, classes: list[str], test_classes: tuple[str, ...]) -> None:
    if tuple(classes) != test_classes:
        raise CheckpointError(
            f"{path} has {len(classes)} classes ({classes[0]}, …), the test set has "
            f"{len(test_classes)} ({test_classes[0]}, …); give the checkpoint's own data with --data"
        )


def across_seeds(evaluated: Sequence[Result]) -> list[Seeds]:
    """A summary of each group of two or more runs that differ only in their seed."""
    runs = of_one_run(evaluated, lambda one: one.record)
    return [_summary(members) for members in runs if len(members) > 1]


def apart_by_precision(evaluated: Sequence[Result]) -> Iterator[Apart]:
    """The groups of runs that `across_seeds` does not average only because their precisions differ.

    A group is left out if one of its precisions has all the seeds.
    """
    alike: list[list[Result]] = []
    for one in evaluated:
        group = next((g for g in alike if alike_but_for_precision(g[0].record, one.record)), None)
        if group is None:
            alike.append(group := [])
        group.append(one)
    for group in alike:
        seeds: dict[str, set[int]] = {}
        for one in group:
            seeds.setdefault(precisions_told(one.record), set()).add(one.record["seed"])
        if not any(numbers == set().union(*seeds.values()) for numbers in seeds.values()):
            yield Apart(group[0].record, {told: sorted(seeds[told]) for told in sorted(seeds)})


def _summary(members: Sequence[Result]) -> Seeds:
    columns = list(zip(*(m.accuracy.as_dict().values() for m in members), strict=True))
    return Seeds(
        count=len(members),
        record=members[0].record,
        means=[None if None in column else statistics.fmean(column) for column in columns],
        deviations=[None if None in column else statistics.stdev(column) for column in columns],
    )
