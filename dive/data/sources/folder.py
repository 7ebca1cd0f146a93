"""Image folders: `train/<class>/*` and `test/<class>/*`, in a directory or a .zip of one.

Images are decoded only when drawn, brought to RGB and to one size: the shorter side is resized,
then the centre is cropped. Images that have the size already are taken as they are.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from dive.data.sources.decode import decode, refusing_huge_images
from dive.data.sources.names import SPLITS
from dive.data.sources.source import Source, Split
from dive.data.sources.tree import Tree, open_tree
from dive.errors import DataError
from dive.files import readable_size


def open_folder(path: Path, size: int, resize: bool = True) -> Source:
    """The image folder at `path`, its images to be decoded at size×size pixels.

    Without `resize` an image of another size is an error when it is decoded. Raises DataError where
    the folder is missing, has no such layout, or train and test name different classes.
    """
    tree = open_tree(path)
    members = {split: _members(tree, split) for split in SPLITS}
    classes = tuple(sorted(members["train"]))
    _check_classes(tree.root, members)
    train, test = (_split(tree, split, members[split], classes, size, resize) for split in SPLITS)
    note = f"every image is resized and centre-cropped to {size}×{size} pixels; data.size sets another size"
    return Source(classes=classes, train=train, test=test, note=note)


def _members(tree: Tree, split: str) -> dict[str, list[str]]:
    """Class name to file names (relative to the class's folder), sorted."""
    found: dict[str, list[str]] = {}
    for name in tree.names:
        place, label, file = name.split("/", 2)
        if place == split:
            found.setdefault(label, []).append(file)
    if not found:
        raise DataError(
            f"{tree.root} has no images in {split}/<class>/; lay them out so, for training and for test"
        )
    return {label: sorted(files) for label, files in found.items()}


def _check_classes(root: Path, members: dict[str, dict[str, list[str]]]) -> None:
    for split, other in (("test", "train"), ("train", "test")):
        missing = sorted(set(members[other]) - set(members[split]))
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(f"{root}: {other}/ has classes that {split}/ has no images of: {shown}")


def _split(
    tree: Tree, split: str, members: dict[str, list[str]], classes: tuple[str, ...], size: int, resize: bool
) -> Split:
    pairs = sorted((f"{name}/{file}", label) for label, name in enumerate(classes) for file in members[name])
    keys = [key for key, _ in pairs]
    labels = np.array([label for _, label in pairs], dtype=np.int64)

    def read(positions: np.ndarray) -> np.ndarray:
        images = _room(tree, len(positions), size)

        def fill(part: np.ndarray) -> None:
            for i in part:
                name = f"{split}/{keys[positions[i]]}"
                images[i] = decode(tree.read(name), f"{tree.root}: {name}", size, resize)

        # Threads decode photographs in parallel; with thumbnails they only fight for the interpreter
        # (CIFAR-100: 4.6 s on two threads, 2.1 s on one).
        photographs = len(tree.read(f"{split}/{keys[0]}")) > 16_384
        pieces = [np.arange(i, min(i + 64, len(positions))) for i in range(0, len(positions), 64)]
        with refusing_huge_images():
            pool = ThreadPoolExecutor(os.cpu_count() or 1 if photographs else 1)
            try:
                list(pool.map(fill, pieces))
            finally:  # one bad file, or Ctrl-C, does not wait for the rest
                pool.shutdown(cancel_futures=True)
        return images

    return Split(keys, labels, read)


def _room(tree: Tree, count: int, size: int) -> np.ndarray:
    """Memory for images (count, size, size, 3), uint8."""
    try:
        return np.empty((count, size, size, 3), dtype=np.uint8)
    except MemoryError as error:
        needed = readable_size(count * size * size * 3)
        raise DataError(
            f"{tree.root}: {count} images of {size}×{size} pixels need {needed} of memory; "
            "choose a smaller data.size"
        ) from error
