"""What a source of images is: it lists the keys of all images, and reads the images that are needed.

The key of an image is `<class>/<original file name>`. A source does not decide which of its images are drawn;
`dive.data.longtail` does.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import numpy as np

from dive.data.sources.picture_files import PictureFiles


@dataclass(frozen=True)
class Split:
    """The training, validation or test images of a source.

    keys: `<class>/<file name>` of each image, ascending. labels: (N,) int64, positions in the source's
    classes. read: takes a position and returns the image, (H, W, channels) uint8; images may differ in size.
    parallel: returns whether reading with several threads is faster. reading: makes the context in which
    `read` must be called. files: the files of the images by position; None if the source does not have one
    file per image.
    """

    keys: list[str]
    labels: np.ndarray
    read: Callable[[int], np.ndarray]
    parallel: Callable[[], bool] = lambda: False
    reading: Callable[[], AbstractContextManager[None]] = nullcontext
    files: PictureFiles | None = None

    def subset(self, positions: np.ndarray) -> "Split":
        """The images at `positions` (M,), which must be ascending."""
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
    """A data set: class names in the order of the labels, training and test images, any validation images.

    Every class has training images; it may lack test or validation images. test_share: the share of each
    class that was set aside as the test set; None if the data set has a test set of its own.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    val: Split | None = None
    test_share: float | None = None


def sorted_split(keys: list[str], labels: np.ndarray, images: np.ndarray) -> Split:
    """A split of images in memory, `images` (N, H, W, channels) uint8, sorted by key."""
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return Split(
        keys=[keys[i] for i in order],
        labels=np.asarray(labels, dtype=np.int64)[order],
        read=lambda position: images[order[position]],
    )
