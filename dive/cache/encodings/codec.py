"""Encoding and decoding the rows of one cache: an encoding together with the head and width of its rows."""

import math
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np

from dive.cache.encodings.encoding import Encoding

if TYPE_CHECKING:
    import torch

_UNIT = 2.0**-24  # the largest relative error of rounding to float32
_PRODUCT_BYTES = 1 << 24  # the most bytes of the input or the output of one product in the tune step


@dataclass(frozen=True)
class Head:
    """The last Linear of a teacher: logits are weight · features + bias.

    weight: (C, D). bias: (C,). Both float32.
    """

    weight: np.ndarray
    bias: np.ndarray

    def logits(self, features: np.ndarray) -> np.ndarray:
        """The logits (…, C) float32 of features (…, D), summed in float64 and rounded once.

        The order of summation, which differs between libraries, then hardly ever affects a bit of the result.
        """
        flat = features.reshape(-1, features.shape[-1]).astype(np.float64)
        logits = (flat @ self.weight.T.astype(np.float64) + self.bias).astype(np.float32)
        return logits.reshape(*features.shape[:-1], len(self.bias))

    @cached_property
    def size(self) -> float:
        """The largest norm of the weights of a class, a row of `weight`."""
        return float(np.linalg.norm(self.weight.astype(np.float64), axis=1).max())


