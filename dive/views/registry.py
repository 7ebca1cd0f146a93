"""View spaces by the name that a recipe gives them: a space is a module beside this one and a line here."""

from collections.abc import Mapping
from importlib import import_module
from typing import Any

from dive import structure as s
from dive.views.space import ViewSpace

# Each is called with (height, width) of the pictures and the kind's own keys.
SPACES = {
    "crop_flip": "dive.views.crop_flip:CropFlip",
    "autoaugment": "dive.views.autoaugment:AutoAugmentCutout",
}
LARGEST_SIDE = 1024  # pixels of a picture, as `views.size` allows


def view_space(kind: str, image: tuple[int, int], **keys: Any) -> ViewSpace:
    """The view space of a kind for pictures of (H, W), with the keys of that kind.

    >>> view_space("crop_flip", (32, 32), pad=4, flip=True).size
    162
    """
    space: ViewSpace = _class(kind)(image, **keys)
    return space


def described_space(description: Mapping[str, Any]) -> ViewSpace:
    """The view space that a description (`describe`) is of; its version is not looked at.

    Raises ValueError that says what is wrong with a description that no space gives.
    """
    side = s.whole(1, LARGEST_SIDE)
    if fault := s.fault_of(description, {"kind": s.one_of(*SPACES), "image": s.list_of(side)}):
        raise ValueError(fault)
    if len(description["image"]) != 2:
        raise ValueError("its image has not two sides")
    of_kind = _class(description["kind"])
    keys: dict[str, s.Check] = of_kind.KEYS
    if fault := s.fault_of(description, keys):
        raise ValueError(fault)
    space: ViewSpace = of_kind(tuple(description["image"]), **{key: description[key] for key in keys})
    return space


def _class(kind: str) -> Any:
    module, _, name = SPACES[kind].partition(":")
    return getattr(import_module(module), name)
