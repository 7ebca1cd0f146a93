"""What a feed is: it brings the batches of a plan to the device, one after the other, in order."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import accumulate
from typing import Protocol

import numpy as np
import torch

from dive import memory
from dive.world import this_world


@dataclass(frozen=True)
class Batch:
    """The samples of a batch and their views: rows, view ids and cache columns, each (B,) int64."""

    rows: np.ndarray
    ids: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, size: int) -> Iterator["Batch"]:
        """This batch in batches of `size` samples; the last may be smaller."""
        for start in range(0, len(self), size):
            yield self._of(start, start + size)

    def parts(self, sizes: Sequence[int]) -> Iterator["Batch"]:
        """This batch in consecutive batches of the given sizes."""
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            yield self._of(end - size, end)

    def _of(self, start: int, end: int) -> "Batch":
        return Batch(self.rows[start:end], self.ids[start:end], self.columns[start:end])


class Feed(Protocol):
    """Provides one input of the batches of a plan: views of images, or the teacher's logits for them.

    `begin` starts a plan. For each of its batches in order, `load` makes the batch ready and `batch` returns
    it. Data on the device (resident) need no loading; streamed data are read some batches ahead.
    """

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start a plan; an earlier plan that is not finished is abandoned."""

    def load(self) -> None:
        """Make the next batch of the plan ready."""

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The batch that was made ready, (B, …) on the device, for samples, view ids and columns (B,).

        It consists of tensor operations only and can be captured in a CUDA graph.
        """


class ImageFeed(Feed, Protocol):
    """A feed of views of images."""

    @property
    def waited(self) -> float | None:
        """Seconds that the device waited for batches since `begin`; None if the images are on the device."""


Room = Callable[[int, torch.device], bool]  # whether a number of bytes may be held on a device


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes may be held on the device or, on a CPU, in this process's share of the memory."""
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else memory.available() / this_world().local_size
    return size <= memory.SHARE_OF_MEMORY * free


def side_thread(device: torch.device, name: str) -> ThreadPoolExecutor:
    """A pool of one thread whose current CUDA device is `device`; without it, a new thread uses device 0."""
    if device.type != "cuda":
        return ThreadPoolExecutor(1, name)
    return ThreadPoolExecutor(1, name, torch.cuda.set_device, (device,))
