"""The recipe of the pictures that a cache is of."""

from typing import Any

from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.recipe.reading import build
from dive.recipe.recipe import KINDS, Recipe


def recipe_of(
    cache: LogitCache, root: str | None, given: Recipe | None, recorded: dict[str, Any] | None
) -> Recipe:
    """A recipe that draws the pictures a cache is of, which must state its origin.

    root: where they are, None where the recipe says. given: by the user, goes before `recorded`, that of its
    teacher or of another run on the same pictures. With neither the pictures are those of the kind that the
    cache states, in their usual place. Raises CacheError where the user's is of another kind, RecipeError
    where there is no such recipe.
    """
    stated = cache.identity["data"]
    if given is not None and given.data.kind != stated["kind"]:
        raise CacheError(
            f"{cache.path} is of images of data.kind {stated['kind']}, the recipe {given.name} of "
            f"{given.data.kind}; give the recipe that it was exported by"
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
