"""Views of pictures as batches on a device.

Pictures that are held in memory lie on the device, and a batch of their views is made there, where the view
space makes its pixels on a device and there is room. In every other case batches are filled by worker
processes some steps ahead: with views, where the space makes them on the host, else with pictures, of which
the device makes the views.
"""

import math
import os
from collections.abc import Iterable, Iterator
from typing import Protocol, cast

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from dive.errors import DataError
from dive.feeds.feed import Batch, ImageFeed, Room, fits
from dive.feeds.waiting import waits_of
from dive.views.space import SEVERAL_SIZES, DeviceSpace, HostSpace, Picture, ViewSpace
from dive.workers import begin_worker
from dive.world import this_world

AHEAD = 4  # batches that each worker reads before they are needed
TOGETHER = 2**26  # bytes of pictures that are prepared at once, beside the place for all
# What is raised where a worker dies while a batch of it is being taken over.
_CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)
# What torch's RuntimeError says where one has died; the thread is the one that pins its batches.
_DIED = ("DataLoader worker", "Pin memory thread")


class Pictures(Protocol):
    """Pictures by row; they can be pickled for a worker process.

    shape: (H, W) of each, None where they differ. channels: of each. held: all of them (N, H, W, channels),
    None where they are not in one array. on_demand: whether each is read from its file when it is needed.
    """

    @property
    def shape(self) -> tuple[int, int] | None: ...

    @property
    def channels(self) -> int: ...

    @property
    def held(self) -> np.ndarray | None: ...

    @property
    def on_demand(self) -> bool: ...

    def __len__(self) -> int: ...

    def read(self, row: int) -> np.ndarray:
        """The picture of a row, (h, w, channels) uint8."""

    def decoded(self, row: int) -> Picture:
        """The same picture in the form that it has once it is decoded."""


class Images:
    """The pictures of a data set in a view space, for a device: what feeds of its views are made of.

    workers: processes that read pictures where they are streamed, 0 for this one; None takes as many as there
    are cores, but for one, where pictures are read on demand; processes that torchrun started on one machine
    share those. room: says whether the pictures may lie on the device, `fits` if not given. Resident pictures
    are brought there once, for every feed.
    """

    def __init__(
        self,
        pictures: Pictures,
        space: ViewSpace,
        device: torch.device,
        workers: int | None = None,
        room: Room | None = None,
    ) -> None:
        self.space = space
        if workers is None:
            cores = len(os.sched_getaffinity(0)) // this_world().local_size
            workers = max(1, cores - 1) if pictures.on_demand else 0
        self._pictures, self._device, self._workers = pictures, device, workers
        self._resident: ResidentImages | None = None
        if pictures.held is not None and space.made == "device":
            on_device = cast(DeviceSpace, space)
            if (room or fits)(ResidentImages.nbytes(pictures.held, on_device, device), device):
                self._resident = ResidentImages(pictures.held, on_device, device)

    def __len__(self) -> int:
        return len(self._pictures)

    @property
    def resident(self) -> bool:
        """Whether the pictures lie on the device."""
        return self._resident is not None

    def feed(self, batch_size: int) -> ImageFeed:
        """A feed of batches of views (B, channels, H, W) uint8, at most `batch_size` in each."""
        if self._resident is not None:
            return self._resident
        return StreamedImages(self._pictures, self.space, batch_size, self._device, self._workers)


def views_of(space: ViewSpace, pictures: Iterable[Picture], ids: Iterable[int]) -> np.ndarray:
    """One view of each of one or more images: (B, H, W, channels) uint8.

    pictures: B images, as pixels (h, w, channels) of one size if the device makes the views. If the host
    makes them, they are read one after the other, so that large ones need not be in memory together. ids: the
    view id of each.
    """
    if space.made == "host":
        on_host = cast(HostSpace, space)
        return np.stack([on_host.view(one, int(view_id)) for one, view_id in zip(pictures, ids, strict=True)])
    on_device = cast(DeviceSpace, space)
    prepared = on_device.prepare(torch.from_numpy(np.stack([cast(np.ndarray, one) for one in pictures])))
    return on_device.render(prepared, torch.arange(len(prepared)), torch.tensor([*ids])).numpy()


def one_view(space: ViewSpace, picture: Picture, view_id: int) -> np.ndarray:
    """One view of one image, as `views_of` returns it of several: (H, W, channels) uint8."""
    return views_of(space, [picture], [view_id])[0]


