"""The identity of a logit cache: of which images, views and teachers its logits are."""

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
    """The identity of a cache. Caches of equal identity have equal rows, except for effects of the precision.

    train: the samples of the cache. space: the view space. views: the ids of the space that it stores, as
    named in `dive.cache.stored_views`. store: the name of its encoding. teachers: the entry for its teachers,
    `teacher` or `teachers`, with `teacher_weights` for an ensemble.
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
