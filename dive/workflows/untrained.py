"""The check of `dive eval` that a checkpoint is not evaluated on images that it was trained on."""

import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from dive.data.longtail import PIXELS
from dive.data.sources.names import collapsed
from dive.data.sources.registry import open_source
from dive.data.sources.source import Split
from dive.errors import CheckpointError, DataError
from dive.printable import excerpt
from dive.progress import SILENT, Progress
from dive.recipe.data import Data
from dive.recipe.recipe import Recipe
from dive.workflows.data import load_training

_IMAGES = {"test": "test", "val": "validation"}


def require_untrained(
    path: Path, document: dict[str, Any], own_recipe: Recipe, recipe: Recipe, part: str, progress: Progress
) -> None:
    """Raise CheckpointError if, by its own recipe, the checkpoint was trained on images of the split `part`.

    If that cannot be determined, warn. document: the checkpoint's. own_recipe: the recipe that it was trained
    with. recipe: the recipe of the evaluation. part: `test` or `val`.
    """
    own, here = own_recipe.data, recipe.data
    if own.kind != here.kind:
        return
    division = {key: getattr(own, key) for key in own.dividing if getattr(own, key) != getattr(here, key)}
    if not division:
        return
    shown = ", ".join(
        f"data.{key} is {_value(getattr(here, key))} here and {_value(value)} there"
        for key, value in division.items()
    )
    count = _training_images_in(part, here, division)
    if count is None:
        progress.warn(
            f"whether {path} was trained on these {_IMAGES[part]} images is not known, because the data set "
            f"here cannot be divided as in its recipe: {shown}"
        )
    elif count and not _is_of_these(document, own_recipe, here):
        progress.warn(
            f"{count} of these {_IMAGES[part]} images have the names of images that {path} was trained on, "
            f"by its own recipe ({shown}); it was trained on another data set than the one here, so whether "
            "these are the same images is not known"
        )
    elif count:
        raise CheckpointError(
            f"{path} was trained on {count} of these {_IMAGES[part]} images by its own recipe: {shown}; "
            "evaluate it with its own recipe, without --config and without --set of these keys"
        )


def _is_of_these(document: dict[str, Any], own: Recipe, here: Data) -> bool:
    """Whether a checkpoint was trained on the data set that is here.

    True if the data have no root, if both recipes have the same root, or if the training set that the
    checkpoint's recipe draws from the root here has the fingerprint in the checkpoint. A record cannot show
    whether another set shares images with this one.
    """
    place, there = (recipe.place().get("root") for recipe in (own.data, here))
    if place is None or there is None or os.path.realpath(place) == os.path.realpath(there):
        return True
    try:
        train = load_training(replace(own, data=replace(own.data, **{"root": there})), SILENT)
    except DataError:
        return False
    digests_of = document.get("digests", PIXELS)
    return train.digests_of == digests_of and document["data_fingerprint"] == train.fingerprint_of(
        document["fingerprint_version"], digests_of
    )


def _value(value: Any) -> str:
    return "null" if value is None else excerpt(value)


def _training_images_in(part: str, here: Data, division: Mapping[str, Any]) -> int | None:
    """The number of images of the split `part` of `here` that another division uses for training.

    division: other values of the keys `here.dividing`. None if the images cannot be divided in this way.
    Images that the long-tailed draw leaves out count too.
    """
    asked = open_source(here.kind, **here.place())
    try:
        other = open_source(here.kind, **here.place() | dict(division))
    except DataError:
        return None
    return len(_files(getattr(asked, part)) & _files(other.train))


def _files(split: Split | None) -> set[str]:
    if split is None or split.files is None:
        return set()
    return {collapsed(name) for name in split.files.names}
