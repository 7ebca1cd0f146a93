"""Views of photographs: random resized crop, horizontal flip and colour jitter, all drawn from the view's id.

These are torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter on PIL images, with the same
distributions and, for the same parameters, the same pixels. Every draw is a hash of the id alone; the crop
also depends on the height and width of the image. A view is computed from the decoded image in one way, in
uint8 throughout: integer crop, Pillow's bilinear resize, flip, jitter. `Image.resize(box=...)`, `Image.draft`
and a resize of tensors give other pixels. This module does not use torch.
"""

import functools
import hashlib
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
from PIL import Image, ImageStat

from dive import structure as s
from dive.randomness import hash64
from dive.recipe import bounds

CLEAN_ID = 0
VERSION = 1  # to be raised with any change of the pixels of a view that dive's own code causes
TRIES = 10  # draws of a crop until one is within the image

# The draws of a view by number, each from its own hash; from `_TRIES` on, two for each try of the crop.
_FLIP, _ORDER, _TOP, _LEFT, _JITTER, _TRIES = 0, 1, 2, 3, 4, 8
_ORDERS = tuple(itertools.permutations(range(4)))
_PROBE_SIDE, _PROBE_VIEWS = 32, 32

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Drawn:
    """The parameters of one view of one image.

    box: top, left, height and width of the crop in pixels. mirrored: whether it is flipped horizontally.
    jitter: the colour operations in the order in which they are applied, each with its factor.
    """

    box: Box
    mirrored: bool
    jitter: tuple[tuple[str, float], ...]


class ResizedCrop:
    """Crop a random part of an image, resize it, optionally flip it, and change its colours.

    Any non-negative int64 is a view id; 0 is the clean view: the shorter side is resized to size·256/224
    pixels and the centre is cropped.

    Args:
        image: the size of the images; not used, since they may have any size.
        size: side of a view in pixels.
        scale: the smallest and largest area of a crop, as a fraction of the area of the image.
        ratio: the smallest and largest aspect ratio of a crop, width divided by height.
        flip: whether half of the views are flipped horizontally.
        jitter: the strength of brightness, contrast, saturation and hue; 0 disables one.

    Example:
        >>> space = ResizedCrop(None, 8, (0.08, 1.0), (3 / 4, 4 / 3), True, (0.4, 0.4, 0.4, 0.0))
        >>> space.view(np.zeros((30, 40, 3), dtype=np.uint8), 12345).shape
        (8, 8, 3)
    """

    KEYS: ClassVar[dict[str, s.Check]] = {
        "size": s.whole(1, bounds.LARGEST_SIDE),
        "scale": s.interval(*bounds.CROP_SCALES),
        "ratio": s.interval(*bounds.CROP_RATIOS),
        "flip": s.truth,
        "jitter": s.numbers(*bounds.JITTER),
    }
    made: ClassVar[Literal["host"]] = "host"
    size = None
    clean_id = CLEAN_ID

    def __init__(
        self,
        image: tuple[int, int] | None,
        size: int,
        scale: Sequence[float],
        ratio: Sequence[float],
        flip: bool,
        jitter: Sequence[float],
    ) -> None:
        self.shape = size, size
        self.scale, self.ratio, self.flip = _pair(scale), _pair(ratio), flip
        self.jitter = tuple(float(strength) for strength in jitter)

    def describe(self) -> dict[str, Any]:
        """The description of the view space in plain values; equal descriptions mean equal views.

        `pixels_hash` is a hash of some small views with these parameters. It changes if another version of
        Pillow gives other pixels.
        """
        return {
            "kind": "resized_crop",
            "version": VERSION,
            "size": self.shape[0],
            "scale": list(self.scale),
            "ratio": list(self.ratio),
            "flip": self.flip,
            "jitter": list(self.jitter),
            "image": list(self.shape),
            "pixels_hash": _pixels_hash(self.scale, self.ratio, self.flip, self.jitter),
        }

    @property
    def clean(self) -> "CentreCrop":
        """The space of the clean view alone, the centre of the image."""
        return CentreCrop(self.shape[0])

    def drawn(self, view_id: int, height: int, width: int) -> Drawn:
        """The parameters of a view that is not the clean one, of an image of this size in pixels."""
        hashes = hash64(view_id, np.arange(_TRIES + 2 * TRIES, dtype=np.uint64))
        draws = (hashes >> np.uint64(11)).tolist()  # below 2⁵³
        mirrored = self.flip and draws[_FLIP] % 2 == 1
        return Drawn(self._box(draws, height, width), mirrored, self._jitter_of(draws))

    def _box(self, draws: list[int], height: int, width: int) -> Box:
        """The first drawn crop within the image; if there is none, the largest centred one of valid ratio."""
        low, high = math.log(self.ratio[0]), math.log(self.ratio[1])
        for at in range(_TRIES, _TRIES + 2 * TRIES, 2):
            area = height * width * _between(*self.scale, draws[at])
            aspect = math.exp(_between(low, high, draws[at + 1]))
            wide, tall = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
            if 0 < wide <= width and 0 < tall <= height:
                return draws[_TOP] % (height - tall + 1), draws[_LEFT] % (width - wide + 1), tall, wide
        tall, wide = height, width
        if width / height < self.ratio[0]:
            tall = max(1, round(width / self.ratio[0]))
        elif width / height > self.ratio[1]:
            wide = max(1, round(height * self.ratio[1]))
        return (height - tall) // 2, (width - wide) // 2, tall, wide

    def _jitter_of(self, draws: list[int]) -> tuple[tuple[str, float], ...]:
        """The colour operations in their drawn order, each with its drawn factor."""
        jitter = []
        for at in _ORDERS[draws[_ORDER] % len(_ORDERS)]:
            operation, strength = _NAMES[at], self.jitter[at]
            if strength:
                ends = (-strength, strength) if operation == "hue" else (max(0.0, 1 - strength), 1 + strength)
                jitter.append((operation, _between(*ends, draws[_JITTER + at])))
        return tuple(jitter)

    def view(self, picture: np.ndarray | Image.Image, view_id: int) -> np.ndarray:
        """View `view_id` of an image of any size: (size, size, channels) uint8.

        picture: pixels (h, w, 1 or 3) uint8, or a Pillow image of mode L or RGB, which saves a copy.
        """
        if view_id == CLEAN_ID:
            return self.clean.view(picture, CLEAN_ID)
        height, width = picture.shape[:2] if isinstance(picture, np.ndarray) else picture.size[::-1]
        drawn = self.drawn(view_id, height, width)
        image = _cropped(picture, drawn.box)
        image = image.resize(self.shape, Image.Resampling.BILINEAR)
        if drawn.mirrored:
            image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
        for operation, factor in drawn.jitter:
            image = _OPERATIONS[operation](image, factor)
        return _pixels(image)


