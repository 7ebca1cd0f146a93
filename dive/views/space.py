"""Views: a view is a pure function of the image and the view id, without hidden random state.

A view is computed in uint8, before normalisation, and does not depend on the batch, the order or the device.
A space computes its pixels in one of two places. On the *device*, tensor operations that can be captured in a
CUDA graph compute the views of a batch of images of one size. On the *host*, Pillow and NumPy compute a view
of one decoded image of any size, in a worker. Only the image feed (`dive.feeds.images`) needs to know which.
"""

from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image

from dive.errors import CacheError
from dive.recipe.documents import differences

SEVERAL_SIZES = "the images differ in size; give them one size with views.size"
UNBOUNDED = 2**62  # upper limit of the ids drawn from an unbounded space

# An image on the host: pixels (h, w, channels) uint8, or a Pillow image of mode L or RGB with those pixels.
Picture = np.ndarray | Image.Image


class ViewSpace(Protocol):
    """A family of views, numbered by ids.

    size: the number of ids; None if the space is unbounded, so that any non-negative id is a view. clean_id:
    the id of the view without augmentation. shape: (H, W) of every view. made: where its pixels are computed.
    """

    made: ClassVar[Literal["device", "host"]]
    size: int | None
    clean_id: int
    shape: tuple[int, int]

    def describe(self) -> dict[str, Any]:
        """The description of the view space in plain values; equal descriptions mean equal views.

        It does not depend on the device. `version` is an integer that is raised when the pixels of any view
        change. A space that uses tables or operations of another library adds a hash of them or of their
        results.
        """

    @property
    def clean(self) -> "ViewSpace":
        """The space of the clean view alone, with the id 0, on which models are tested."""


class DeviceSpace(ViewSpace, Protocol):
    """A space whose pixels are computed on the device."""

    made: ClassVar[Literal["device", "host"]] = "device"

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        """Images (N, H, W, channels) uint8 in the form from which `render` computes their views."""

    def render(self, prepared: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of images `rows` (B,): (B, H, W, channels) uint8."""


class HostSpace(ViewSpace, Protocol):
    """A space whose pixels are computed on the host; it can be pickled for a worker process."""

    made: ClassVar[Literal["device", "host"]] = "host"

    def view(self, picture: Picture, view_id: int) -> np.ndarray:
        """View `view_id` of an image of any size: (H, W, channels) uint8."""


def require_same(space: ViewSpace, described: dict[str, Any], where: str) -> None:
    """Raise CacheError unless `described` describes the space; the error names what differs.

    where: the file that has the description.
    """
    here = space.describe()
    own = {"version", "crop_version", "tables_hash", "pixels_hash"}  # keys that no recipe sets
    keys = (described.keys() | here.keys()) - own
    before, after = ({key: one[key] for key in keys if key in one} for one in (described, here))
    if different := differences(before, after, "views."):
        raise CacheError(
            f"{where} holds another recipe's views ({'; '.join(different)}); "
            "give the cache's own recipe, or export again"
        )
    if different := differences(described, here, "views."):
        raise CacheError(
            f"{where} holds views for which this version of dive, torchvision or Pillow gives other pixels "
            f"({'; '.join(different)}); export again, or use the versions it was made with"
        )


def require_ids(space: ViewSpace, ids: np.ndarray, where: str) -> None:
    """Raise CacheError unless all view ids exist in the space. where: the file that has the ids."""
    if ids.min() < 0 or (space.size is not None and ids.max() >= space.size):
        raise CacheError(f"{where} holds view ids that its view space does not have; export it again")
