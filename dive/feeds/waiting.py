"""How long a device waits for the next batch, which shows whether more workers would make training faster."""

import time
from collections import deque
from typing import Protocol

import torch

PENDING = 4  # the number of batches, each in pinned memory, by which the host may be ahead of a CUDA device


class Waits(Protocol):
    """A context around each wait of the host for a batch; `seconds` is how long the device waited in all."""

    @property
    def seconds(self) -> float: ...

    def begin(self) -> None:
        """Count from 0 again."""

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None: ...


def waits_of(device: torch.device) -> Waits:
    """The waits of a device for its batches."""
    return DeviceWaits() if device.type == "cuda" else HostWaits()


class HostWaits:
    """The waits of a CPU: the time of the host, since nothing is computed meanwhile."""

    def __init__(self) -> None:
        self._seconds, self._start = 0.0, 0.0

    @property
    def seconds(self) -> float:
        """The sum since `begin`."""
        return self._seconds

    def begin(self) -> None:
        """Count from 0 again."""
        self._seconds = 0.0

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._seconds += time.perf_counter() - self._start


class DeviceWaits:
    """The waits of a CUDA device: from the end of the enqueued work until the host enqueues more.

    While the host waits, the device is still busy with earlier steps, so the time of the host is not that of
    the device. Two events are recorded on the current stream, before and after a wait of the host. The time
    between them is the time in which the device had no work.
    """

    def __init__(self) -> None:
        self._seconds = 0.0
        self._pending: deque[tuple[torch.cuda.Event, torch.cuda.Event]] = deque()

    @property
    def seconds(self) -> float:
        """The sum since `begin`; waits until the device has reached the last batch."""
        while self._pending:
            self._settle()
        return self._seconds

    def begin(self) -> None:
        """Count from 0 again."""
        self._pending.clear()
        self._seconds = 0.0

    def __enter__(self) -> None:
        self._pending.append((_event(), _event()))
        self._pending[-1][0].record()

    def __exit__(self, *_: object) -> None:
        self._pending[-1][1].record()
        if len(self._pending) > PENDING:
            self._settle()

    def _settle(self) -> None:
        """Add the first pending wait to the sum; blocks until the device is past it."""
        before, after = self._pending.popleft()
        after.synchronize()
        self._seconds += before.elapsed_time(after) / 1000


def _event() -> torch.cuda.Event:
    return torch.cuda.Event(enable_timing=True, blocking=True)
