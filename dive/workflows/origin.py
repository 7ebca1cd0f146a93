"""The identity of a cache: its data, views, encoding and teachers."""

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
    """The identity of a cache. Caches of equal identity have equal rows, except for the precision.

    train: its samples. views: the choice of view ids, as `dive.cache.stored_views` names it. store: the name
    of its encoding. teachers: its entry about the teacher or teachers.
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
