"""What a source of images is: it names every image, and decodes those asked for.

A source names every image by its key, `<class>/<original file name>`. What is drawn from it, and how
much, is not its business (see `dive.data.longtail`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Split:
    """The training or the test images of a source.

    keys: `<class>/<file name>` of each image, ascending. labels: (N,) int64, positions in the
    source's classes. decode: positions (M,) to images (M, H, W, channels), uint8.
    """

    keys: list[str]
    labels: np.ndarray
    decode: Callable[[np.ndarray], np.ndarray]


@dataclass(frozen=True)
class Source:
    """A data set: class names in label order, training and test images, and a note for the user.

    `note` says what the user should know of how the images were read; empty if nothing.
    """

    classes: tuple[str, ...]
    train: Split
    test: Split
    note: str = ""


def sorted_split(keys: list[str], labels: np.ndarray, images: np.ndarray) -> Split:
    """A split of images in memory, brought into the order of its keys."""
    order = np.array(sorted(range(len(keys)), key=keys.__getitem__), dtype=np.int64)
    return Split(
        keys=[keys[i] for i in order],
        labels=np.asarray(labels, dtype=np.int64)[order],
        decode=lambda positions: images[order[positions]],
    )
