"""What a cache says it is of."""

from collections.abc import Mapping
from typing import Any

from dive.data.longtail import Samples
from dive.recipe.recipe import Recipe
from dive.views.space import ViewSpace


def identity_of(
    recipe: Recipe,
    train: Samples,
    space: ViewSpace,
    views: str,
    store: str,
    teachers: Mapping[str, Any],
) -> dict[str, Any]:
    """The identity of a cache: equal ones hold equal rows, but for the precision.

    train: the samples that it holds. views: which ids of the space, as `dive.cache.stored_views` names them.
    store: the name of its encoding. teachers: what it has of its teacher or teachers.
    """
    return {
        "recipe": recipe.name,
        "data": recipe.data.identity(),
        "data_fingerprint": train.fingerprint,
        "digests": train.digests_of,
        "picture_size": recipe.views.picture_size,
        "view_space": space.describe(),
        "views": views,
        "view_seed": recipe.views.seed,
        "store": store,
        **teachers,
    }
