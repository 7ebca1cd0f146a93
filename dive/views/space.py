"""Views: `view(picture, view id)` is a pure function to a picture, with no hidden random state.

A view is computed in uint8, before normalising, and is the same whatever the batch, the order or the device.
A space makes its pixels in one of two places. On the *device*, of a batch of pictures of one size, by tensor
operations that a CUDA graph can hold; or on the *host*, of one decoded picture of any size, by Pillow and
NumPy in a worker. The image feed (`dive.feeds.images`) is all that needs to know which.
"""

from typing import Any, ClassVar, Literal, Protocol

import numpy as np
import torch
from PIL import Image

from dive.errors import CacheError
from dive.recipe.documents import differences

SEVERAL_SIZES = "the pictures have several sizes; views.size brings them to one"
UNBOUNDED = 2**62  # ids are drawn below this where a space has no size

# A picture on the host: pixels (h, w, channels) uint8, or a Pillow image of mode L or RGB with the same ones.
Picture = np.ndarray | Image.Image


class ViewSpace(Protocol):
    """A family of views, numbered by ids.

    size: how many ids there are, None where any non-negative one is a view. clean_id: the view without
    augmentation. shape: (H, W) of every view. made: where its pixels are made.
    """

    made: ClassVar[Literal["device", "host"]]
    size: int | None
    clean_id: int
    shape: tuple[int, int]

    def describe(self) -> dict[str, Any]:
        """What makes two view spaces the same, as plain values, whatever the device.

        `version` is an integer that is raised when the pixels of any view change; a space made of tables
        or by operations that are not dive's own adds a hash of those or of what they make.
        """

    @property
    def clean(self) -> "ViewSpace":
        """The space of the clean view alone, with the id 0: what models are tested on."""


class DeviceSpace(ViewSpace, Protocol):
    """A space whose pixels are made on the device."""

    made: ClassVar[Literal["device", "host"]] = "device"

    def prepare(self, pictures: torch.Tensor) -> torch.Tensor:
        """Pictures (N, H, W, channels) uint8 in the form from which `render` makes their views."""

    def render(self, prepared: torch.Tensor, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Views `ids` (B,) of pictures `rows` (B,): (B, H, W, channels) uint8."""


class HostSpace(ViewSpace, Protocol):
    """A space whose pixels are made on the host; it can be pickled for a worker process."""

    made: ClassVar[Literal["device", "host"]] = "host"

    def view(self, picture: Picture, view_id: int) -> np.ndarray:
        """View `view_id` of a picture of any size: (H, W, channels) uint8."""


def require_same(space: ViewSpace, described: dict[str, Any], where: str) -> None:
    """Raise CacheError, naming what differs, unless `described` describes the space; where: what it is of."""
    here = space.describe()
    own = {"version", "crop_version", "tables_hash", "pixels_hash"}  # what no recipe sets
    keys = (described.keys() | here.keys()) - own
    before, after = ({key: one[key] for key in keys if key in one} for one in (described, here))
    if different := differences(before, after, "views."):
        raise CacheError(
            f"{where} holds another recipe's views ({'; '.join(different)}); "
            "give the cache's own recipe, or export again"
        )
    if different := differences(described, here, "views."):
        raise CacheError(
            f"{where} holds views that this version of dive, torchvision or Pillow makes of other pixels "
            f"({'; '.join(different)}); export again, or use the versions it was made with"
        )


def require_ids(space: ViewSpace, ids: np.ndarray, where: str) -> None:
    """Raise CacheError unless every one of the view ids is of the space. where: what they were read from."""
    if ids.min() < 0 or (space.size is not None and ids.max() >= space.size):
        raise CacheError(f"{where} holds view ids that its view space does not have; export it again")
