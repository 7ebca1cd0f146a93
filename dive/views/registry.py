"""View spaces by their name in recipes: each is one module in this folder and one line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dive import structure as s
from dive.errors import DataError
from dive.recipe.bounds import LARGEST_SIDE
from dive.views.space import SEVERAL_SIZES, ViewSpace

# Each class is called with (height, width) of the images, None if they differ, and the kind's own keys.
SPACES = {
    "crop_flip": "dive.views.crop_flip:CropFlip",
    "autoaugment": "dive.views.autoaugment:AutoAugmentCutout",
    "resized_crop": "dive.views.resized_crop:ResizedCrop",
}


def view_space(kind: str, image: tuple[int, int] | None, **keys: Any) -> ViewSpace:
    """The view space of a kind for images of (H, W), with the keys of that kind.

    image: None for images of several sizes; raises DataError if the kind needs images of one size.

    >>> view_space("crop_flip", (32, 32), pad=4, flip=True).size
    162
    """
    of_kind = _class(kind)
    if image is None and of_kind.made == "device":
        raise DataError(SEVERAL_SIZES)
    space: ViewSpace = of_kind(image, **keys)
    return space


def described_space(description: Mapping[str, Any]) -> ViewSpace:
    """The view space of a description, such as `describe` returns; its version is not checked.

    Raises ValueError, which names the fault, if the description is malformed.
    """
    side = s.whole(1, LARGEST_SIDE)
    if fault := s.fault_of(description, {"kind": s.one_of(*SPACES), "image": s.list_of(side)}):
        raise ValueError(fault)
    if len(description["image"]) != 2:
        raise ValueError("its image does not have two sides")
    of_kind = _class(description["kind"])
    keys: dict[str, s.Check] = of_kind.KEYS
    if fault := s.fault_of(description, keys):
        raise ValueError(fault)
    space: ViewSpace = of_kind(tuple(description["image"]), **{key: description[key] for key in keys})
    if list(space.shape) != description["image"]:
        raise ValueError(
            f"its image is {description['image']}, not {list(space.shape)}, the size of its views"
        )
    return space


def _class(kind: str) -> Any:
    module, _, name = SPACES[kind].partition(":")
    return getattr(import_module(module), name)
