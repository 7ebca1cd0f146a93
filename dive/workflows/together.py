"""Checks that the processes that run one command together were given the same task and the same images."""

from collections.abc import Mapping, Sequence
from typing import Any

from dive.data.longtail import Dataset, Samples
from dive.recipe.recipe import Recipe
from dive.training.ranks import Ranks
from dive.workflows.results import TrainOptions


def require_same_task(
    ranks: Ranks, recipes: Sequence[Recipe], options: TrainOptions, more: Mapping[str, Any] | None = None
) -> None:
    """Raise DiveError in every process if the task of one differs from that of the first.

    The paths of the images may differ. more: further options to compare, in plain values.
    """
    asked = [recipe.as_dict() | {"data": recipe.data.identity()} for recipe in recipes]
    own = {"force": options.force, "eval_every": options.eval_every}
    ranks.require_same({"recipe": asked, "options": own | dict(more or {})}, "their recipes or options")


def require_same_data(ranks: Ranks, dataset: Dataset) -> None:
    """Raise DiveError in every process if one has other images than the first."""
    val = {} if dataset.val is None else {"val": dataset.val}
    require_same_pictures(ranks, {"train": dataset.train, "test": dataset.test, **val})


def require_same_pictures(ranks: Ranks, parts: Mapping[str, Samples]) -> None:
    """Raise DiveError in every process if one has other images than the first.

    parts: the splits of a data set to compare, by name.
    """
    if not ranks.alone:  # one process alone does not need the digests of the test images
        prints = {name: samples.fingerprint for name, samples in parts.items()}
        ranks.require_same({"fingerprint": prints}, "their images")
