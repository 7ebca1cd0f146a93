"""Long-tailed sets as the field publishes them: list files of `relative/path label`, below one root.

A list names one image a line; labels count from 0 (ImageNet-LT, Places-LT, iNaturalist 2018 and others). The
JSON lists of BagofTricks-LT are read too: `{"annotations": [{"fpath": …, "category_id": …}, …]}`. A picture's
key is its path in the list.
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
_MOST_DIGITS = 20  # of a label; Python reads no number of thousands


@dataclass(frozen=True)
class _List:
    """A list file as it was read. names: N paths below the root. labels: (N,) int64."""

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
    """The pictures that list files name below `root`.

    val_list: of pictures for validation, None for none.
    classes: a text file of class names, one a line in label order; without one a class is called after the
    folder that its pictures lie in, or by its number where they lie in several. Raises DataError where a list
    cannot be read or is malformed, names a picture twice or one of a class that has no training picture, and
    where the root is not the folder that the lists' paths begin in.
    """
    place = user_path(root, "--data")
    lists = [_read(user_path(name, "--set data.train_list")) for name in (train_list, test_list)]
    train, test = lists
    val = None if val_list is None else _read(user_path(val_list, "--set data.val_list"))
    count = int(train.labels.max()) + 1
    _check_every_class(train, count)
    _check_labels(train, test, count)
    if val is not None:
        _check_labels(train, val, count, "validation")
        _check_apart(test, val, "a test image would be selected on")
    _check_root(place, train)
    names = (
        _class_names(train, count)
        if classes is None
        else read_class_names(user_path(classes, "--set data.classes"))
    )
    if len(names) != count:
        raise DataError(f"{classes} names {len(names)} classes, {train.path} has labels up to {count - 1}")
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
        raise DataError(f"the list {path} names {most} twice; an image belongs to a data set once")
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
            f"the list {path} is not as BagofTricks-LT writes one: an object with annotations, each with "
            "fpath and category_id"
        ) from error
    for number, (name, label) in enumerate(entries, start=1):
        yield _checked(path, f"annotation {number}", name, label)


def _checked(path: Path, where: str, name: Any, label: Any) -> tuple[str, int]:
    """A name and a label that may be ones; raises DataError."""
    if not isinstance(name, str) or not name:
        raise DataError(
            f"{path}, {where}: give `relative/path label`, not {excerpt(f'{name} {label}'.strip())}"
        )
    if name.startswith("/") or ".." in PurePosixPath(name).parts:
        raise DataError(f"{path}, {where}: {excerpt(name)} must be a path below the root")
    if "\0" in name or not is_text(name):
        raise DataError(f"{path}, {where}: no file in UTF-8 has the name {excerpt(name)}")
    number = _whole(label)
    if not 0 <= number < MOST_CLASSES:
        raise DataError(f"{path}, {where}: the label must be a whole number from 0, not {excerpt(label)}")
    return name, number


def _whole(label: Any) -> int:
    """A label as a whole number from 0, -1 where it is none: a number, or a text of a few ASCII digits."""
    if isinstance(label, str):
        return int(label) if label.isascii() and label.isdigit() and len(label) <= _MOST_DIGITS else -1
    return label if isinstance(label, int) and not isinstance(label, bool) else -1


def _check_every_class(train: _List, count: int) -> None:
    present = np.bincount(train.labels, minlength=count)
    if len(empty := np.flatnonzero(present == 0)):
        raise DataError(f"{train.path} has labels up to {count - 1} but no image of class {empty[0]}")


def _check_labels(train: _List, test: _List, count: int, part: str = "test") -> None:
    """Raise DataError where a list of another part has labels that training lacks, or its images."""
    if (beyond := test.labels >= count).any():
        at = int(beyond.argmax())
        raise DataError(
            f"{test.path} has {test.names[at]} of class {test.labels[at]}, {train.path} has classes up to "
            f"{count - 1}; are they lists of one data set?"
        )
    _check_apart(train, test, f"a {part} image would be trained on")


def _check_apart(one: _List, other: _List, fault: str) -> None:
    if both := {collapsed(name) for name in one.names} & {collapsed(name) for name in other.names}:
        raise DataError(f"{min(both)} is in {one.path} and in {other.path}: {fault}")


def _check_root(root: Path, listed: _List) -> None:
    """Raise DataError unless the list's first image lies below the root; says where it lies instead."""
    name = listed.names[0]
    if os.path.lexists(root / name):
        return
    if not root.is_dir():
        raise DataError(f"there is no folder {root}; give the one that {name} lies below with --data")
    candidates: Iterable[Path] = (root.parent, *sorted(p for p in root.iterdir() if p.is_dir()))
    for other in candidates:
        if os.path.lexists(other / name):
            raise DataError(
                f"{root} does not hold {name} of {listed.path}, but {other} does: give --data {other}"
            )
    raise DataError(
        f"{root} does not hold {name} of {listed.path}; "
        "--data must be the folder that the list's paths begin in"
    )


def _class_names(listed: _List, count: int) -> tuple[str, ...]:
    """Each class by the folder of its pictures, or all by number where folders do not tell them apart."""
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