@dataclass(frozen=True)
class Codec:
    """An encoding of the logits of `classes` classes. head: only if the encoding is one of features."""

    encoding: Encoding
    classes: int
    head: Head | None = None

    def __post_init__(self) -> None:
        if self.encoding.of_features != (self.head is not None):
            raise ValueError(f"{self.encoding.name} {'takes a' if self.head is None else 'has no'} head")

    @property
    def width(self) -> int:
        """The number of values in a row: C classes, or D features."""
        return self.classes if self.head is None else self.head.weight.shape[1]

    @cached_property
    def row(self) -> np.dtype[Any]:
        """The dtype of a row: an array of rows has dtype `row.base`, and its shape ends in `row.shape`."""
        return self.encoding.numbers.row(self.width)

    def encode(self, values: np.ndarray) -> np.ndarray:
        """Logits (…, C), or features (…, D) for an encoding of features, as they are stored.

        Raises ValueError if they are not finite in the encoding, or if they give logits that are not finite.
        """
        return self._encode(values)[0]

    def encode_counted(self, values: np.ndarray, labels: np.ndarray) -> tuple[np.ndarray, int]:
        """The results of `encode` and `correct` for values (rows, V, …) and labels (rows,); decodes once."""
        stored, logits = self._encode(values)
        return stored, _correct(logits, labels)

    def _encode(self, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values as they are stored, and the logits that the stored rows decode to."""
        try:
            stored = np.ascontiguousarray(self.encoding.numbers.stored(values))
        except ValueError as error:
            raise ValueError(f"{self.encoding.table} are {error}") from error
        logits = self.decode(stored)
        if not np.isfinite(logits).all():
            raise ValueError("features make logits that are not finite")
        return stored, logits

    def values(self, stored: np.ndarray) -> np.ndarray:
        """The values of stored rows, the input of `encode` up to rounding: (…, C) or (…, D) float32."""
        return self.encoding.numbers.values(stored)

    def decode(self, stored: np.ndarray) -> np.ndarray:
        """The logits (…, C) float32 of stored rows."""
        values = self.values(stored)
        if self.head is None:
            return values
        with np.errstate(over="ignore", invalid="ignore"):  # the rows may be forged
            return self.head.logits(values)

    def rounding(self, stored: np.ndarray) -> np.ndarray:
        """The largest error of a decoded logit of each row that storing it can cause: (…,) float32."""
        rounding = self.encoding.numbers.rounding(stored)
        if self.head is None:
            return rounding.max(axis=-1)
        rounding = np.broadcast_to(rounding, (*rounding.shape[:-1], self.width))
        return self._products(stored) + (rounding @ np.abs(self.head.weight).T).max(axis=-1)

    def _products(self, stored: np.ndarray) -> np.ndarray:
        """How much the logits of the same stored features may differ between two machines: (…,) float32.

        A sum of D products and a bias has, in any order, an error of at most D + 1 units of rounding of the
        sum of the absolute values. That sum is at most the product of the norms plus the absolute bias.
        """
        assert self.head is not None
        norms = np.linalg.norm(self.values(stored), axis=-1) * self.head.size
        return 2 * (self.width + 2) * _UNIT * (norms + np.abs(self.head.bias).max())

    def correct(self, stored: np.ndarray, labels: np.ndarray) -> int:
        """The number of views in rows (rows, V, …) that are classified as their label (rows,).

        The class of a view is the first of its largest logits.
        """
        return _correct(self.decode(stored), labels)

    def confirms(self, stored: np.ndarray, labels: np.ndarray, count: int) -> bool:
        """Whether `count` is a result of `correct`, on this machine or on another.

        A product with a head may be rounded differently on another machine. The count may then differ by at
        most the number of views whose label's logit is within that rounding of the largest other logit.
        """
        off = abs(self.correct(stored, labels) - count)
        return off == 0 or (self.head is not None and off <= self._near_ties(stored, labels))

    def _near_ties(self, stored: np.ndarray, labels: np.ndarray) -> int:
        logits = self.decode(stored)  # (rows, V, C)
        place = np.broadcast_to(labels[:, None, None], (*logits.shape[:2], 1))
        of_label = np.take_along_axis(logits, place, axis=2)[..., 0]
        np.put_along_axis(logits, place, -np.inf, axis=2)
        return int((np.abs(of_label - logits.max(axis=2)) <= 2 * self._products(stored)).sum())

    def words(self, stored: np.ndarray) -> np.ndarray:
        """Rows as integers of the widest dtype whose size divides a row, (rows, words), which copy fastest.

        Shares memory if `stored` is contiguous. torch has a dtype for each of these.
        """
        size = next(size for size in (8, 4, 2, 1) if self.row.itemsize % size == 0)
        kind = {8: np.int64, 4: np.int32, 2: np.int16, 1: np.uint8}[size]
        return stored.reshape(-1).view(kind).reshape(-1, self.row.itemsize // size)

    def unpacked(self, words: np.ndarray) -> np.ndarray:
        """Rows (B, …) from the integers that `words` returns for them, (B, words) and contiguous."""
        return words.reshape(-1).view(self.row.base).reshape(len(words), *self.row.shape)

    def decoder(self, factor: float) -> "Decoder":
        """A decoder of many rows in NumPy, to logits times `factor`."""
        return Decoder(self, factor)

    def on_device(self, device: "torch.device") -> "Callable[[torch.Tensor], torch.Tensor]":
        """A function that decodes rows on `device`, from the integers of `words` to logits.

        It takes (B, words) and returns (B, C) float32. It consists of tensor operations only and can be
        captured in a CUDA graph. The product with a head is computed in float64, as in `Head.logits`. The
        logits therefore equal those of `decode` on every device, and autocast and TF32 do not affect them.
        """
        import torch

        numbers, width = self.encoding.numbers, self.width
        if self.head is None:
            return lambda words: numbers.tensor(words.view(torch.uint8), width)
        weight = torch.from_numpy(self.head.weight.T.astype(np.float64)).to(device)  # (D, C)
        bias = torch.from_numpy(self.head.bias.astype(np.float64)).to(device)

        def logits(words: torch.Tensor) -> torch.Tensor:
            features = numbers.tensor(words.view(torch.uint8), width).double()
            return torch.addmm(bias, features, weight).float()

        return logits


def _correct(logits: np.ndarray, labels: np.ndarray) -> int:
    """The number of views in logits (rows, V, C) whose first largest logit is that of the label (rows,)."""
    return int((logits.argmax(axis=-1) == labels[:, None]).sum())


class Decoder:
    """Decodes rows to logits times a factor, into a given array, for passes over a whole cache.

    rows: the number of rows to decode at once for speed; None if any number is as fast.
    """

    def __init__(self, codec: Codec, factor: float) -> None:
        self._codec, self._factor = codec, factor
        self.rows: int | None = None
        if codec.head is not None:
            factored = codec.head.weight * np.float32(factor), codec.head.bias * np.float32(factor)
            self._weight, self._bias = np.ascontiguousarray(factored[0].T), factored[1]
            widest = 4 * max(codec.width, codec.classes)
            self.rows = max(64, min(2048, _PRODUCT_BYTES // widest))
            self._memory = threading.local()

    def decode(self, stored: np.ndarray, out: np.ndarray) -> float:
        """Write the logits of rows (rows, …) times the factor to `out`, (rows, C) float32.

        Returns an upper bound of the absolute values of the logits, without the factor. It is infinite or NaN
        if a logit is not finite; `out` is then undefined.
        """
        numbers = self._codec.encoding.numbers
        if self._codec.head is None:
            return numbers.widen(stored, out, self._factor)
        features = self._room(len(stored))
        bound = numbers.widen(stored, features, 1.0)
        if not math.isfinite(bound):
            return bound
        with np.errstate(over="ignore", invalid="ignore"):
            np.matmul(features, self._weight, out=out)
            out += self._bias
        return max(float(out.max()), -float(out.min())) / self._factor

    def _room(self, rows: int) -> np.ndarray:
        """An array (rows, D) of this thread, which is reused: a new one costs a page fault for every page."""
        held: np.ndarray | None = getattr(self._memory, "features", None)
        if held is None or len(held) < rows:
            held = self._memory.features = np.empty((rows, self._codec.width), np.float32)
        return held[:rows]
