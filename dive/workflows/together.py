"""What processes that do one command together must have in common, compared before they begin."""

from collections.abc import Mapping, Sequence
from typing import Any

from dive.data.longtail import Dataset, Samples
from dive.recipe.recipe import Recipe
from dive.training.ranks import Ranks
from dive.workflows.results import TrainOptions


def require_same_task(
    ranks: Ranks, recipes: Sequence[Recipe], options: TrainOptions, more: Mapping[str, Any] | None = None
) -> None:
    """Raise DiveError in every process where one is asked for something else than the first.

    Where the pictures lie may differ. more: what is asked besides, in plain values.
    """
    asked = [recipe.as_dict() | {"data": recipe.data.identity()} for recipe in recipes]
    own = {"force": options.force, "eval_every": options.eval_every}
    ranks.require_same({"recipe": asked, "options": own | dict(more or {})}, "what is asked of them")


def require_same_data(ranks: Ranks, dataset: Dataset) -> None:
    """Raise DiveError in every process where one has other pictures than the first."""
    val = {} if dataset.val is None else {"val": dataset.val}
    require_same_pictures(ranks, {"train": dataset.train, "test": dataset.test, **val})


def require_same_pictures(ranks: Ranks, parts: Mapping[str, Samples]) -> None:
    """The same of the parts of a data set by name."""
    if not ranks.alone:  # which spares one the digests of the test's pictures
        prints = {name: samples.fingerprint for name, samples in parts.items()}
        ranks.require_same({"fingerprint": prints}, "their pictures")
