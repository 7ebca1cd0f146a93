"""A view space whose pixels are made on the host, and pictures read on demand, for workers to unpickle."""

import os
import signal
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np

from dive.data.pictures import fit
from dive.errors import DataError


@dataclass(frozen=True)
class HostCropFlip:
    """`dive.views.crop_flip.CropFlip` of square pictures in NumPy, one at a time."""

    side: int
    pad: int
    flip: bool
    made: ClassVar[Literal["host"]] = "host"

    @property
    def shape(self) -> tuple[int, int]:
        return self.side, self.side

    @property
    def size(self) -> int:
        return (2 * self.pad + 1) ** 2 * (2 if self.flip else 1)

    @property
    def clean_id(self) -> int:
        return (self.size - 1) // 2 // 2 * 2 if self.flip else (self.size - 1) // 2

    @property
    def clean(self) -> "HostCropFlip":
        return HostCropFlip(self.side, 0, False)

    def describe(self) -> dict[str, Any]:
        return {"kind": "host_crop_flip", "version": 1, "pad": self.pad, "flip": self.flip}

    def view(self, picture: np.ndarray, view_id: int) -> np.ndarray:
        """The view of a picture of any size, which is brought to the side first."""
        place, mirrored = divmod(view_id, 2) if self.flip else (view_id, 0)
        dy, dx = divmod(place, 2 * self.pad + 1)
        padded = np.pad(fit(picture, self.side), ((self.pad, self.pad), (self.pad, self.pad), (0, 0)))
        window = padded[dy : dy + self.side, dx : dx + self.side]
        return window[:, ::-1] if mirrored else window


@dataclass(frozen=True)
class OnDemand:
    """Pictures that are read when they are asked for; reading some of them goes wrong.

    unreadable: the row whose picture cannot be read. deadly: that whose reading kills a worker.
    """

    pictures: list[np.ndarray]
    shape: tuple[int, int] | None
    unreadable: int | None = None
    deadly: int | None = None
    channels: int = 3
    held: None = None
    on_demand: bool = True
    home: int = os.getpid()

    def __len__(self) -> int:
        return len(self.pictures)

    def read(self, row: int) -> np.ndarray:
        if row == self.unreadable:
            raise DataError(f"photos/{row:03d}.png is not a readable image: it is cut short")
        if row == self.deadly and os.getpid() != self.home:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.pictures[row]

    def decoded(self, row: int) -> np.ndarray:
        return self.read(row)
