"""Image folders: `train/<class>/*` and `test/<class>/*`, in a directory or a .zip of one.

Files are decoded only when they are read, and brought to RGB.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from dive.data.sources.decode import refusing_huge_images
from dive.data.sources.names import SPLITS
from dive.data.sources.picture_files import PictureFiles
from dive.data.sources.source import Source, Split
from dive.data.sources.tree import Tree, open_tree
from dive.errors import DataError
from dive.files import user_path

# Threads decode photographs in parallel; with thumbnails they only fight for the interpreter
# (CIFAR-100: 4.6 s on two threads, 2.1 s on one).
PHOTOGRAPH_BYTES = 16_384


def open_folder(root: str | Path, side: int | None = None) -> Source:
    """The image folder at `root`.

    side: the pixels that each side of every picture must have, None for any; one of another size is an error
    when it is read. Raises DataError where the folder is missing, has no such layout, or train and test name
    different classes.
    """
    tree = open_tree(user_path(root, "--data"))
    members = {split: _members(tree, split) for split in SPLITS}
    classes = tuple(sorted(members["train"]))
    _check_classes(tree.root, members)
    train, test = (_split(tree, split, members[split], classes, side) for split in SPLITS)
    return Source(classes=classes, train=train, test=test)


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
    tree: Tree, split: str, members: Mapping[str, list[str]], classes: tuple[str, ...], side: int | None
) -> Split:
    pairs = sorted((f"{name}/{file}", label) for label, name in enumerate(classes) for file in members[name])
    keys = [key for key, _ in pairs]

    files = PictureFiles(tree.files, [f"{split}/{key}" for key in keys], side)
    return Split(
        keys=keys,
        labels=np.array([label for _, label in pairs], dtype=np.int64),
        read=files.picture,
        parallel=lambda: len(files.content(0)) > PHOTOGRAPH_BYTES,
        reading=refusing_huge_images,
        files=files,
    )
