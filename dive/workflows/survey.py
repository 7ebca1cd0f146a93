"""Inspecting images before a recipe is written for them, as `dive init` does."""

import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from dive.data.sources.decode import check_header
from dive.data.sources.names import SPLITS, has_extension, is_hidden
from dive.data.sources.picture_files import PictureFiles
from dive.data.sources.registry import open_source
from dive.data.sources.source import Split
from dive.errors import DataError
from dive.progress import SILENT, Progress
from dive.recipe import bounds

PARTS = {"train": "training", "test": "test", "val": "validation"}
_PIECE = 64  # files that a thread inspects at a time


@dataclass(frozen=True)
class Survey:
    """The result of `survey`.

    kind, place: of the data, as in a recipe. classes: C names. counts: the images of each class, (C,), by
    `train`, `test` and `val`; without `val` if there is no validation set. sides: (N, 2) height and width in
    pixels of the images that can be read. broken: an error for each of the others. test_share: the share of
    each class that is set aside as the test set; None if there is a test set already. checked: whether every
    image was decoded, not only its header. left_out: numbers of files in a folder whose names are not those
    of images, by extension. unused: folders in the place of a class that are not classes, since they have no
    training image, and folders beside train/, test/ and val/.
    """

    kind: str
    place: Mapping[str, Any]
    classes: tuple[str, ...]
    counts: Mapping[str, np.ndarray]
    sides: np.ndarray
    broken: list[str] = field(default_factory=list)
    test_share: float | None = None
    checked: bool = False
    left_out: Mapping[str, int] = field(default_factory=dict)
    unused: list[str] = field(default_factory=list)

    @property
    def order(self) -> list[int]:
        """The labels of the classes, ordered by training images, the largest first."""
        return sorted(range(len(self.classes)), key=lambda c: (-self.counts["train"][c], c))

    @property
    def imbalance(self) -> float:
        """The ratio of the training images of the largest class to those of the smallest."""
        return float(self.counts["train"].max() / self.counts["train"].min())

    @property
    def untested(self) -> list[str]:
        """The names of the classes without a test image."""
        return [self.classes[c] for c in np.flatnonzero(self.counts["test"] == 0)]

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the image with the fewest pixels."""
        return self._size(0.0)

    @property
    def median(self) -> tuple[int, int]:
        """Height and width of the image with the median number of pixels."""
        return self._size(0.5)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the image with the most pixels."""
        return self._size(1.0)

    def _size(self, quantile: float) -> tuple[int, int]:
        order = np.argsort(self.sides.prod(axis=1), kind="stable")
        height, width = self.sides[order[int(quantile * (len(order) - 1))]].tolist()
        return height, width

    @property
    def decoded_bytes(self) -> int:
        """The bytes that all readable images take in memory when they are decoded."""
        return int(self.sides.prod(axis=1, dtype=np.int64).sum()) * 3

    def as_dict(self) -> dict[str, Any]:
        """The survey in plain values, as `dive init --json` prints it."""
        images = {
            name: {part: int(counts[c]) for part, counts in self.counts.items()}
            for c, name in enumerate(self.classes)
        }
        sizes = {name: list(getattr(self, name)) for name in ("smallest", "median", "largest")}
        return {
            "kind": self.kind,
            "place": dict(self.place),
            "classes": images,
            "imbalance": self.imbalance,
            "sizes": sizes,
            "decoded_bytes": self.decoded_bytes,
            "broken": self.broken,
            "checked": self.checked,
            "left_out": dict(self.left_out),
            "unused": self.unused,
            "test_share": self.test_share,
        }


