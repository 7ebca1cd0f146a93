"""What an encoding is: what the rows of a cache are of, and how the numbers of a row are stored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class Numbers(ABC):
    """A way of storing the numbers of a row, float32 as they come, in a NumPy type of fixed size.

    `row(width).base` is the element of an array of rows and `row(width).shape` what follows its leading
    dimensions: with a shape of () a row is one record.
    """

    @abstractmethod
    def row(self, width: int) -> np.dtype[Any]:
        """The type of a row of so many numbers."""

    @abstractmethod
    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values (…, width) float32 as they are stored; raises ValueError where they are out of range."""

    @abstractmethod
    def values(self, stored: np.ndarray) -> np.ndarray:
        """The values (…, width) float32 of stored rows, NaN and infinities as they are."""

    @abstractmethod
    def widen(self, stored: np.ndarray, out: np.ndarray, factor: float) -> float:
        """Write the values of rows (rows, …) times a factor to `out`, (rows, width) float32.

        Returns a bound of their absolute values without the factor: infinite or NaN where one of them is
        not finite, and then `out` is of no use.
        """

    @abstractmethod
    def rounding(self, stored: np.ndarray) -> np.ndarray:
        """How far stored values may lie from those that were given: (…, width) or (…, 1), float32."""

    @abstractmethod
    def tensor(self, rows: "torch.Tensor", width: int) -> "torch.Tensor":
        """The values (B, width) float32 of rows given as bytes, (B, itemsize) uint8, contiguous."""


@dataclass(frozen=True)
class Encoding:
    """What the row of a view holds.

    name: as `--store` has it. table: the data set that holds the rows, `logits` or `features`. numbers: how
    those of a row are stored.
    """

    name: str
    table: str
    numbers: Numbers

    @property
    def of_features(self) -> bool:
        """Whether rows hold features, which the head of the file turns into logits."""
        return self.table == FEATURES

    def row_bytes(self, classes: int, features: int | None) -> int | None:
        """Bytes of a row for so many classes and features; None if it is of features and there are none."""
        width = features if self.of_features else classes
        return None if width is None else self.numbers.row(width).itemsize


LOGITS, FEATURES = "logits", "features"
TABLES = (LOGITS, FEATURES)