class ResidentImages:
    """Pictures (N, H, W, channels) uint8 on a device, and their views made there."""

    waited = None

    def __init__(self, pictures: np.ndarray, space: DeviceSpace, device: torch.device) -> None:
        self._space = space
        shape, kind = _shape_prepared(pictures, space, device)
        self._prepared = torch.empty(shape, dtype=kind, device=device)
        size = max(1, TOGETHER // pictures[0].nbytes)
        for start in range(0, len(pictures), size):
            some = np.ascontiguousarray(pictures[start : start + size])
            self._prepared[start : start + size] = space.prepare(torch.from_numpy(some).to(device))

    @staticmethod
    def nbytes(pictures: np.ndarray, space: DeviceSpace, device: torch.device) -> int:
        """The bytes that pictures take on the device, prepared for their views."""
        shape, kind = _shape_prepared(pictures, space, device)
        return math.prod(shape) * kind.itemsize

    def begin(self, plan: Iterable[Batch]) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8, in channels-last memory."""
        return self._space.render(self._prepared, rows, ids).permute(0, 3, 1, 2)


def _shape_prepared(
    pictures: np.ndarray, space: DeviceSpace, device: torch.device
) -> tuple[tuple[int, ...], torch.dtype]:
    """The shape (N, …) and the type of pictures that a space has prepared."""
    one = space.prepare(torch.zeros(1, *pictures.shape[1:], dtype=torch.uint8, device=device))
    return (len(pictures), *one.shape[1:]), one.dtype


class _Filling(Dataset[torch.Tensor | DataError]):
    """What workers do: a batch's views, or its pictures where the device makes the views of them.

    Where a picture cannot be read they give the error: one that is raised in a worker comes as a traceback.
    shape: (H, W, channels) of each.
    """

    def __init__(self, pictures: Pictures, space: ViewSpace, shape: tuple[int, int, int]) -> None:
        self._pictures, self._shape = pictures, shape
        self._space = cast(HostSpace, space) if space.made == "host" else None

    def __getitem__(self, batch: Batch) -> torch.Tensor | DataError:
        filled = np.empty((len(batch), *self._shape), dtype=np.uint8)
        try:
            for place, row, view_id in zip(filled, batch.rows, batch.ids, strict=True):
                place[...] = self._of(int(row), int(view_id))
        except DataError as error:
            return error
        return torch.from_numpy(filled)

    def _of(self, row: int, view_id: int) -> np.ndarray:
        if self._space is None:
            return self._pictures.read(row)
        return self._space.view(self._pictures.decoded(row), view_id)


class _Plan:
    """The batches of the running plan, as the sampler of a loader that lives on from plan to plan."""

    def __init__(self) -> None:
        self.batches: Iterable[Batch] = ()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _begin_worker(worker: int) -> None:
    """End with the process that trains: torch's workers end with the one that forked them.

    That is the fork server, which in turn lives as long as they do.
    """
    begin_worker()


class StreamedImages:
    """Views whose pictures come from worker processes, some batches ahead.

    Workers are forked off a server process of their own, so that they hold none of this one's files.

    in_place: whether every batch is brought to one place, where a captured step reads it; None is on CUDA
    alone: where the same processors make the views and copy them, it costs a sixth of the time.
    """

    def __init__(
        self,
        pictures: Pictures,
        space: ViewSpace,
        batch_size: int,
        device: torch.device,
        workers: int,
        in_place: bool | None = None,
    ) -> None:
        self._space = cast(DeviceSpace, space) if space.made == "device" else None
        self._device, on_cuda = device, device.type == "cuda"
        self._in_place = on_cuda if in_place is None else in_place
        sides = space.shape if self._space is None else pictures.shape
        if sides is None:
            raise DataError(SEVERAL_SIZES)
        shape = (*sides, pictures.channels)
        room = batch_size if self._in_place else 0
        self._buffer = torch.zeros(room, *shape, dtype=torch.uint8, device=device)
        self._plan, self._waits = _Plan(), waits_of(device)
        self._loader = DataLoader(
            _Filling(pictures, space, shape),
            sampler=self._plan,
            batch_size=None,
            num_workers=workers,
            pin_memory=on_cuda,
            persistent_workers=workers > 0,
            prefetch_factor=AHEAD if workers else None,
            multiprocessing_context="forkserver" if workers else None,
            worker_init_fn=_begin_worker,
            generator=torch.Generator(),  # which it seeds its workers from, instead of the global one
        )
        self._coming: Iterator[torch.Tensor | DataError] = iter(())

    @property
    def waited(self) -> float:
        """Seconds that the device waited for batches since `begin`."""
        return self._waits.seconds

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start reading the first batches of a plan."""
        self._waits.begin()
        self._plan.batches = plan
        self._coming = iter(self._loader)

    def load(self) -> None:
        """Bring the next batch to the device.

        Raises DataError where a picture cannot be read, or where a worker died.
        """
        try:
            with self._waits:
                filled = next(self._coming)
        except (RuntimeError, *_CUT_OFF) as error:
            if isinstance(error, RuntimeError) and not any(said in str(error) for said in _DIED):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"a process that reads pictures died ({reason}); is there enough memory?"
            ) from error
        if isinstance(filled, DataError):
            try:
                raise filled
            finally:
                del filled  # in a cycle with its own traceback workers would live on until it is collected
        if self._in_place:
            self._buffer[: len(filled)].copy_(filled, non_blocking=True)
        else:
            self._buffer = filled

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8 of the batch loaded last, in channels-last memory."""
        loaded = self._buffer[: len(rows)]
        if self._space is not None:
            places = torch.arange(len(rows), device=self._device)
            loaded = self._space.render(self._space.prepare(loaded), places, ids)
        return loaded.permute(0, 3, 1, 2)
