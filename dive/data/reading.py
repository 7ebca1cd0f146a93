"""How the images of a data set are read: held in memory, or from their files when they are needed."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dive.data.index import index
from dive.data.on_demand import FilePictures
from dive.data.pictures import HeldPictures, hold
from dive.data.sources.source import Split
from dive.progress import SILENT, Progress

Pictures = HeldPictures | FilePictures


@dataclass(frozen=True)
class Reading:
    """How images are read.

    size: the side in pixels that images are resized to; None keeps their own sizes. several: whether images
    may differ in size. Such images are read from their files when they are needed, if the source has a file
    for each and `index` is given; all others are held in memory. index: where the index of those files is
    kept. check: decode each of those files when it is indexed, and not only parse its header.
    """

    size: int | None = None
    several: bool = False
    index: Path | None = None
    check: bool = False
    progress: Progress = SILENT


HELD = Reading()  # in memory, at their own size


def read_pictures(split: Split, positions: np.ndarray, reading: Reading) -> tuple[Pictures, np.ndarray]:
    """The images at some positions (M,) of a split, and their digests (M, 16) uint8.

    The digests are of pixels if images are held in memory, and of the files' bytes if they are read on
    demand. Raises DataError if an image cannot be read, if images differ in size and may not, or if their
    array does not fit in memory.
    """
    if not reading.several or split.files is None or reading.index is None:
        return hold(split, positions, reading.size, reading.several)
    files = split.files.subset(positions)
    digests = index(files, reading.index, reading.progress, reading.check).digests
    return FilePictures(files, digests), digests
