"""Views: `view(sample, view id)` is a pure function to an image, with no hidden random state.

A view is computed in uint8, before normalising, by one gather with index arithmetic, so that it is
the same whatever the batch, the order or the device, and so that a CUDA graph can hold it.
"""

from typing import Any, Protocol

import numpy as np
import torch

from dive.errors import CacheError
from dive.recipe.documents import differences

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
