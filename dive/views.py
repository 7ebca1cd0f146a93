"""Views: `view(sample, view id)` is a pure function to an image, with no hidden random state.

A view is computed in uint8, before normalising, by one gather with index arithmetic, so that it is
the same whatever the batch, the order or the device, and so that a CUDA graph can hold it.
"""

from typing import Any, Protocol

import numpy as np
import torch

from dive import recipe
from dive.documents import differences
from dive.errors import CacheError
from dive.randomness import epoch_choice

UNBOUNDED = 2**62  # ids are drawn below this where a space has no size


class ViewSpace(Protocol):
    """A family of views of images of one size, numbered by ids.

    size: how many ids there are, None where any non-negative one is a view. clean_id: the image as it is.
    """

    size: int | None
    clean_id: int

    def describe(self) -> dict[str, Any]:
        """What makes two view spaces the same, as plain values, whatever the device.

        `version` is an integer that is raised when the pixels of any view change; a space made of tables
        that are not dive's own adds their hash.
        """

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Images (N, H, W, channels) uint8 in the form from which `render` makes their views."""

    def render(self, prepared: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of images `rows` (B,): (B, H, W, channels) uint8."""


class CropFlip:
    """Pad with zeros, crop back to the image's size at (dy, dx), then perhaps flip horizontally.

    View id = (dy·(2·pad+1) + dx)·2 + flip, without flip dy·(2·pad+1) + dx; the clean view is the
    centre crop, unflipped.
    """

    VERSION = 1  # to be raised with any change of the pixels of a view

    def __init__(self, pad: int, flip: bool, height: int, width: int) -> None:
        self.pad, self.flip = pad, flip
        self.height, self.width = height, width
        self.offsets = 2 * pad + 1
        self.size = self.offsets**2 * (2 if flip else 1)
        self.clean_id = (pad * self.offsets + pad) * (2 if flip else 1)

    def describe(self) -> dict[str, Any]:
        """What makes two view spaces the same, as plain values."""
        return {
            "kind": "crop_flip",
            "version": self.VERSION,
            "pad": self.pad,
            "flip": self.flip,
            "image": [self.height, self.width],
        }

    def prepare(self, images: torch.Tensor) -> torch.Tensor:
        """Padded images, (N, H+2·pad, W+2·pad, channels) uint8, of which `render` cuts its views."""
        p = self.pad
        return torch.nn.functional.pad(images, (0, 0, p, p, p, p)).contiguous()

    def render(self, padded: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of images `rows` (B,): (B, H, W, channels) uint8."""
        mirrored = ids % 2 if self.flip else torch.zeros_like(ids)
        place = ids // 2 if self.flip else ids
        dy, dx = place // self.offsets, place % self.offsets  # (B,)
        windows = padded.unfold(1, self.height, 1).unfold(2, self.width, 1)  # (N, dy, dx, channels, H, W)
        crops = windows[rows, dy, dx].permute(0, 2, 3, 1)  # (B, H, W, channels)
        return torch.where(mirrored.bool()[:, None, None, None], crops.flip(2), crops)


def view_space(views: recipe.Views, image_shape: tuple[int, ...]) -> ViewSpace:
    """The view space a recipe names, for images of shape (H, W, channels)."""
    from dive.autoaugment import AutoAugmentCutout  # which is made of crops itself

    spaces = {"crop_flip": CropFlip, "autoaugment": AutoAugmentCutout}
    return spaces[views.kind](views.pad, views.flip, *image_shape[:2])


def require_same(space: ViewSpace, described: dict[str, Any], where: str) -> None:
    """Raise CacheError, naming what differs, unless `described` describes the space; where: what it is of."""
    here = space.describe()
    settings = [{key: one.get(key) for key in ("kind", "pad", "flip", "image")} for one in (described, here)]
    if different := differences(*settings, "views."):
        raise CacheError(
            f"{where} holds another recipe's views ({'; '.join(different)}); "
            "give the cache's own recipe, or export again"
        )
    if different := differences(described, here, "views."):
        raise CacheError(
            f"{where} holds views that this dive or torchvision makes of other pixels "
            f"({'; '.join(different)}); export again, or use the versions it was made with"
        )


def require_ids(space: ViewSpace, ids: np.ndarray, where: str) -> None:
    """Raise CacheError unless every one of the view ids is of the space. where: what they were read from."""
    if ids.min() < 0 or (space.size is not None and ids.max() >= space.size):
        raise CacheError(f"{where} holds view ids that its view space does not have; export it again")


class ViewedImages:
    """A data set's images on a device, from which batches of normalised views are taken.

    images: (N, H, W, channels) uint8. mean, std: per channel, for pixels in [0, 1].
    """

    def __init__(
        self,
        images: np.ndarray,
        space: ViewSpace,
        mean: tuple[float, ...],
        std: tuple[float, ...],
        device: torch.device,
    ) -> None:
        self.space = space
        self._prepared = space.prepare(torch.from_numpy(np.ascontiguousarray(images)).to(device))
        scale = 255 * torch.tensor(std, dtype=torch.float32, device=device)
        self._scale, self._shift = (
            1 / scale,
            -255 * torch.tensor(mean, dtype=torch.float32, device=device) / scale,
        )

    def __len__(self) -> int:
        return len(self._prepared)

    @property
    def channels(self) -> int:
        """Channels of an image."""
        return self._prepared.shape[-1]

    def batch(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Normalised views, (B, channels, H, W) float32 in channels-last memory."""
        pixels = self.space.render(self._prepared, rows, ids)
        normalised = pixels.float() * self._scale + self._shift  # (B, H, W, channels)
        return normalised.permute(0, 3, 1, 2)


class FreeViews:
    """Views drawn evenly from a whole space; the drawn column of a cache is always the only one."""

    def __init__(self, space: ViewSpace) -> None:
        self._size = space.size or UNBOUNDED

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns of every sample in an epoch, each (N,) int64."""
        ids = epoch_choice(seed, epoch, hashes, self._size)
        return ids, np.zeros_like(ids)


class StoredViews:
    """Views drawn evenly from those a cache holds. views: (N, V) ids."""

    def __init__(self, views: np.ndarray) -> None:
        self._views = views

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns of every sample in an epoch, each (N,) int64."""
        columns = epoch_choice(seed, epoch, hashes, self._views.shape[1])
        ids = np.take_along_axis(self._views, columns[:, None], axis=1)[:, 0]
        return ids.astype(np.int64), columns
