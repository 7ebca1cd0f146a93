"""Views of photographs: random resized crop, horizontal flip and colour jitter, all drawn from the view's id.

These are torchvision's RandomResizedCrop, RandomHorizontalFlip and ColorJitter on PIL images, with the same
distributions and, for the same parameters, the same pixels. Every draw is a hash of the id alone; the crop
also depends on the picture's height and width. There is one way from a decoded picture to a view, in uint8
throughout: integer crop, Pillow's bilinear resize, flip, jitter. `Image.resize(box=...)`, `Image.draft` and a
resize of tensors give other pixels. No torch.
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
VERSION = 1  # to be raised with any change of the pixels of a view that is dive's own
TRIES = 10  # of a crop that lies within the picture

# What is drawn for a view, each from a hash of its own: two for each try of the crop follow the last.
_FLIP, _ORDER, _TOP, _LEFT, _JITTER, _TRIES = 0, 1, 2, 3, 4, 8
_ORDERS = tuple(itertools.permutations(range(4)))
_PROBE_SIDE, _PROBE_VIEWS = 32, 32

Box = tuple[int, int, int, int]  # top, left, height, width


@dataclass(frozen=True)
class Drawn:
    """The parameters of one view of one picture.

    box: top, left, height and width of the crop in pixels. mirrored: whether it is flipped. jitter: the
    operations on colours in the order in which they are applied, each with its factor.
    """

    box: Box
    mirrored: bool
    jitter: tuple[tuple[str, float], ...]


class ResizedCrop:
    """Crop a random part of a picture, resize it, perhaps flip it, change its colours.

    View ids are any non-negative int64; the clean view is 0: the shorter side is resized to size·256/224
    pixels and the centre is cropped.

    Args:
        image: of the pictures; not looked at, they may have any size.
        size: side of a view in pixels.
        scale: the least and the greatest area of a crop, as a share of the picture's.
        ratio: the least and the greatest width of a crop, as a multiple of its height.
        flip: whether half of the views are mirrored.
        jitter: the strength of brightness, contrast, saturation and hue; 0 leaves one out.

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
        """What makes two view spaces the same, as plain values.

        `pixels_hash` is of some small views with these parameters: it tells whether another Pillow makes
        other pixels.
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
        """The centre of the picture."""
        return CentreCrop(self.shape[0])

    def drawn(self, view_id: int, height: int, width: int) -> Drawn:
        """The parameters of a view, not the clean one, of a picture of a height and width in pixels."""
        hashes = hash64(view_id, np.arange(_TRIES + 2 * TRIES, dtype=np.uint64))
        draws = (hashes >> np.uint64(11)).tolist()  # below 2⁵³
        mirrored = self.flip and draws[_FLIP] % 2 == 1
        return Drawn(self._box(draws, height, width), mirrored, self._jitter_of(draws))

    def _box(self, draws: list[int], height: int, width: int) -> Box:
        """The first drawn crop that lies within the picture; the largest centred one where none does."""
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
        """The operations on colours in their drawn order, each with its drawn factor."""
        jitter = []
        for at in _ORDERS[draws[_ORDER] % len(_ORDERS)]:
            operation, strength = _NAMES[at], self.jitter[at]
            if strength:
                ends = (-strength, strength) if operation == "hue" else (max(0.0, 1 - strength), 1 + strength)
                jitter.append((operation, _between(*ends, draws[_JITTER + at])))
        return tuple(jitter)

    def view(self, picture: np.ndarray | Image.Image, view_id: int) -> np.ndarray:
        """View `view_id` of a picture of any size: (size, size, channels) uint8.

        picture: pixels (h, w, 1 or 3) uint8, or a Pillow image of mode L or RGB, which saves their copying.
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
    """The centre of a picture whose shorter side is resized to size·256/224 pixels; the one id is 0.

    What torchvision's Resize and CenterCrop make of a PIL image.
    """

    made: ClassVar[Literal["host"]] = "host"
    size, clean_id = 1, CLEAN_ID

    def __init__(self, size: int) -> None:
        self.shape = size, size

    def describe(self) -> dict[str, Any]:
        """What makes two view spaces the same, as plain values."""
        return {"kind": "centre_crop", "version": VERSION, "image": list(self.shape)}

    @property
    def clean(self) -> "CentreCrop":
        """Itself."""
        return self

    def view(self, picture: np.ndarray | Image.Image, view_id: int) -> np.ndarray:
        """The view of a picture as `ResizedCrop.view` takes it: (size, size, channels) uint8."""
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
    """A draw below 2⁵³ as a number in [low, high)."""
    return low + (high - low) * (draw * 2.0**-53)


