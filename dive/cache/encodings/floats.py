"""Numbers stored as float16 or float32."""

from typing import TYPE_CHECKING, Any

import numpy as np

from dive.cache.encodings.encoding import Numbers

if TYPE_CHECKING:
    import torch


class Floats(Numbers):
    """Numbers as float16 or float32, little-endian."""

    def __init__(self, name: str) -> None:
        self._name = name
        self._type: np.dtype[Any] = np.dtype(name).newbyteorder("<")
        # Half a unit in the last place: relative, for normal numbers, and absolute, for subnormal ones.
        limits = np.finfo(name)
        self._relative, self._smallest = float(limits.eps) / 2, float(limits.smallest_subnormal) / 2

    def row(self, width: int) -> np.dtype[Any]:
        """A subarray dtype of (width,) numbers."""
        return np.dtype((self._type, (width,)))

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values rounded to the nearest number of the dtype."""
        with np.errstate(over="ignore"):
            stored = values.astype(self._type, copy=False)
        if not np.isfinite(stored).all():
            raise ValueError(f"not finite in {self._name}")
        return stored

    def values(self, stored: np.ndarray) -> np.ndarray:
        """The stored numbers as float32."""
        return stored.astype(np.float32)

    def widen(self, stored: np.ndarray, out: np.ndarray, factor: float) -> float:
        """As `Numbers.widen`; float16 is converted by its bits.

        NumPy's own conversion of float16 to float32 handles one number at a time. The bits of a float16,
        shifted to the exponent and mantissa of a float32, are the number divided by 2¹¹².
        """
        if self._type.itemsize == 4:
            np.multiply(stored, np.float32(factor), out=out)
            return float(np.abs(stored).max())
        bits = out.view(np.int32)
        np.copyto(bits, stored.view("<i2"))  # extends the sign to all upper bits
        bits <<= 13
        bits &= np.int32(-0x70002000)  # 0x8fffe000: sign, five bits of exponent, ten of mantissa
        out *= np.float32(2.0**112 * factor)
        return _largest_float16(stored)

    def rounding(self, stored: np.ndarray) -> np.ndarray:
        """Half a unit in the last place of each number."""
        return np.abs(self.values(stored)) * np.float32(self._relative) + np.float32(self._smallest)

    def tensor(self, rows: "torch.Tensor", width: int) -> "torch.Tensor":
        """The stored numbers as float32."""
        import torch

        return rows.view(torch.float32 if self._type.itemsize == 4 else torch.float16).float()


def _largest_float16(stored: np.ndarray) -> float:
    """The largest absolute value of float16 numbers; infinite or NaN if one is not finite.

    The bits below the sign, read as an integer, increase with the absolute value; infinity and NaN are the
    largest.
    """
    positive, negative = int(stored.view("<i2").max()), int(stored.view("<u2").max()) - 0x8000
    return float(np.array(max(positive, negative, 0), np.uint16).view(np.float16))
