"""Data sets that are published as list files of `relative/path label`, with paths relative to one root.

A list names one image per line; labels count from 0 (ImageNet-LT, Places-LT, iNaturalist 2018 and others).
The JSON lists of BagofTricks-LT are read too: `{"annotations": [{"fpath": …, "category_id": …}, …]}`. The key
of an image is its path in the list.
"""

import os
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from dive.data.sources.decode import refusing_huge_images
from dive.data.sources.folder import PHOTOGRAPH_BYTES
from dive.data.sources.names import collapsed, is_text, read_class_names
from dive.data.sources.picture_files import PictureFiles
from dive.data.sources.source import Source, Split
from dive.data.sources.tree import FolderFiles
from dive.errors import DataError
from dive.files import read_json, read_regular, user_path
from dive.printable import excerpt

MOST_CLASSES = 1_000_000
_MOST_DIGITS = 20  # of a label; `int` raises ValueError for thousands of digits


@dataclass(frozen=True)
class _List:
    """The content of a list file. names: N paths relative to the root. labels: (N,) int64."""

    path: Path
    names: list[str]
    labels: np.ndarray


def open_lists(
    root: str | Path,
    train_list: str,
    test_list: str,
    classes: str | None = None,
    val_list: str | None = None,
) -> Source:
    """The data set whose images, below `root`, are named by list files.

    classes: a text file with one class name per line, in the order of the labels. Without it, a class is
    named after the folder of its images; all classes are named by their numbers if the images of one are in
    several folders, or if two would have the same name. val_list: the list of validation images; None for
    none.

    Raises DataError if a list cannot be read or is malformed, if an image occurs twice in one list or in two
    of the lists, if a class has no training image, if `classes` has another number of classes, or if `root`
    is not the folder that the paths of the lists are relative to.
    """
    place = user_path(root, "--data")
    train = _read(user_path(train_list, "--set data.train_list"))
    test = _read(user_path(test_list, "--set data.test_list"))
    val = None if val_list is None else _read(user_path(val_list, "--set data.val_list"))
    count = int(train.labels.max()) + 1
    _check_every_class(train, count)
    _check_labels(train, test, count)
    if val is not None:
        _check_labels(train, val, count, "validation")
        _check_apart(test, val, "a test image would be used for validation")
    _check_root(place, train)
    names = (
        _class_names(train, count)
        if classes is None
        else read_class_names(user_path(classes, "--set data.classes"))
    )
    if len(names) != count:
        raise DataError(
            f"{classes} names {len(names)} classes, but {train.path} has labels up to {count - 1}"
        )
    return Source(
        classes=names,
        train=_split(place, train),
        test=_split(place, test),
        val=None if val is None else _split(place, val),
    )


def _read(path: Path) -> _List:
    try:
        content = read_regular(path)
    except OSError as error:
        raise DataError(f"cannot read the list {path}: {error.strerror}") from error
    pairs = list(_of_json(path) if path.suffix.lower() == ".json" else _of_text(path, content))
    if not pairs:
        raise DataError(f"the list {path} names no image")
    names = [name for name, _ in pairs]
    paths = [collapsed(name) for name in names]
    if len(set(paths)) < len(paths):
        ((most, _),) = Counter(paths).most_common(1)
        raise DataError(f"the list {path} names {most} twice; an image may occur only once")
    return _List(path, names, np.array([label for _, label in pairs], dtype=np.int64))


def _of_text(path: Path, content: bytes) -> Iterator[tuple[str, int]]:
    try:
        lines = content.decode("utf-8-sig").splitlines()
    except UnicodeDecodeError as error:
        raise DataError(f"the list {path} is not a text file in UTF-8") from error
    for number, line in enumerate(lines, start=1):
        name, _, label = line.strip().rpartition(" ")
        if line.strip():
            yield _checked(path, f"line {number}", name.strip(), label)


def _of_json(path: Path) -> Iterator[tuple[str, int]]:
    try:
        annotations = read_json(path)["annotations"]
        entries = [(entry["fpath"], entry["category_id"]) for entry in annotations]
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(
            f"the list {path} is not in the format of BagofTricks-LT: an object with annotations, each with "
            "fpath and category_id"
        ) from error
    for number, (name, label) in enumerate(entries, start=1):
        yield _checked(path, f"annotation {number}", name, label)