class CentreCrop:
    """The centre of an image whose shorter side is resized to size·256/224 pixels; the only id is 0.

    The pixels are those of torchvision's Resize and CenterCrop on a PIL image.
    """

    made: ClassVar[Literal["host"]] = "host"
    size, clean_id = 1, CLEAN_ID

    def __init__(self, size: int) -> None:
        self.shape = size, size

    def describe(self) -> dict[str, Any]:
        """The description of the view space in plain values; equal descriptions mean equal views."""
        return {"kind": "centre_crop", "version": VERSION, "image": list(self.shape)}

    @property
    def clean(self) -> "CentreCrop":
        """This space itself."""
        return self

    def view(self, picture: np.ndarray | Image.Image, view_id: int) -> np.ndarray:
        """The view of an image, given as for `ResizedCrop.view`: (size, size, channels) uint8."""
        side, image = self.shape[0], _image(picture)
        shorter = round(side * 256 / 224)
        resized = [int(shorter * length / min(image.size)) for length in image.size]  # width, height
        left, top = (round((length - side) / 2) for length in resized)
        image = image.resize((resized[0], resized[1]), Image.Resampling.BILINEAR)
        return _pixels(image.crop((left, top, left + side, top + side)))


def _pair(values: Sequence[float]) -> tuple[float, float]:
    low, high = values
    return float(low), float(high)


def _between(low: float, high: float, draw: int) -> float:
    """Maps a draw below 2⁵³ to a number in [low, high)."""
    return low + (high - low) * (draw * 2.0**-53)


def _cropped(picture: np.ndarray | Image.Image, box: Box) -> Image.Image:
    """A crop of an image as a Pillow image."""
    top, left, height, width = box
    if isinstance(picture, np.ndarray):
        return _image(picture[top : top + height, left : left + width])
    return picture.crop((left, top, left + width, top + height))


def _image(picture: np.ndarray | Image.Image) -> Image.Image:
    """Pixels (h, w, 1 or 3) uint8 as a Pillow image of mode L or RGB; returns a Pillow image unchanged."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[2] == 1 else picture))


def _pixels(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB as a writable array (h, w, 1 or 3) uint8."""
    return np.array(image).reshape(image.height, image.width, -1)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    """The result of ImageEnhance.Brightness: the image blended with black."""
    return _blended_with(0, image, factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    """The result of ImageEnhance.Contrast: the image blended with its mean grey."""
    return _blended_with(int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5), image, factor)


def _blended_with(level: int, image: Image.Image, factor: float) -> Image.Image:
    """The result of `Image.blend` for a constant level of grey and an image.

    For factors above 1 Pillow clips the result, which takes three times as long. A table of the results for
    all 256 values is then faster.
    """
    bands = len(image.getbands())
    if factor <= 1:
        return Image.blend(Image.new(image.mode, image.size, (level,) * bands), image, factor)
    table = Image.blend(Image.new("L", _EVERY_VALUE.size, level), _EVERY_VALUE, factor)
    return image.point(list(table.tobytes()) * bands)


def _saturation(image: Image.Image, factor: float) -> Image.Image:
    """The result of ImageEnhance.Color: the image blended with itself in grey; a grey image is unchanged."""
    if image.mode == "L":
        return image
    return Image.blend(Image.merge("RGB", [image.convert("L")] * 3), image, factor)


def _hue(image: Image.Image, factor: float) -> Image.Image:
    """The image with its hue shifted by a fraction of the circle; a grey image is unchanged."""
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # wraps around
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert(image.mode)


_EVERY_VALUE = Image.frombytes("L", (256, 1), bytes(range(256)))
_OPERATIONS = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}
_NAMES = tuple(_OPERATIONS)  # in the order in which their strengths are given


@functools.cache
def _pixels_hash(
    scale: tuple[float, float], ratio: tuple[float, float], flip: bool, jitter: tuple[float, ...]
) -> str:
    """SHA-256 in hexadecimal over the first 32 views, of 32 pixels a side, of a synthetic image of 64×48."""
    space = ResizedCrop(None, _PROBE_SIDE, scale, ratio, flip, jitter)
    y, x, channel = np.ogrid[:48, :64, :3]
    picture = ((7 * y * y + 11 * x * x + 3 * x * y * (channel + 1) + 85 * channel) // 16 % 256).astype(
        np.uint8
    )
    digest = hashlib.sha256()
    for view_id in range(_PROBE_VIEWS):
        digest.update(space.view(picture, view_id).tobytes())
    return digest.hexdigest()
