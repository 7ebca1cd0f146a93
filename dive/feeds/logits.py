"""The teacher's logits of a batch: looked up in a cache that lies on the device, or streamed to it.

A cache that fits lies on the training device (on a CPU it is the memory-mapped file itself) and a
batch is one gather there. A larger one stays in its file: a thread gathers the rows of the coming
steps into pinned memory while the device computes.
"""

from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch

from dive.cache.reader import LogitCache
from dive.feeds.feed import Batch, Feed, fits

AHEAD = 4  # batches gathered before they are needed


class CachedLogits:
    """The logits that a cache holds of some samples, for a device: what feeds of them are made of.

    cache: every block that is read is checked. rows: (N,) the cache's row of each sample. A cache that fits
    is brought to the device once, for every feed.
    """

    def __init__(self, cache: LogitCache, rows: np.ndarray, device: torch.device) -> None:
        self._cache, self._rows, self._device = cache, rows, device
        self._resident: ResidentLogits | None = None
        if fits(cache.nbytes, device):
            logits = torch.from_numpy(cache.whole()).to(device)  # on a CPU the mapped file itself
            self._resident = ResidentLogits(logits, torch.from_numpy(rows).to(device))

    @property
    def resident(self) -> bool:
        """Whether the logits lie on the device."""
        return self._resident is not None

    def feed(self, batch_size: int) -> Feed:
        """A feed of batches of logits (B, C), at most `batch_size` in each."""
        if self._resident is not None:
            return self._resident
        return StreamedLogits(self._cache, self._rows, batch_size, self._device)


@dataclass(frozen=True)
class ResidentLogits:
    """A cache on the device. logits: (N', V, C). place: (N,) the cache row of each sample."""

    logits: torch.Tensor
    place: torch.Tensor

    def begin(self, plan: Iterable[Batch]) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of samples and cache columns, each (B,)."""
        return self.logits[self.place[rows], columns]


class StreamedLogits:
    """A cache in its file. place: (N,) the cache row of each sample."""

    def __init__(self, cache: LogitCache, place: np.ndarray, batch_size: int, device: torch.device) -> None:
        self._cache, self._place = cache, place
        self._cuda = device.type == "cuda"
        kind = torch.from_numpy(np.empty(0, cache.dtype)).dtype
        shape = (min(batch_size, len(place)), cache.shape[2])
        slots = [torch.empty(shape, dtype=kind, pin_memory=self._cuda) for _ in range(AHEAD)]
        self._free: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque((s, None) for s in slots)
        self._buffer = torch.zeros(shape, dtype=kind, device=device)
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="cache")
        self._pending: deque[Future[tuple[torch.Tensor, int]]] = deque()
        self._coming: Iterator[Batch] = iter(())

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start gathering for a plan."""
        while self._pending:  # of a plan that was not gone through
            self._free.append((self._pending.popleft().result()[0], None))
        self._coming = iter(plan)
        while self._free and self._gather_next():
            pass

    def _gather_next(self) -> bool:
        """Gather the plan's next batch; whether there is one."""
        batch = next(self._coming, None)
        if batch is not None:
            self._pending.append(self._pool.submit(self._gather, batch, *self._free.popleft()))
        return batch is not None

    def _gather(
        self, batch: Batch, slot: torch.Tensor, copied: torch.cuda.Event | None
    ) -> tuple[torch.Tensor, int]:
        if copied is not None:
            copied.synchronize()  # the device may still be copying out of this slot
        count = len(batch)
        self._cache.gather(self._place[batch.rows], batch.columns, out=slot.numpy()[:count])
        return slot, count

    def load(self) -> None:
        """Bring the next batch to the device, in the order of its current stream; raises CacheError."""
        slot, count = self._pending.popleft().result()
        self._buffer[:count].copy_(slot[:count], non_blocking=True)
        copied = None
        if self._cuda:
            copied = torch.cuda.Event(blocking=True)  # the pool's thread sleeps on it
            copied.record()
        self._free.append((slot, copied))
        self._gather_next()

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the batch loaded last; which samples it is of was said in `begin`."""
        return self._buffer[: len(rows)]
