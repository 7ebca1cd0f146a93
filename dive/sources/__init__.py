"""Where images come from: the official CIFAR files, image folders, scikit-learn's digits.

A source names every image by its key, `<class>/<original file name>`, and decodes only those asked
for. What is drawn from it, and how much, is not its business (see `dive.longtail`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dive.errors import DataError
from dive.recipe import Data


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


def open_source(data: Data) -> Source:
    """The source a recipe names; raises DataError where it is missing, incomplete or corrupt."""
    try:
        path = Path(data.path).expanduser()
    except RuntimeError as error:
        raise DataError(
            f"data.path {data.path} names a user whose home is not known; write it out"
        ) from error
    if data.source == "digits":
        from dive.sources.digits import open_digits

        return open_digits()
    if data.source == "folder":
        from dive.sources.folder import open_folder

        return open_folder(path, data.size or 32)
    from dive.sources.cifar import open_cifar

    return open_cifar(data.source, path)
