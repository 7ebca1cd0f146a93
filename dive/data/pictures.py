"""Images held in memory: read once, digested, and resized to one size if the views need one.

The digest is that of an image before it is resized. The digests of a data set therefore depend neither on the
size that a recipe asks for, nor on whether the data set is a folder, an archive or arrays.
"""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dive import memory
from dive.data.sources.source import Split
from dive.errors import DataError
from dive.files import readable_size

DIGEST_BYTES = 16
_PIECE = 64  # images that a thread reads at a time


@dataclass(frozen=True)
class HeldPictures:
    """Images in memory.

    pictures: images of one size (N, H, W, channels) uint8; a list of N images, each (h, w, channels) uint8,
    if they may differ in size.
    """

    pictures: np.ndarray | list[np.ndarray]

    def __len__(self) -> int:
        return len(self.pictures)

    @property
    def on_demand(self) -> bool:
        """Whether an image is read from its file when it is needed."""
        return False

    @property
    def held(self) -> np.ndarray | None:
        """All images in one array; None if they may differ in size."""
        return self.pictures if isinstance(self.pictures, np.ndarray) else None

    @property
    def shape(self) -> tuple[int, int] | None:
        """(H, W) of each image; None if they may differ in size."""
        return self.pictures.shape[1:3] if isinstance(self.pictures, np.ndarray) else None

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return self.pictures[0].shape[2]

    @property
    def nbytes(self) -> int:
        """Bytes of memory that the images take."""
        several = [self.pictures] if isinstance(self.pictures, np.ndarray) else self.pictures
        return sum(pictures.nbytes for pictures in several)

    def read(self, row: int) -> np.ndarray:
        """The image of a row, (h, w, channels) uint8."""
        return self.pictures[row]

    decoded = read  # for images on demand `decoded` returns a Pillow image; these are arrays only

    def subset(self, rows: np.ndarray) -> "HeldPictures":
        """The images at `rows` (M,), in the order of `rows`."""
        if isinstance(self.pictures, np.ndarray):
            return HeldPictures(self.pictures[rows])
        return HeldPictures([self.pictures[row] for row in rows])


def digest(picture: np.ndarray) -> bytes:
    """The first 16 bytes of SHA-256 over an image's shape and pixels."""
    return hashlib.sha256(repr(picture.shape).encode() + picture.tobytes()).digest()[:DIGEST_BYTES]


def fit(picture: np.ndarray, size: int) -> np.ndarray:
    """An image brought to (size, size, channels): the shorter side is resized (bicubic), the centre cropped.

    An image that has the size already is returned unchanged.
    """
    if picture.shape[:2] == (size, size):
        return picture
    from PIL import Image  # here, because the tune step never needs it

    image = Image.fromarray(picture[..., 0] if picture.shape[2] == 1 else picture)
    scale = size / min(image.size)
    resized = [max(size, round(side * scale)) for side in image.size]
    image = image.resize(resized, Image.Resampling.BICUBIC)
    left, top = ((side - size) // 2 for side in resized)
    return np.asarray(image.crop((left, top, left + size, top + size))).reshape(size, size, -1)


def hold(
    split: Split, positions: np.ndarray, size: int | None, several: bool = False
) -> tuple[HeldPictures, np.ndarray]:
    """The images at some positions (M,) of a split, `size` pixels a side, and their digests (M, 16) uint8.

    size: None keeps each image's own size. several: whether the images may differ in size; they are then held
    as a list, not as one array. Raises DataError if images differ in size and may not, if one cannot be read,
    or if the array does not fit in memory.
    """
    images = [np.empty(0)] * len(positions) if several else _room(split, positions, size)
    digests = np.empty((len(positions), DIGEST_BYTES), dtype=np.uint8)

    def fill(part: np.ndarray) -> None:
        for i in part:
            picture = split.read(int(positions[i]))
            digests[i] = np.frombuffer(digest(picture), dtype=np.uint8)
            if size is not None:
                picture = _fitted(picture, size, split.keys[positions[i]])
            elif isinstance(images, np.ndarray) and picture.shape != images.shape[1:]:
                raise DataError(_several_sizes(split, positions, int(i), picture, images))
            images[i] = picture

    pieces = [np.arange(i, min(i + _PIECE, len(positions))) for i in range(0, len(positions), _PIECE)]
    with split.reading():
        pool = ThreadPoolExecutor((os.cpu_count() or 1) if split.parallel() else 1)
        try:
            list(pool.map(fill, pieces))
        finally:  # so that one bad file, or Ctrl-C, need not wait for the rest
            pool.shutdown(cancel_futures=True)
    return HeldPictures(images), digests


def _fitted(picture: np.ndarray, size: int, key: str) -> np.ndarray:
    try:
        return fit(picture, size)
    except MemoryError as error:
        raise DataError(
            f"{key} cannot be resized to {size}×{size} pixels: there is not enough memory"
        ) from error


def _several_sizes(
    split: Split, positions: np.ndarray, i: int, picture: np.ndarray, images: np.ndarray
) -> str:
    first, other = (split.keys[positions[at]] for at in (0, i))
    one, two = (f"{shape[1]}×{shape[0]}" for shape in (images.shape[1:], picture.shape))
    return (
        f"the images differ in size: {first} has {one} pixels, {other} {two}; "
        "give them one size with views.size, for example --set views.size=32"
    )


def _room(split: Split, positions: np.ndarray, size: int | None) -> np.ndarray:
    """An unfilled array (M, H, W, channels) uint8 for images of `size` pixels a side.

    If `size` is None, H and W are those of the first image. Raises DataError if it does not fit in memory.
    """
    with split.reading():
        height, width, channels = split.read(int(positions[0])).shape
    count, shape = len(positions), (size or height, size or width, channels)
    needed, free = count * shape[0] * shape[1] * shape[2], memory.available()
    if needed > free:  # the system would grant the memory all the same, and kill the process later
        raise DataError(
            f"{count} images of {shape[1]}×{shape[0]} pixels need {readable_size(needed)} of memory, "
            f"{readable_size(int(free))} are free; choose a smaller views.size, or views.kind resized_crop, "
            "which reads images from their files when they are needed"
        )
    return np.empty((count, *shape), dtype=np.uint8)
