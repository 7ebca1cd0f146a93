"""The part `views` of a recipe: a dataclass for each view space, with only the keys of that space."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from dive.recipe import bounds
from dive.recipe.bounds import within
from dive.recipe.keys import SEED, SIDE, key
from dive.recipe.keys import kind as named

# Keys that several kinds have: what a value must be, and what it means.
FLIP = (None, "whether half of the views are flipped horizontally; must be false for `digits`")
DRAWN = (SEED, "seed of the draw of the views that a cache stores, if it does not store all")


@dataclass(frozen=True)
class Views:
    """What every space of augmented views has in common.

    colour: whether it needs images of three channels. one_size: whether it needs images of one size, to which
    `size` resizes them; if not, `size` is the size of the views, and images keep their own sizes. usual: the
    views that an export stores by default.
    """

    colour: ClassVar[bool] = False
    one_size: ClassVar[bool] = True
    usual: ClassVar[str] = "all"

    kind: str
    size: int | None
    seed: int

    @property
    def picture_size(self) -> int | None:
        """The side in pixels to which images are resized, None if they keep their size."""
        return self.size if self.one_size else None

    def keys(self) -> dict[str, Any]:
        """The keys that define a view, without the size that images are resized to and the seed of draws."""
        common = ("kind", "size", "seed") if self.one_size else ("kind", "seed")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in common}


@dataclass(frozen=True)
class CropFlip(Views):
    """Zero padding, random crop to the original size, random horizontal flip."""

    kind: str = named("crop_flip")
    pad: int = key(4, within(0, 64), "zero padding on each side before the crop, in pixels")
    flip: bool = key(True, *FLIP)
    size: int | None = key(
        None, SIDE, "side in pixels to which images are resized and centre-cropped; null keeps their size"
    )
    seed: int = key(0, *DRAWN)


@dataclass(frozen=True)
class AutoAugment(CropFlip):
    """`crop_flip`, AutoAugment (CIFAR-10 policy) and Cutout (half the side); for colour images only."""

    colour: ClassVar[bool] = True
    usual: ClassVar[str] = "50"

    kind: str = named("autoaugment")


@dataclass(frozen=True)
class ResizedCrop(Views):
    """Random resized crop, random horizontal flip and colour jitter, for photographs of any size."""

    one_size: ClassVar[bool] = False
    usual: ClassVar[str] = "50"

    kind: str = named("resized_crop")
    size: int = key(224, SIDE, "side of a view in pixels")
    scale: tuple[float, ...] = key(
        (0.08, 1.0),
        bounds.interval(*bounds.CROP_SCALES),
        "smallest and largest area of a crop, as a share of the area of the image",
    )
    ratio: tuple[float, ...] = key(
        (3 / 4, 4 / 3),
        bounds.interval(*bounds.CROP_RATIOS),
        "smallest and largest width of a crop, as a multiple of its height",
    )
    flip: bool = key(True, *FLIP)
    jitter: tuple[float, ...] = key(
        (0.4, 0.4, 0.4, 0.0),
        bounds.numbers(*bounds.JITTER),
        "strength of the jitter of brightness, contrast, saturation and hue; 0 disables one",
    )
    seed: int = key(0, *DRAWN)
