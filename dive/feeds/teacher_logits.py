"""What the teacher said of a batch: looked up in a cache that lies on the device, or streamed to it.

A cache that fits lies on the training device (on a CPU it is the memory-mapped file itself) and a
batch is one gather there. A larger one stays in its file: a thread gathers the rows of the coming
steps into pinned memory while the device computes.
"""

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch

SHARE_OF_MEMORY = 0.6  # of what is free: the most a cache may take before it is streamed
AHEAD = 4  # steps gathered before they are needed
HOST_MEMORY = "/proc/meminfo"


class TeacherLogits(Protocol):
    """Gives the teacher's logits of the batches of an epoch, in order."""

    def begin(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """An epoch over samples `rows` (N,) and cache columns (N,) begins."""

    def load(self) -> None:
        """Make the next batch of the epoch ready; called once before each step."""

    def batch(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the batch made ready; tensor operations alone, fit for a CUDA graph."""


@dataclass(frozen=True)
class ResidentLogits:
    """A cache on the device. logits: (N', V, C). place: (N,) the cache row of each sample."""

    logits: torch.Tensor
    place: torch.Tensor

    def begin(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    def batch(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of samples and cache columns, each (B,)."""
        return self.logits[self.place[rows], columns]


class StreamedLogits:
    """A cache in its file. logits: (N', V, C), memory-mapped. place: (N,) the cache row of each sample."""

    def __init__(self, logits: np.ndarray, place: np.ndarray, batch_size: int, device: torch.device) -> None:
        self._rows_of_views = logits.reshape(-1, logits.shape[2])  # still the mapped file
        self._views, self._place, self._size = logits.shape[1], place, batch_size
        self._cuda = device.type == "cuda"
        kind = torch.from_numpy(np.empty(0, logits.dtype)).dtype
        shape = (min(batch_size, len(place)), logits.shape[2])
        slots = [torch.empty(shape, dtype=kind, pin_memory=self._cuda) for _ in range(AHEAD)]
        self._free: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque((s, None) for s in slots)
        self._buffer = torch.zeros(shape, dtype=kind, device=device)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._pending: deque[Future[tuple[torch.Tensor, int]]] = deque()

    def begin(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Start gathering for an epoch over samples `rows` (N,) and cache columns (N,)."""
        while self._pending:  # of an epoch that was not gone through
            self._free.append((self._pending.popleft().result()[0], None))
        wanted = self._place[rows] * self._views + columns
        self._batches = deque(np.split(wanted, range(self._size, len(wanted), self._size)))
        while self._free and self._batches:
            self._gather_next()

    def _gather_next(self) -> None:
        self._pending.append(self._pool.submit(self._gather, self._batches.popleft(), *self._free.popleft()))

    def _gather(
        self, wanted: np.ndarray, slot: torch.Tensor, copied: torch.cuda.Event | None
    ) -> tuple[torch.Tensor, int]:
        if copied is not None:
            copied.synchronize()  # the device may still be copying out of this slot
        count = len(wanted)
        np.take(self._rows_of_views, wanted, axis=0, out=slot.numpy()[:count], mode="clip")
        return slot, count

    def load(self) -> None:
        """Bring the next batch to the device, in the order of its current stream."""
        slot, count = self._pending.popleft().result()
        self._buffer[:count].copy_(slot[:count], non_blocking=True)
        copied = None
        if self._cuda:
            copied = torch.cuda.Event(blocking=True)  # the pool's thread sleeps on it
            copied.record()
        self._free.append((slot, copied))
        if self._batches:
            self._gather_next()

    def batch(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the batch loaded last; which samples it is of was said in `begin`."""
        return self._buffer[: len(rows)]


def fits(size: int, device: torch.device) -> bool:
    """Whether a cache of `size` bytes may lie on the device, or, on a CPU, in memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
    else:
        free = _available_memory()
    return size <= SHARE_OF_MEMORY * free


def _available_memory() -> float:
    """Bytes of memory that programs can still have; without limit where the system does not say."""
    try:
        with open(HOST_MEMORY) as file:
            line = next(line for line in file if line.startswith("MemAvailable:"))
    except (OSError, StopIteration):
        return float("inf")
    return int(line.split()[1]) * 1024
