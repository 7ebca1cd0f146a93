"""The recipe that draws the images of a cache."""

from typing import Any

from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.recipe.reading import build
from dive.recipe.recipe import KINDS, Recipe


def recipe_of(
    cache: LogitCache, root: str | None, given: Recipe | None, recorded: dict[str, Any] | None
) -> Recipe:
    """A recipe that draws the images of a cache. The cache must state its origin.

    root: the location of the images; None for that of the recipe. given: the user's recipe, which has
    precedence over `recorded`, the recipe of the cache's teacher or of another run on the same images.
    Without either, the images are expected at the default location of the `data.kind` that the cache states.
    Raises CacheError if the user's recipe has another `data.kind`, RecipeError if the resulting recipe is not
    valid.
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
