"""The recipe of the images that a cache was made from."""

from typing import Any

from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.recipe.reading import build
from dive.recipe.recipe import KINDS, Recipe


def recipe_of(
    cache: LogitCache, root: str | None, given: Recipe | None, recorded: dict[str, Any] | None
) -> Recipe:
    """A recipe that draws the images of a cache. The identity of the cache must state its origin.

    root: the location of the images; None for that in the recipe. given: the recipe from the user. It takes
    precedence over `recorded`, the recipe of the cache's teacher or of another run on the same images, in
    plain values. Without both, the images are of the kind that the cache states, in the default location of
    that kind. Raises CacheError if the recipe from the user has another kind of data, RecipeError if the
    result is not a valid recipe.
    """
    stated = cache.identity["data"]
    if given is not None and given.data.kind != stated["kind"]:
        raise CacheError(
            f"{cache.path} is of images of data.kind {stated['kind']}, the recipe {given.name} of "
            f"{given.data.kind}; give the recipe that it was exported with"
        )
    channels = getattr(KINDS["data"].get(stated["kind"]), "channels", 3)
    of_kind = {"data": {}, "model": {"input": {"mean": [0.0] * channels, "std": [1.0] * channels}}}
    base: dict[str, Any] = (recorded or of_kind) if given is None else given.as_dict()
    root = root or base["data"].get("root")
    described = cache.identity["view_space"]
    kind = KINDS["views"][described["kind"]]()
    views = {key: described[key] for key in ("kind", *kind.keys())}
    parts = {
        "name": cache.identity["recipe"],
        "data": base["data"] | stated | ({} if root is None else {"root": root}),
        "views": ({"size": cache.identity["picture_size"]} if kind.one_size else {}) | views,
    }
    return build(base | parts, where=str(cache.path))
