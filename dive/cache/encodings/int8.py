"""Numbers stored as int8 with one scale, and perhaps an offset, for each row: value = scale · q + offset.

The scale is the smallest float16 with which no number of the row is clipped, so that the error of a value is
at most half the scale. If the numbers of a row are within the range of float16, so is the scale, which is
below 517. The product of an int8 and a float16 is exact in float32, so that every machine decodes the same.
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

    An offset is worth its two bytes if the numbers of a row lie on both sides of a value other than 0.
    """

    def __init__(self, offset: bool) -> None:
        self._offset = offset

    def row(self, width: int) -> np.dtype[Any]:
        """A record of `values`, (width,) int8, `scale`, and `offset` if there is one."""
        more = [("offset", "<f2")] if self._offset else []
        return np.dtype([("values", "i1", (width,)), ("scale", "<f2"), *more])

    def stored(self, values: np.ndarray) -> np.ndarray:
        """Values, less the offset if there is one, rounded to the nearest multiple of the row's scale."""
        if not (np.abs(values) <= MOST).all():  # NaN too
            raise ValueError("not finite in float16, the dtype of the scale of int8")
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
        """Half of the row's scale, plus the rounding of the computation in float32."""
        size = np.abs(self.values(stored)).max(axis=-1, keepdims=True)
        half: np.ndarray = np.abs(stored["scale"].astype(np.float32))[..., None] / 2
        return half + size * np.float32(2.0**-22)

    def tensor(self, rows: "torch.Tensor", width: int) -> "torch.Tensor":
        """scale · q + offset, in this order."""
        import torch

        # A copy, since a view as float16 must begin at an even byte.
        ends = rows[:, width:].clone(memory_format=torch.contiguous_format).view(torch.float16).float()
        values = rows[:, :width].view(torch.int8).float() * ends[:, :1]
        return values + ends[:, 1:] if self._offset else values  # (B, width)


def _rounded_up(values: np.ndarray) -> np.ndarray:
    """For each non-negative float32 number, the smallest float16 number that is not below it."""
    nearest = values.astype(np.float16)
    return np.where(nearest < values, np.nextafter(nearest, np.float16(np.inf)), nearest)
