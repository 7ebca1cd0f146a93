"""Image folders: `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone, in a directory or a .zip.

Files are decoded to RGB, and only when they are read.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np

from dive.data.sources.decode import refusing_huge_images
from dive.data.sources.names import PARTS_MEANT, SPLITS
from dive.data.sources.picture_files import PictureFiles
from dive.data.sources.shares import set_aside
from dive.data.sources.source import Source, Split
from dive.data.sources.tree import Tree, open_tree
from dive.errors import DataError
from dive.files import user_path

# Threads decode photographs in parallel; with thumbnails they only compete for the GIL
# (CIFAR-100: 4.6 s on two threads, 2.1 s on one).
PHOTOGRAPH_BYTES = 16_384
TEST_SHARE = 0.2  # of each class, if there is no test set and no other share is given


def open_folder(
    root: str | Path,
    side: int | None = None,
    test_share: float | None = None,
    val_share: float | None = None,
) -> Source:
    """The image folder at `root`: `train/<class>/*` and `test/<class>/*`, or `<class>/*` alone.

    side: the number of pixels that each side of every image must have; None for any. An image of another
    size is an error when it is read. test_share: the share of each class that is set aside as the test set if
    there is neither train/ nor test/; None is 0.2. val_share: the share of each class's training images that
    is set aside as the validation set; None takes the images of `val/<class>/*`, if there are any. Raises
    DataError if the folder is missing or empty, if train/ and test/ have different classes or val/ has
    others, if every class folder has the name of a split (Train/, validation/), if a share is given for a
    split that the folder has itself, or if no image is left for a share.
    """
    tree = open_tree(user_path(root, "--data"))
    if tree.parted:
        source = _of_parts(tree, side, test_share)
    else:
        source = _of_one_tree(tree, side, TEST_SHARE if test_share is None else test_share)
    if val_share is None:
        return source
    if source.val is not None:
        raise DataError(f"{tree.root} has a val/, so data.val_share must be null")
    train, val = _divided(source.train, val_share)
    if not val.keys:
        raise DataError(f"{tree.root} has only one training image of each class; data.val_share must be null")
    return replace(source, train=train, val=val)


def _of_parts(tree: Tree, side: int | None, test_share: float | None) -> Source:
    """The source of train/ and test/, and of val/ if it holds images."""
    members = {split: _members(tree, split) for split in SPLITS}
    validation = _found(tree, "val")
    classes = tuple(sorted(members["train"]))
    _check_classes(tree.root, members)
    if unknown := sorted(set(validation) - set(classes)):
        raise DataError(f"{tree.root}: val/ has classes that train/ has no images of: {_listed(unknown)}")
    if test_share is not None:
        raise DataError(f"{tree.root} has train/ and test/, so data.test_share must be null")
    train, test = (_split(tree, f"{split}/", members[split], classes, side) for split in SPLITS)
    val = _split(tree, "val/", validation, classes, side) if validation else None
    return Source(classes=classes, train=train, test=test, val=val)


def _of_one_tree(tree: Tree, side: int | None, test_share: float) -> Source:
    """The source of `<class>/*`, with a share of each class as the test set."""
    members = _found(tree, "")
    if not members:
        raise DataError(
            f"{tree.root} has no images in train/<class>/ and test/<class>/, nor in <class>/; "
            "lay them out in one of these ways"
        )
    for label, files in members.items():
        if all(any(file.startswith(f"{split}/") for file in files) for split in SPLITS):
            raise DataError(
                f"{tree.root} does not contain train/ and test/ itself, but "
                f"{tree.root / label} does: give it with --data"
            )
    classes = tuple(sorted(members))
    if all(name.lower() in PARTS_MEANT for name in classes):
        meant = ", ".join(f"{name}/ to {PARTS_MEANT[name.lower()]}/" for name in classes)
        raise DataError(f"{tree.root} has {_listed(list(classes))} instead of classes; rename {meant}")
    train, test = _divided(_split(tree, "", members, classes, side), test_share)
    if not test.keys:
        raise DataError(f"{tree.root} has only one image of each class, so none is left for a test set")
    return Source(classes=classes, train=train, test=test, test_share=test_share)


def _divided(split: Split, share: float) -> tuple[Split, Split]:
    """A split without a share of each of its classes, and the split of that share."""
    aside = set_aside(split.keys, split.labels, share)
    return split.subset(np.flatnonzero(~aside)), split.subset(np.flatnonzero(aside))


def _members(tree: Tree, split: str) -> dict[str, list[str]]:
    """Class name to file names, as `_found` returns them; raises DataError if there are none."""
    if found := _found(tree, split):
        return found
    other = f", or give --data {tree.root / 'train'}, to test on a share of it" if split == "test" else ""
    raise DataError(
        f"{tree.root} has no images in {split}/<class>/; it needs train/<class>/ and test/<class>/"
        + other * tree.root.is_dir()
    )


def _found(tree: Tree, part: str) -> dict[str, list[str]]:
    """Class name to sorted file names, relative to the class's folder.

    part: the split, `train`, `test` or `val`; empty if the tree is not divided into splits.
    """
    found: dict[str, list[str]] = {}
    for name in tree.names:
        place, label, file = name.split("/", 2) if tree.parted else ("", *name.split("/", 1))
        if place == part:
            found.setdefault(label, []).append(file)
    return {label: sorted(files) for label, files in found.items()}


def _check_classes(root: Path, members: dict[str, dict[str, list[str]]]) -> None:
    for split, other in (("test", "train"), ("train", "test")):
        if missing := sorted(set(members[other]) - set(members[split])):
            raise DataError(
                f"{root}: {other}/ has classes that {split}/ has no images of: {_listed(missing)}"
            )


def _listed(classes: list[str]) -> str:
    return ", ".join(classes[:5]) + (f" and {len(classes) - 5} more" if len(classes) > 5 else "")


def _split(
    tree: Tree, prefix: str, members: Mapping[str, list[str]], classes: tuple[str, ...], side: int | None
) -> Split:
    pairs = sorted(
        (f"{name}/{file}", label) for label, name in enumerate(classes) for file in members.get(name, ())
    )
    keys = [key for key, _ in pairs]

    files = PictureFiles(tree.files, [f"{prefix}{key}" for key in keys], side)
    return Split(
        keys=keys,
        labels=np.array([label for _, label in pairs], dtype=np.int64),
        read=files.picture,
        parallel=lambda: len(files.content(0)) > PHOTOGRAPH_BYTES,
        reading=refusing_huge_images,
        files=files,
    )
