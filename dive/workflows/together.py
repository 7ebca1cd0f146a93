"""The checks that processes which run one command together have the same task and data."""

from collections.abc import Mapping, Sequence
from typing import Any

from dive.data.longtail import Dataset, Samples
from dive.recipe.recipe import Recipe
from dive.training.ranks import Ranks
from dive.workflows.results import TrainOptions


def require_same_task(
    ranks: Ranks, recipes: Sequence[Recipe], options: TrainOptions, more: Mapping[str, Any] | None = None
) -> None:
    """Raise DiveError in every process if one has another recipe or other options than the first.

    The location of the images may differ. more: further options in plain values.
    """
    asked = [recipe.as_dict() | {"data": recipe.data.identity()} for recipe in recipes]
    own = {"force": options.force, "eval_every": options.eval_every}
    ranks.require_same({"recipe": asked, "options": own | dict(more or {})}, "their recipes or options")


def require_same_data(ranks: Ranks, dataset: Dataset) -> None:
    """Raise DiveError in every process if one has other images than the first."""
    val = {} if dataset.val is None else {"val": dataset.val}
    require_same_pictures(ranks, {"train": dataset.train, "test": dataset.test, **val})


def require_same_pictures(ranks: Ranks, parts: Mapping[str, Samples]) -> None:
    """The same for the splits of a data set, by name."""
    if not ranks.alone:  # one process alone does not need the digests of the test images
        prints = {name: samples.fingerprint for name, samples in parts.items()}
        ranks.require_same({"fingerprint": prints}, "their images")
