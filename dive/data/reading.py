"""How the pictures of a data set are read: held in memory, or from their files when they are needed."""

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
    """How pictures are read.

    size: the side in pixels that they are brought to, None for as they are. several: whether they may differ
    in size; such pictures are read from their files when they are needed, if they have any. index: where the
    index of those files is kept. check: decode every such file before, not its header alone.
    """

    size: int | None = None
    several: bool = False
    index: Path | None = None
    check: bool = False
    progress: Progress = SILENT


HELD = Reading()  # in memory, as they are


def read_pictures(split: Split, positions: np.ndarray, reading: Reading) -> tuple[Pictures, np.ndarray]:
    """The pictures at some positions (M,) of a split, and their digests (M, 16) uint8.

    The digests are of pixels where pictures are held, of the files' bytes where they are read on demand.
    Raises DataError where a picture cannot be read, or they differ in size and may not.
    """
    if not reading.several or split.files is None or reading.index is None:
        return hold(split, positions, reading.size, reading.several)
    files = split.files.subset(positions)
    digests = index(files, reading.index, reading.progress, reading.check).digests
    return FilePictures(files, digests), digests
