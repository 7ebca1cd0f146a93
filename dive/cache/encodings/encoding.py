"""What an encoding is: whether the rows of a cache are logits or features, and how they are stored."""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    import torch


class Numbers(ABC):
    """A way to store a row of float32 numbers in a NumPy dtype of fixed size.

    An array of rows has the dtype `row(width).base`, and its shape ends in `row(width).shape`. If that shape
    is (), a row is one record.
    """

    @abstractmethod
    def row(self, width: int) -> np.dtype[Any]:
        """The dtype of a row of `width` numbers."""

    @abstractmethod
    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values (…, width) float32 as they are stored; raises ValueError if they are out of range."""

    @abstractmethod
    def values(self, stored: np.ndarray) -> np.ndarray:
        """The values (…, width) float32 of stored rows, including NaN and infinities."""

    @abstractmethod
    def widen(self, stored: np.ndarray, out: np.ndarray, factor: float) -> float:
        """Write the values of rows (rows, …) times a factor to `out`, (rows, width) float32.

        Returns an upper bound of their absolute values, without the factor. It is infinite or NaN if a value
        is not finite; `out` is then undefined.
        """

    @abstractmethod
    def rounding(self, stored: np.ndarray) -> np.ndarray:
        """The largest difference between stored and given values: (…, width) or (…, 1), float32."""

    @abstractmethod
    def tensor(self, rows: "torch.Tensor", width: int) -> "torch.Tensor":
        """The values (B, width) float32 of rows given as bytes, (B, itemsize) uint8, contiguous."""


@dataclass(frozen=True)
class Encoding:
    """What the row of a view stores.

    name: the value of `--store`. table: the dataset of the rows, `logits` or `features`. numbers: how the
    numbers of a row are stored.
    """

    name: str
    table: str
    numbers: Numbers

    @property
    def of_features(self) -> bool:
        """Whether rows are features, from which the head in the file computes the logits."""
        return self.table == FEATURES

    def row_bytes(self, classes: int, features: int | None) -> int | None:
        """The bytes of a row of `classes` logits or `features` features; None if the features are None."""
        width = features if self.of_features else classes
        return None if width is None else self.numbers.row(width).itemsize


LOGITS, FEATURES = "logits", "features"
TABLES = (LOGITS, FEATURES)
