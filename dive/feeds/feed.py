"""What a feed is: it brings the batches of a plan to the device, one after the other."""

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
    """Which samples a batch is of and in which views: rows, view ids and cache columns, each (B,) int64."""

    rows: np.ndarray
    ids: np.ndarray
    columns: np.ndarray

    def __len__(self) -> int:
        return len(self.rows)

    def split(self, size: int) -> Iterator["Batch"]:
        """It in batches of `size`, the last perhaps smaller."""
        for start in range(0, len(self), size):
            yield self._of(start, start + size)

    def parts(self, sizes: Sequence[int]) -> Iterator["Batch"]:
        """It in batches of these sizes, one after the other."""
        for end, size in zip(accumulate(sizes), sizes, strict=True):
            yield self._of(end - size, end)

    def _of(self, start: int, end: int) -> "Batch":
        return Batch(self.rows[start:end], self.ids[start:end], self.columns[start:end])


class Feed(Protocol):
    """Gives one input of the batches of a plan: views of pictures, or the teacher's logits for them.

    `begin` starts a plan; before each of its batches `load` makes it ready, and `batch` gives it. Data that
    lie on the device (resident) have nothing to load; streamed ones are read some batches ahead.
    """

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start a plan; one that was not gone through is given up."""

    def load(self) -> None:
        """Make the next batch of the plan ready."""

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The batch made ready: (B, …) of samples, views and columns (B,), on the device.

        Tensor operations alone, fit for a CUDA graph.
        """


class ImageFeed(Feed, Protocol):
    """A feed of views of pictures."""

    @property
    def waited(self) -> float | None:
        """Seconds that the device waited for batches since `begin`, None where the pictures lie on it."""


Room = Callable[[int, torch.device], bool]  # whether so many bytes may lie on a device


def fits(size: int, device: torch.device) -> bool:
    """Whether `size` bytes may lie on the device, or, on a CPU, in this process's share of the memory."""
    on_cuda = device.type == "cuda"
    free = torch.cuda.mem_get_info(device)[0] if on_cuda else memory.available() / this_world().local_size
    return size <= memory.SHARE_OF_MEMORY * free


def side_thread(device: torch.device, name: str) -> ThreadPoolExecutor:
    """A pool of one thread whose current CUDA device is `device`; threads begin with the machine's first."""
    if device.type != "cuda":
        return ThreadPoolExecutor(1, name)
    return ThreadPoolExecutor(1, name, torch.cuda.set_device, (device,))