def _checked(path: Path, where: str, name: Any, label: Any) -> tuple[str, int]:
    """The name and the label of one entry; raises DataError if either is invalid.

    where: the place of the entry in the list, for the message.
    """
    if not isinstance(name, str) or not name:
        raise DataError(
            f"{path}, {where}: give `relative/path label`, not {excerpt(f'{name} {label}'.strip())}"
        )
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise DataError(f"{path}, {where}: {excerpt(name)} must be a relative path without ..")
    if "\0" in name or not is_text(name):
        raise DataError(f"{path}, {where}: {excerpt(name)} is not a file name in UTF-8")
    number = _whole(label)
    if not 0 <= number < MOST_CLASSES:
        raise DataError(f"{path}, {where}: the label must be a whole number from 0, not {excerpt(label)}")
    return name, number


def _whole(label: Any) -> int:
    """A label as an integer: an integer, or a string of a few ASCII digits; -1 for anything else."""
    if isinstance(label, str):
        return int(label) if label.isascii() and label.isdigit() and len(label) <= _MOST_DIGITS else -1
    return label if isinstance(label, int) and not isinstance(label, bool) else -1


def _check_every_class(train: _List, count: int) -> None:
    present = np.bincount(train.labels, minlength=count)
    if len(empty := np.flatnonzero(present == 0)):
        raise DataError(f"{train.path} has labels up to {count - 1} but no image of class {empty[0]}")


def _check_labels(train: _List, test: _List, count: int, part: str = "test") -> None:
    """Raise DataError if the list of another split has labels that training lacks, or training images.

    part: the name of the split in messages.
    """
    if (beyond := test.labels >= count).any():
        at = int(beyond.argmax())
        raise DataError(
            f"{test.path} has {test.names[at]} of class {test.labels[at]}, but {train.path} has classes up "
            f"to {count - 1}; are they lists of the same data set?"
        )
    _check_apart(train, test, f"a {part} image would be trained on")


def _check_apart(one: _List, other: _List, fault: str) -> None:
    if both := {collapsed(name) for name in one.names} & {collapsed(name) for name in other.names}:
        raise DataError(f"{min(both)} is in {one.path} and in {other.path}: {fault}")


def _check_root(root: Path, listed: _List) -> None:
    """Raise DataError unless the list's first image is below the root.

    The message names a folder beside or below the root that has the image, if there is one.
    """
    name = listed.names[0]
    if os.path.lexists(root / name):
        return
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; with --data give the folder that contains {name}")
    candidates: Iterable[Path] = (root.parent, *sorted(p for p in root.iterdir() if p.is_dir()))
    for other in candidates:
        if os.path.lexists(other / name):
            raise DataError(
                f"{root} does not contain {name} of {listed.path}, but {other} does: give --data {other}"
            )
    raise DataError(
        f"{root} does not contain {name} of {listed.path}; "
        "--data must be the folder that the list's paths are relative to"
    )


def _class_names(listed: _List, count: int) -> tuple[str, ...]:
    """The name of each class: the folder of its images, without the leading folders that all classes share.

    If the images of a class are in several folders, or if two classes would have the same name or one would
    have none, all classes are named by their numbers.
    """
    folders: list[str | None] = [None] * count
    for name, label in zip(listed.names, listed.labels.tolist(), strict=True):
        folder = name.rpartition("/")[0]
        if folders[label] not in (None, folder):
            return tuple(str(number) for number in range(count))
        folders[label] = folder
    common = len(os.path.commonpath([f"/{folder}" for folder in folders]))
    names = tuple(f"/{folder}"[common:].lstrip("/") for folder in folders)
    distinct = len(set(names)) == count and all(names)
    return names if distinct else tuple(str(number) for number in range(count))


def _split(root: Path, listed: _List) -> Split:
    order = sorted(range(len(listed.names)), key=listed.names.__getitem__)
    keys = [listed.names[i] for i in order]

    files = PictureFiles(FolderFiles(root), keys)
    return Split(
        keys=keys,
        labels=listed.labels[order],
        read=files.picture,
        parallel=lambda: len(files.content(0)) > PHOTOGRAPH_BYTES,
        reading=refusing_huge_images,
        files=files,
    )
