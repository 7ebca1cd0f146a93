"""Views of an unbounded space: crop, flip, AutoAugment (CIFAR-10 policy), Cutout; all from the view's id.

AutoAugment (Cubuk et al. 2019) draws one of 25 pairs of operations with fixed probabilities and magnitudes
(`dive.views.autoaugment_policy`). The draws of a view are hashes of its id. A view is the same on every
device, in every batch, and inside a CUDA graph.
"""

from typing import Any, ClassVar, Literal

import torch

from dive.views.autoaugment_policy import cifar10_policy
from dive.views.crop_flip import CropFlip

CLEAN_ID = 0
VERSION = 1  # to be raised with any change of the pixels of a view that does not change the tables
# The constants of SplitMix64 as signed integers (see dive.randomness).
_GOLDEN = 0x9E3779B97F4A7C15 - 2**64
_MIX_1 = 0xBF58476D1CE4E5B9 - 2**64
_MIX_2 = 0x94D049BB133111EB - 2**64

# The draws of a view by number, each from its own hash.
_CROP, _PAIR, _CHANCE, _SIGN, _HOLE_Y, _HOLE_X = 0, 1, (2, 3), (4, 5), 6, 7
_DRAWS = 8


class AutoAugmentCutout:
    """Crop and flip as `CropFlip`, then AutoAugment, then one hole of half the image's height and width.

    Any non-negative int64 is a view id; 0 is the clean view. The centre of the hole is drawn uniformly from
    the image, so that the hole may extend beyond the edge (DeVries and Taylor 2017). Images have three
    channels.
    """

    KEYS = CropFlip.KEYS
    made: ClassVar[Literal["device"]] = "device"
    size = None
    clean_id = CLEAN_ID

    def __init__(self, image: tuple[int, int], pad: int, flip: bool) -> None:
        self._crops = CropFlip(image, pad, flip)
        self.shape = image
        self._policy = cifar10_policy(*image)
        self._tables_hash = self._policy.hash()

    def describe(self) -> dict[str, Any]:
        """The description of the view space in plain values; equal descriptions mean equal views."""
        crops = self._crops.describe()
        return crops | {
            "kind": "autoaugment",
            "version": VERSION,
            "crop_version": crops["version"],
            "tables_hash": self._tables_hash,
        }

    @property
    def clean(self) -> CropFlip:
        """The space of the unaugmented image alone."""
        return self._crops.clean

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Padded images, (N, H+2·pad, W+2·pad, 3) uint8, from which `render` computes views."""
        self._policy = self._policy.to(images.device)
        return self._crops.prepare(images)

    def render(self, padded: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of images `rows` (B,): (B, H, W, 3) uint8."""
        draws = _draws(ids)
        clean = ids == CLEAN_ID
        crop = torch.where(clean, self._crops.clean_id, draws[:, _CROP] % self._crops.size)
        pixels = self._crops.render(padded, rows, crop)
        for stage in range(2):
            drawn = (draws[:, draw] for draw in (_PAIR, _CHANCE[stage], _SIGN[stage]))
            operation = self._policy.operation(stage, *drawn)
            pixels = self._policy.apply(pixels, torch.where(clean, 0, operation))
        return torch.where(clean[:, None, None, None], pixels, self._cut_out(pixels, draws))

    def _cut_out(self, pixels: torch.Tensor, draws: torch.Tensor) -> torch.Tensor:
        """Pixels with a black rectangle of H/2 by W/2 around a drawn centre."""

        def inside(length: int, centre: torch.Tensor) -> torch.Tensor:
            distance = torch.arange(length, device=pixels.device) - centre[:, None]  # (B, length)
            return (distance >= -(length // 4)) & (distance < length // 2 - length // 4)

        height, width = self.shape
        rows = inside(height, draws[:, _HOLE_Y] % height)
        columns = inside(width, draws[:, _HOLE_X] % width)
        return pixels * ~(rows[:, :, None] & columns[:, None, :])[..., None]


def _draws(ids: torch.Tensor) -> torch.Tensor:
    """Independent draws of each view id (B,): (B, draws) int64 below 2⁵³.

    Each is `dive.randomness.hash64(id, draw)` without its lowest eleven bits, computed in torch's signed
    integers, which wrap like unsigned ones.
    """
    draws = torch.arange(_DRAWS, device=ids.device)
    return _shifted(_finalise((_finalise(ids[:, None] + _GOLDEN) ^ draws) + _GOLDEN), 11)


def _finalise(x: torch.Tensor) -> torch.Tensor:
    x = (x ^ _shifted(x, 30)) * _MIX_1
    x = (x ^ _shifted(x, 27)) * _MIX_2
    return x ^ _shifted(x, 31)


def _shifted(x: torch.Tensor, bits: int) -> torch.Tensor:
    """A logical right shift of int64, which fills with zeros."""
    return (x >> bits) & (2 ** (64 - bits) - 1)
