"""Views of a bounded space: pad with zeros, crop, and optionally flip."""

from typing import Any, ClassVar, Literal

import torch

from dive import structure as s

MOST_PAD = 64


class CropFlip:
    """Pad with zeros, crop back to the image's size at (dy, dx), and optionally flip horizontally.

    The view id is (dy·(2·pad+1) + dx)·2 + flip, or dy·(2·pad+1) + dx in a space without flip. The clean view
    is the centre crop, not flipped.
    """

    VERSION = 1  # to be raised with any change of the pixels of a view
    KEYS: ClassVar[dict[str, s.Check]] = {"pad": s.whole(0, MOST_PAD), "flip": s.truth}
    made: ClassVar[Literal["device"]] = "device"

    def __init__(self, image: tuple[int, int], pad: int, flip: bool) -> None:
        self.shape, self.pad, self.flip = image, pad, flip
        self.offsets = 2 * pad + 1
        self.size = self.offsets**2 * (2 if flip else 1)
        self.clean_id = (pad * self.offsets + pad) * (2 if flip else 1)

    def describe(self) -> dict[str, Any]:
        """The description of the view space in plain values; equal descriptions mean equal views."""
        return {
            "kind": "crop_flip",
            "version": self.VERSION,
            "pad": self.pad,
            "flip": self.flip,
            "image": list(self.shape),
        }

    @property
    def clean(self) -> "CropFlip":
        """The space of the unaugmented image alone."""
        return CropFlip(self.shape, pad=0, flip=False)

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Padded images, (N, H+2·pad, W+2·pad, channels) uint8, from which `render` crops views."""
        p = self.pad
        return torch.nn.functional.pad(images, (0, 0, p, p, p, p)).contiguous()

    def render(self, padded: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of images `rows` (B,): (B, H, W, channels) uint8."""
        mirrored = ids % 2 if self.flip else torch.zeros_like(ids)
        place = ids // 2 if self.flip else ids
        dy, dx = place // self.offsets, place % self.offsets  # (B,)
        height, width = self.shape
        windows = padded.unfold(1, height, 1).unfold(2, width, 1)  # (N, dy, dx, channels, H, W)
        crops = windows[rows, dy, dx].permute(0, 2, 3, 1)  # (B, H, W, channels)
        return torch.where(mirrored.bool()[:, None, None, None], crops.flip(2), crops)
