"""A recipe's data set prepared on a device, and the specification of a run of the recipe on it."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dive.data.longtail import Dataset, Samples
from dive.feeds.feed import Room, fits
from dive.feeds.images import Images
from dive.method.objectives import Objective
from dive.models.weights import InitialWeights
from dive.recipe.recipe import Recipe
from dive.training.evaluation import Evaluator
from dive.training.ranks import ALONE, Ranks
from dive.training.spec import RunSpec, ViewDraw
from dive.views.registry import view_space
from dive.workflows.results import architecture_of, identity_of


@dataclass(frozen=True)
class Prepared:
    """A recipe's data set prepared on a device, once for all runs of a command and for their evaluation.

    images: the training images in the recipe's view space. labels: (N,) int64 on the device. evaluator:
    evaluates on the test set. validator: evaluates on the validation set, None without one. ranks: the
    processes that share training and evaluation.
    """

    dataset: Dataset
    device: torch.device
    images: Images
    labels: torch.Tensor
    evaluator: Evaluator
    validator: Evaluator | None = None
    ranks: Ranks = ALONE


def prepare(
    recipe: Recipe,
    dataset: Dataset,
    device: torch.device,
    workers: int | None = None,
    ranks: Ranks = ALONE,
) -> Prepared:
    """Prepare the data set of a recipe on a device. workers: as for `dive.feeds.images.Images`."""
    room = room_of(ranks)
    train_set = dataset.train
    space = view_space(recipe.views.kind, train_set.pictures.shape, **recipe.views.keys())

    def evaluator(samples: Samples) -> Evaluator:
        shown = view_space(recipe.views.kind, samples.pictures.shape, **recipe.views.keys()).clean
        images = Images(samples.pictures, shown, device, workers, room)
        return Evaluator(images, samples.labels, train_set.counts, device, ranks)

    return Prepared(
        dataset=dataset,
        device=device,
        images=Images(train_set.pictures, space, device, workers, room),
        labels=torch.from_numpy(train_set.labels).to(device),
        evaluator=evaluator(dataset.test),
        validator=None if dataset.val is None else evaluator(dataset.val),
        ranks=ranks,
    )


def room_of(ranks: Ranks) -> Room:
    """A function that decides whether so many bytes may be held on a device.

    The first process decides for all, so that all of them do the same.
    """
    return lambda size, device: ranks.tell(fits(size, device))


def spec_of(
    recipe: Recipe,
    kind: str,
    out: Path,
    prepared: Prepared,
    objective: Objective,
    views: ViewDraw,
    facts: dict[str, Any],
    initial: InitialWeights | None,
) -> RunSpec:
    """The specification of a run of a recipe on prepared data, for teachers and students.

    kind: `teacher` or `student`. out: the checkpoint to write. views: draws the views of an epoch. facts:
    entries of the record that are specific to the kind. initial: the initial weights, None for random ones.
    """
    train_set = prepared.dataset.train
    identity = identity_of(recipe, kind, train_set.fingerprint, facts)
    return RunSpec(
        kind=kind,
        out=out,
        seed=recipe.seed,
        architecture=architecture_of(recipe, train_set),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        precision=recipe.precision,
        objective=objective,
        images=prepared.images,
        labels=prepared.labels,
        hashes=train_set.hashes,
        views=views,
        recipe=recipe.as_dict(),
        identity=identity | {"view_space": prepared.images.space.describe()},
        facts=facts,
        sync_batchnorm=recipe.model.sync_batchnorm,
        initial=initial,
        reads=(initial.file,) if initial is not None and initial.file is not None else (),
    )
