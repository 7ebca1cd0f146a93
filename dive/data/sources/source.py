"""What a source of pictures is: it names every picture, and reads those asked for.

A source names every picture by its key, `<class>/<original file name>`. What is drawn from it, and how
much, is not its business (see `dive.data.longtail`).
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from dive.data.sources.picture_files import PictureFiles


@dataclass(frozen=True)
class Split:
    """The training, validation or test pictures of a source.

    keys: `<class>/<file name>` of each picture, ascending. labels: (N,) int64, positions in the source's
    classes. read: a position to its picture (H, W, channels) uint8; pictures may differ in size. parallel:
    finds out whether reading on several threads is faster. reading: a context that reading must happen in.
    files: of the pictures by position, None where they do not come as a file each.
    """

    keys: list[str]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    parallel: Callable[[], bool] = lambda: False
    reading: Callable[[], AbstractContextManager[None]] = nullcontext
    files: PictureFiles | None = None

    def subset(self, positions: np.ndarray) -> "Split":
        """The pictures at some positions (M,), ascending."""
        return Split(
            keys=[self.keys[i] for i in positions],
            labels=self.labels[positions],
            read=lambda position: self.read(int(positions[position])),
            parallel=self.parallel,
            reading=self.reading,
            files=self.files and self.files.subset(positions),
        )


@dataclass(frozen=True)
class Source:
    """A data set: class names in label order, training and test pictures, and those for validation if any.

    Every class has training pictures; it may lack test or validation pictures. test_share: of each class,
    which was set aside for the test; None where the data set has a test part itself.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None
    test_share: float | None = None


def sorted_split(keys: list[str], labels: np.ndarray, images: np.ndarray) -> Split:
    """A split of pictures in memory (N, H, W, channels), brought into the order of its keys."""
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return Split(
        keys=[keys[i] for i in order],
        labels=np.asarray(labels, dtype=np.int64)[order],
        read=lambda position: images[order[position]],
    )