def survey(kind: str, place: Mapping[str, Any], check: bool = False, progress: Progress = SILENT) -> Survey:
    """Inspect a data set of image files by their headers; returns its classes, counts and sizes.

    kind: `folder` or `list`. place: the keys of a recipe's `data` for that kind. check: decode every image
    too, which finds truncated ones. Raises DataError if the images are missing or not in the layout of their
    kind, if there is only one class, or if no image can be read.
    """
    for key, value in place.items():
        if fault := bounds.path(value):
            raise DataError(f"data.{key} {fault}")
    root = Path(place["root"]).expanduser()
    if not root.exists():
        raise DataError(f"there is no {root}; give the folder of your images, or a .zip of it")
    source = open_source(kind, **place)
    left_out = Counter(_left_out(root)) if kind == "folder" and root.is_dir() else Counter()
    if len(source.classes) < 2:
        others = f" (left out: {counted(left_out)})" if left_out else ""
        raise DataError(
            f"the data set has only one class, {source.classes[0]}; it needs at least two{others}"
        )
    parts = {part: split for part in PARTS if (split := getattr(source, part)) is not None}
    looked = _looked_at([split for split in parts.values() if len(split.keys)], check, progress)
    broken = [one for one in looked if isinstance(one, str)]
    sides = [one for one in looked if not isinstance(one, str)]
    if not sides:
        raise DataError(f"none of the {len(looked)} images can be read; the first: {broken[0]}")
    return Survey(
        kind=kind,
        place=place,
        classes=source.classes,
        counts={
            part: np.bincount(split.labels, minlength=len(source.classes)) for part, split in parts.items()
        },
        sides=np.array(sides, dtype=np.int64),
        broken=broken,
        test_share=source.test_share,
        checked=check,
        left_out=left_out,
        unused=_unused(root, source.classes) if kind == "folder" and root.is_dir() else [],
    )


def counted(left_out: Mapping[str, int], most: int = 5) -> str:
    """Numbers of files by extension as text, the largest first. most: the number of extensions to name.

    >>> counted({".txt": 1, ".heic": 3})
    '3 .heic, 1 .txt'
    """
    order = sorted(left_out, key=lambda extension: (-left_out[extension], extension))
    shown = [f"{left_out[extension]} {extension or 'without extension'}" for extension in order[:most]]
    rest = sum(left_out[extension] for extension in order[most:])
    return ", ".join(shown + [f"{rest} more"] * (rest > 0))


def _left_out(root: Path) -> Iterator[str]:
    """The extensions of the files below a folder that are not hidden and do not have an image's extension."""
    for _, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (
            os.path.splitext(name)[1].lower()
            for name in names
            if not is_hidden(name) and not has_extension(name)
        )


def _unused(root: Path, classes: Sequence[str]) -> list[str]:
    """The folders in the place of a class that are not classes, and folders beside train/, test/ and val/.

    Hidden folders are left out.
    """

    def folders(place: Path) -> list[str]:
        names = os.listdir(place) if place.is_dir() else []
        return sorted(name for name in names if not is_hidden(name) and (place / name).is_dir())

    if not any((root / part).is_dir() for part in SPLITS):
        return [name for name in folders(root) if name not in classes]
    beside = [name for name in folders(root) if name not in PARTS]
    empty = [f"{part}/{name}" for part in PARTS for name in folders(root / part) if name not in classes]
    return [*beside, *empty]


def _looked_at(splits: list[Split], check: bool, progress: Progress) -> list[tuple[int, int] | str]:
    """The height and width of every image, or the error if it cannot be read."""
    files = [
        (split.files, position)
        for split in splits
        if split.files is not None
        for position in range(len(split.keys))
    ]
    pieces = [files[i : i + _PIECE] for i in range(0, len(files), _PIECE)]
    found: list[tuple[int, int] | str] = []

    def look(piece: list[tuple[PictureFiles, int]]) -> list[tuple[int, int] | str]:
        return [_sides(of, position, check) for of, position in piece]

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, progress.bar("images", len(files)) as bar:
        with splits[0].reading():
            try:
                for sides in pool.map(look, pieces):
                    found += sides
                    bar.advance(len(sides))
            finally:  # so that Ctrl-C does not wait for the files that remain
                pool.shutdown(cancel_futures=True)
    return found


def _sides(files: PictureFiles, position: int, check: bool) -> tuple[int, int] | str:
    try:
        sides = check_header(files.content(position), files.where(position), files.side)
        if check:
            files.picture(position)
    except DataError as error:
        return str(error)
    return sides
