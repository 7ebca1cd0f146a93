"""The teacher's logits of a batch: gathered from a cache on the device, or streamed to it.

A cache that fits is held on the training device (on a CPU it is the memory-mapped file itself), and a batch
is one gather there. A larger cache stays in its file: a thread gathers the rows of the next steps, for CUDA
into pinned memory, while the device computes. In both cases rows are moved as they are stored, and a batch is
decoded on the device.
"""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass

import numpy as np
import torch

from dive.cache.reader import LogitCache
from dive.feeds.feed import Batch, Feed, Room, fits, side_thread
from dive.files import readable_size

AHEAD = 4  # batches gathered before they are needed


class CachedLogits:
    """The logits of some samples in a cache, from which `feed` makes feeds of logits for a device.

    cache: the CRC of every block that is read is verified. rows: (N,) the cache's row of each sample. room:
    whether the cache may be held on the device; `fits` if not given. If so, it is copied there once, for all
    feeds.
    """

    def __init__(
        self, cache: LogitCache, rows: np.ndarray, device: torch.device, room: Room | None = None
    ) -> None:
        self._cache, self._rows, self._device = cache, rows, device
        self._resident: ResidentLogits | None = None
        if (room or fits)(cache.nbytes, device):
            self._resident = ResidentLogits.of(cache, rows, device)

    @property
    def resident(self) -> bool:
        """Whether the rows are on the device."""
        return self._resident is not None

    def told(self, batch_size: int) -> str:
        """A message that says where the rows are and how many bytes of them a step moves."""
        row = self._cache.codec.row.itemsize
        where = "is on the device" if self.resident else "is streamed from its file"
        return (
            f"{self._cache.path} ({self._cache.store}, {row} bytes a view) {where}; "
            f"a step moves {readable_size(row * min(batch_size, len(self._rows)))} of it"
        )

    def feed(self, batch_size: int) -> Feed:
        """A feed of batches of logits (B, C), at most `batch_size` in each."""
        if self._resident is not None:
            return self._resident
        return StreamedLogits(self._cache, self._rows, batch_size, self._device)


@dataclass(frozen=True)
class ResidentLogits:
    """A cache on the device.

    rows: (N'·V, words) as `Codec.words` returns them, for the N' samples of the cache. views: V. place: (N,)
    the cache's row of each sample. decode: decodes rows (B, words) to logits (B, C) float32.
    """

    rows: torch.Tensor
    views: int
    place: torch.Tensor
    decode: Callable[[torch.Tensor], torch.Tensor]

    @classmethod
    def of(cls, cache: LogitCache, place: np.ndarray, device: torch.device) -> "ResidentLogits":
        """A cache on a device, after the CRC of every block is verified; on a CPU, the mapped file itself."""
        rows = torch.from_numpy(cache.codec.words(cache.encoded_whole())).to(device)
        here = torch.from_numpy(place).to(device)
        return cls(rows, cache.shape[1], here, cache.codec.on_device(device))

    def begin(self, plan: Iterable[Batch]) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of samples and cache columns, each (B,)."""
        return self.decode(self.rows.index_select(0, self.place[rows] * self.views + columns))


class StreamedLogits:
    """A cache in its file. place: (N,) the cache's row of each sample."""

    def __init__(self, cache: LogitCache, place: np.ndarray, batch_size: int, device: torch.device) -> None:
        self._cache, self._place = cache, place
        self._cuda = device.type == "cuda"
        self._decode = cache.codec.on_device(device)
        row = cache.codec.row
        blank = torch.from_numpy(cache.codec.words(np.zeros((1, *row.shape), row.base)))
        kind, shape = blank.dtype, (min(batch_size, len(place)), blank.shape[1])
        slots = [torch.empty(shape, dtype=kind, pin_memory=self._cuda) for _ in range(AHEAD)]
        self._free: deque[tuple[torch.Tensor, torch.cuda.Event | None]] = deque((s, None) for s in slots)
        self._buffer = torch.zeros(shape, dtype=kind, device=device)
        self._pool = side_thread(device, "cache")
        self._pending: deque[Future[tuple[torch.Tensor, int]]] = deque()
        self._coming: Iterator[Batch] = iter(())

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start a plan and the gathering of its first batches."""
        while self._pending:  # batches of an earlier plan that is not finished
            self._free.append((self._pending.popleft().result()[0], None))
        self._coming = iter(plan)
        while self._free and self._gather_next():
            pass

    def _gather_next(self) -> bool:
        """Start gathering the next batch of the plan; returns whether there is one."""
        batch = next(self._coming, None)
        if batch is not None:
            self._pending.append(self._pool.submit(self._gather, batch, *self._free.popleft()))
        return batch is not None

    def _gather(
        self, batch: Batch, slot: torch.Tensor, copied: torch.cuda.Event | None
    ) -> tuple[torch.Tensor, int]:
        if copied is not None:
            copied.synchronize()  # the device may still be copying from this slot
        count = len(batch)
        self._cache.encoded(self._place[batch.rows], batch.columns, out=slot.numpy()[:count])
        return slot, count

    def load(self) -> None:
        """Bring the next batch to the device, in the order of its current stream.

        Raises CacheError if a block is corrupt.
        """
        slot, count = self._pending.popleft().result()
        self._buffer[:count].copy_(slot[:count], non_blocking=True)
        copied = None
        if self._cuda:
            copied = torch.cuda.Event(blocking=True)  # blocking: the pool's thread sleeps while it waits
            copied.record()
        self._free.append((slot, copied))
        self._gather_next()

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of the batch loaded last; its samples are those of the plan, not the arguments."""
        return self._decode(self._buffer[: len(rows)])
