"""Views of images as batches on a device.

If the images are held in memory, the view space computes its pixels on the device and there is room, the
images are copied to the device once and views are computed there. Otherwise worker processes fill batches
some steps ahead: with views if the space computes them on the host, or else with images, from which the
device computes the views.
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
TOGETHER = 2**26  # bytes of images that are prepared at once, in addition to the memory for all
# Raised if a worker dies while one of its batches is being received.
_CUT_OFF = (ConnectionError, EOFError, FileNotFoundError)
# Texts in torch's RuntimeError if a worker, or the thread that pins its batches, has died.
_DIED = ("DataLoader worker", "Pin memory thread")


class Pictures(Protocol):
    """Images by row; they can be pickled for a worker process.

    shape: (H, W) of each image, None if they differ. channels: of each image. held: all images as one array
    (N, H, W, channels), None if they are not in one array. on_demand: whether each image is read from its
    file when it is needed.
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
        """The image of a row, (h, w, channels) uint8."""

    def decoded(self, row: int) -> Picture:
        """The same image in the form that decoding gives: an array, or a Pillow image."""


class Images:
    """The images of a data set in a view space, from which `feed` makes feeds of views for a device.

    workers: the number of processes that read streamed images; with 0, this process reads them. The default
    is one less than the number of cores (at least 1) if images are read on demand, otherwise 0; processes
    that torchrun started on one machine share the cores. room: whether the images may be held on the device;
    `fits` if not given. Resident images are copied to the device once, for all feeds.
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
        """Whether the images are on the device."""
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
    """Images (N, H, W, channels) uint8 on a device, where their views are computed."""

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
        """The bytes that images take on the device, in the form that `prepare` gives."""
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
    """The shape (N, …) and the dtype of images after `prepare`."""
    one = space.prepare(torch.zeros(1, *pictures.shape[1:], dtype=torch.uint8, device=device))
    return (len(pictures), *one.shape[1:]), one.dtype


class _Filling(Dataset[torch.Tensor | DataError]):
    """The data set that workers read: the views of a batch, or its images if the device computes the views.

    If an image cannot be read, the item is the error, since an error raised in a worker arrives as a
    traceback. shape: (H, W, channels) of each view or image.
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
    """The batches of the current plan, as the sampler of a loader that is kept for all plans."""

    def __init__(self) -> None:
        self.batches: Iterable[Batch] = ()

    def __iter__(self) -> Iterator[Batch]:
        return iter(self.batches)


def _begin_worker(worker: int) -> None:
    """Make a worker end when the process that trains ends.

    torch's workers end with the process that forked them. Here that is the fork server, which does not end
    before its workers.
    """
    begin_worker()


class StreamedImages:
    """Views whose images are read by worker processes, some batches ahead.

    Workers are forked from a fork server, so that they inherit no open files of this process.

    in_place: whether every batch is copied into the same buffer, from which a captured step reads it. The
    default is to do so on CUDA only: on a CPU the cores that compute the views would also copy them, which
    costs a sixth of the time.
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
            generator=torch.Generator(),  # so that workers are not seeded from the global generator
        )
        self._coming: Iterator[torch.Tensor | DataError] = iter(())

    @property
    def waited(self) -> float:
        """Seconds that the device waited for batches since `begin`."""
        return self._waits.seconds

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start a plan and the reading of its first batches."""
        self._waits.begin()
        self._plan.batches = plan
        self._coming = iter(self._loader)

    def load(self) -> None:
        """Bring the next batch to the device.

        Raises DataError if an image cannot be read, or if a worker died.
        """
        try:
            with self._waits:
                filled = next(self._coming)
        except (RuntimeError, *_CUT_OFF) as error:
            if isinstance(error, RuntimeError) and not any(said in str(error) for said in _DIED):
                raise
            reason = next(iter(str(error).splitlines()), type(error).__name__)
            raise DataError(
                f"a worker process that reads images died ({reason}); is there enough memory?"
            ) from error
        if isinstance(filled, DataError):
            try:
                raise filled
            finally:
                del filled  # its traceback refers to this frame: the cycle would keep the workers alive
        if self._in_place:
            self._buffer[: len(filled)].copy_(filled, non_blocking=True)
        else:
            self._buffer = filled

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8 of the batch loaded last, in channels-last memory format."""
        loaded = self._buffer[: len(rows)]
        if self._space is not None:
            places = torch.arange(len(rows), device=self._device)
            loaded = self._space.render(self._space.prepare(loaded), places, ids)
        return loaded.permute(0, 3, 1, 2)
