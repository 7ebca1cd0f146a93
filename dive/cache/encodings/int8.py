"""Numbers stored as int8 with one scale, and perhaps an offset, for each row: value = scale · q + offset.

The scale is the smallest float16 with which no number of the row is cut off: a value is then off by half
of it at most. Of a row of numbers that float16 holds the scale is always a float16 too, below 517. The
product of an int8 and a float16 is exact in float32, so that every machine decodes the same.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from dive.cache.encodings.encoding import Numbers

if TYPE_CHECKING:
    import torch

LARGEST = 127
MOST = float(np.finfo(np.float16).max)


class Int8(Numbers):
    """Numbers as int8 with a float16 scale. offset: whether there is a float16 offset too.

    An offset is worth its two bytes where numbers lie on both sides of something else than 0.
    """

    def __init__(self, offset: bool) -> None:
        self._offset = offset

    def row(self, width: int) -> np.dtype[Any]:
        """A record of `values`, (width,) int8, `scale`, and `offset` where there is one."""
        more = [("offset", "<f2")] if self._offset else []
        return np.dtype([("values", "i1", (width,)), ("scale", "<f2"), *more])

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values rounded to the nearest multiple of the row's scale."""
        if not (np.abs(values) <= MOST).all():  # NaN too
            raise ValueError("not finite in float16, in which int8 has its scale")
        centred = values = values.astype(np.float32, copy=False)
        stored = np.zeros(values.shape[:-1], self.row(values.shape[-1]))
        if self._offset:
            stored["offset"] = (values.max(axis=-1) / 2 + values.min(axis=-1) / 2).astype(np.float16)
            centred = values - stored["offset"][..., None].astype(np.float32)
        stored["scale"] = _rounded_up(np.abs(centred).max(axis=-1) / np.float32(LARGEST))
        scale = stored["scale"][..., None].astype(np.float32)
        quotients = np.divide(centred, scale, out=np.zeros_like(centred), where=scale > 0)
        stored["values"] = np.clip(np.rint(quotients), -LARGEST, LARGEST)
        return stored

    def values(self, stored: np.ndarray) -> np.ndarray:
        """scale · q + offset."""
        values = stored["values"].astype(np.float32)
        values *= stored["scale"][..., None].astype(np.float32)
        if self._offset:
            values += stored["offset"][..., None].astype(np.float32)
        return values

    def widen(self, stored: np.ndarray, out: np.ndarray, factor: float) -> float:
        """As `Numbers.widen`, in place."""
        np.copyto(out, stored["values"])
        scale = stored["scale"].astype(np.float32)
        out *= (scale * np.float32(factor))[:, None]
        bound = np.abs(scale) * np.float32(LARGEST + 1)
        if self._offset:
            offset = stored["offset"].astype(np.float32)
            out += (offset * np.float32(factor))[:, None]
            bound += np.abs(offset)
        return float(bound.max())

    def rounding(self, stored: np.ndarray) -> np.ndarray:
        """Half of the row's scale, and what computing it in float32 adds."""
        size = np.abs(self.values(stored)).max(axis=-1, keepdims=True)
        half: np.ndarray = np.abs(stored["scale"].astype(np.float32))[..., None] / 2
        return half + size * np.float32(2.0**-22)

    def tensor(self, rows: "torch.Tensor", width: int) -> "torch.Tensor":
        """scale · q + offset, in this order."""
        import torch

        # A copy, as a float16 may begin at an even byte alone.
        ends = rows[:, width:].clone(memory_format=torch.contiguous_format).view(torch.float16).float()
        values = rows[:, :width].view(torch.int8).float() * ends[:, :1]
        return values + ends[:, 1:] if self._offset else values  # (B, width)


def _rounded_up(values: np.ndarray) -> np.ndarray:
    """The smallest float16 numbers that are not below some float32 ones, which are not negative."""
    nearest = values.astype(np.float16)
    return np.where(nearest < values, np.nextafter(nearest, np.float16(np.inf)), nearest)
