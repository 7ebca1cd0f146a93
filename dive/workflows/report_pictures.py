"""Training images of a cache in some of its stored views, for the page of `dive report`."""

import base64
import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from dive.cache.reader import LogitCache
from dive.cache.stored_views import space_of
from dive.data.images import LabelledImages
from dive.data.longtail import shot_groups
from dive.errors import CacheError, RecipeError
from dive.feeds.cached_views import CachedViews
from dive.recipe.recipe import Recipe
from dive.report.page.content import Picture, View
from dive.workflows.cached import recipe_of

VIEWS = 4
SIDE = 192  # pixels; larger views are scaled down to it
_SHARPEST = 96  # views of up to so many pixels a side are stored without loss
_OF_CLASSES = (0.25, 0.75)  # quantiles of a group's classes by training images; their first images are shown


def place_of(
    cache: LogitCache, records: Sequence[Mapping[str, Any]], data: str | None, given: Recipe | None = None
) -> tuple[str, dict[str, Any]] | str:
    """The kind and the place of a cache's images, or a sentence that says why they cannot be shown.

    The place is a recipe's `data.place()`. records: of results; the first with the data fingerprint of the
    cache gives the place, except its root. data: the root of the images. given: a recipe that has precedence
    over the records.
    """
    fingerprint = cache.identity.get("data_fingerprint")
    same = [one["recipe"] for one in records if one["data_fingerprint"] == fingerprint]
    try:
        cache.require_origin()
        space_of(cache)
        place = recipe_of(cache, None, given, same[0] if same else None).data.place()
    except (CacheError, RecipeError) as error:
        return f"Which images the cache is of is not known, so none can be shown: {error}"
    kind = cache.identity["data"]["kind"]
    if "root" not in place:
        return kind, place
    if data is None:
        return "A cache does not contain its images. To show some here, give their location with --data PATH."
    return kind, place | {"root": data}


def pictures_of(cache: LogitCache, place: tuple[str, dict[str, Any]]) -> list[Picture]:
    """A few images of many-, medium- and few-shot classes, each in some of its stored views.

    place: from `place_of`. Raises DataError if the images are missing or differ from those of the cache,
    CacheError if this version computes other pixels for the views.
    """
    kind, where = place
    views = CachedViews(cache, LabelledImages(kind, where))
    return [
        _picture(views, shot, int(label))
        for shot, members in shot_groups(cache.class_counts).items()
        for label in _chosen(members, cache.class_counts)
    ]


def _chosen(members: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The classes of a group at the quantiles `_OF_CLASSES`, each once. members: the labels of the group."""
    if not len(members):
        return members
    ordered = members[np.argsort(-counts[members], kind="stable")]
    return ordered[np.unique((np.array(_OF_CLASSES) * (len(members) - 1)).round().astype(int))]


def _picture(views: CachedViews, shot: str, label: int) -> Picture:
    cache = views.cache
    row = int(np.flatnonzero(cache.labels == label)[0])
    columns = _columns(cache, row)
    logits = cache.logits([row] * len(columns), columns)
    shown = [
        View(
            column,
            int(view_id := cache.views[row, column]),
            bool(view_id == cache.facts.get("clean_id")),
            _uri(views.pixels(row, column)),
            of_view.tolist(),
        )
        for column, of_view in zip(columns, logits, strict=True)
    ]
    return Picture(cache.keys[row], label, shot, shown)


def _columns(cache: LogitCache, row: int) -> list[int]:
    """The columns of up to `VIEWS` views of a sample, the clean view first, the others evenly spread."""
    stored = cache.shape[1]
    clean = np.flatnonzero(cache.views[row] == cache.facts.get("clean_id", -1))[:1].tolist()
    others = [column for column in range(stored) if column not in clean]
    count = min(VIEWS - len(clean), len(others))
    spread = np.linspace(0, len(others) - 1, count).round().astype(int)
    return [*clean, *(others[place] for place in spread)]


def _uri(pixels: np.ndarray) -> str:
    """A view (H, W, channels) uint8 as a data URI: PNG, or a WebP thumbnail of a large view."""
    image = Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    form, more = "png", {}
    if max(image.size) > _SHARPEST:
        image.thumbnail((SIDE, SIDE))
        form, more = "webp", {"quality": 85}
    buffer = io.BytesIO()
    image.save(buffer, form, **more)
    return f"data:image/{form};base64,{base64.b64encode(buffer.getvalue()).decode()}"