def _cropped(picture: np.ndarray | Image.Image, box: Box) -> Image.Image:
    """A part of a picture as a Pillow image."""
    top, left, height, width = box
    if isinstance(picture, np.ndarray):
        return _image(picture[top : top + height, left : left + width])
    return picture.crop((left, top, left + width, top + height))


def _image(picture: np.ndarray | Image.Image) -> Image.Image:
    """Pixels (h, w, 1 or 3) uint8 as a Pillow image, of mode L or RGB; such an image as it is."""
    if isinstance(picture, Image.Image):
        return picture
    return Image.fromarray(np.ascontiguousarray(picture[..., 0] if picture.shape[2] == 1 else picture))


def _pixels(image: Image.Image) -> np.ndarray:
    """A Pillow image of mode L or RGB as pixels (h, w, 1 or 3) uint8, which may be written to."""
    return np.array(image).reshape(image.height, image.width, -1)


def _brightness(image: Image.Image, factor: float) -> Image.Image:
    """What ImageEnhance.Brightness makes: the image blended with black."""
    return _blended_with(0, image, factor)


def _contrast(image: Image.Image, factor: float) -> Image.Image:
    """What ImageEnhance.Contrast makes: the image blended with its mean grey."""
    return _blended_with(int(ImageStat.Stat(image.convert("L")).mean[0] + 0.5), image, factor)


def _blended_with(level: int, image: Image.Image, factor: float) -> Image.Image:
    """`Image.blend` of one level of grey and an image.

    Beyond the image Pillow clips, which takes it three times as long: there a table of what it makes of each
    value is faster.
    """
    bands = len(image.getbands())
    if factor <= 1:
        return Image.blend(Image.new(image.mode, image.size, (level,) * bands), image, factor)
    table = Image.blend(Image.new("L", _EVERY_VALUE.size, level), _EVERY_VALUE, factor)
    return image.point(list(table.tobytes()) * bands)


def _saturation(image: Image.Image, factor: float) -> Image.Image:
    """What ImageEnhance.Color makes: the image blended with itself in grey; a grey one as it is."""
    if image.mode == "L":
        return image
    return Image.blend(Image.merge("RGB", [image.convert("L")] * 3), image, factor)


def _hue(image: Image.Image, factor: float) -> Image.Image:
    """The image with its hue turned by a part of the circle; a grey one as it is."""
    if image.mode == "L":
        return image
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.uint8(int(factor * 255) % 256)  # which wraps
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert(image.mode)


_EVERY_VALUE = Image.frombytes("L", (256, 1), bytes(range(256)))
_OPERATIONS = {"brightness": _brightness, "contrast": _contrast, "saturation": _saturation, "hue": _hue}
_NAMES = tuple(_OPERATIONS)  # in the order in which their strengths are given


@functools.cache
def _pixels_hash(
    scale: tuple[float, float], ratio: tuple[float, float], flip: bool, jitter: tuple[float, ...]
) -> str:
    """SHA-256 over the first views, 32 pixels a side, of a made-up picture of 64×48; hexadecimal."""
    space = ResizedCrop(None, _PROBE_SIDE, scale, ratio, flip, jitter)
    y, x, channel = np.ogrid[:48, :64, :3]
    picture = ((7 * y * y + 11 * x * x + 3 * x * y * (channel + 1) + 85 * channel) // 16 % 256).astype(
        np.uint8
    )
    digest = hashlib.sha256()
    for view_id in range(_PROBE_VIEWS):
        digest.update(space.view(picture, view_id).tobytes())
    return digest.hexdigest()
