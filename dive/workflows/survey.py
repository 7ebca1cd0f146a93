"""Looking at pictures before a recipe is written for them: the work of `dive init`."""

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
_PIECE = 64  # files of a thread at a time


@dataclass(frozen=True)
class Survey:
    """What there is at a place.

    kind, place: of the data, as a recipe has them. classes: C names. counts: images of each class by part,
    (C,) each; without `val` where there is no validation part. sides: (N, 2) height and width in pixels of
    the pictures that can be read. broken: a line for each of the others. test_share: of each class, set aside
    for the test; None where there is a test part. checked: whether every picture was decoded, not its header
    alone. left_out: files of a folder that are no images by their names, by extension. unused: its folders
    that would be classes but hold no image for training, and those beside train/, test/ and val/.
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
        """Classes by training images, the largest first."""
        return sorted(range(len(self.classes)), key=lambda c: (-self.counts["train"][c], c))

    @property
    def imbalance(self) -> float:
        """Training images of the largest class by those of the smallest."""
        return float(self.counts["train"].max() / self.counts["train"].min())

    @property
    def untested(self) -> list[str]:
        """Classes without a test image."""
        return [self.classes[c] for c in np.flatnonzero(self.counts["test"] == 0)]

    @property
    def smallest(self) -> tuple[int, int]:
        """Height and width of the picture of the fewest pixels."""
        return self._size(0.0)

    @property
    def median(self) -> tuple[int, int]:
        """Height and width of the picture of the median number of pixels."""
        return self._size(0.5)

    @property
    def largest(self) -> tuple[int, int]:
        """Height and width of the picture of the most pixels."""
        return self._size(1.0)

    def _size(self, quantile: float) -> tuple[int, int]:
        order = np.argsort(self.sides.prod(axis=1), kind="stable")
        height, width = self.sides[order[int(quantile * (len(order) - 1))]].tolist()
        return height, width

    @property
    def decoded_bytes(self) -> int:
        """What all pictures take in memory as they are decoded."""
        return int(self.sides.prod(axis=1, dtype=np.int64).sum()) * 3

    def as_dict(self) -> dict[str, Any]:
        """It as plain values."""
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
    """What there is at a place of pictures with a file each, by their headers.

    kind, place: as a recipe's `data` has them. check: decode every picture too, which finds those that are
    cut short. Raises DataError where the pictures are missing or not laid out as the kind has them, where
    there is one class only, and where not one picture can be read.
    """
    for key, value in place.items():
        if fault := bounds.path(value):
            raise DataError(f"data.{key} {fault}")
    root = Path(place["root"]).expanduser()
    if not root.exists():
        raise DataError(f"there is no {root}; give the folder your pictures lie in, or a .zip of it")
    source = open_source(kind, **place)
    left_out = Counter(_left_out(root)) if kind == "folder" and root.is_dir() else Counter()
    if len(source.classes) < 2:
        others = f" (left out: {counted(left_out)})" if left_out else ""
        raise DataError(
            f"the data set has one class only, {source.classes[0]}; there is nothing to tell apart{others}"
        )
    parts = {part: split for part in PARTS if (split := getattr(source, part)) is not None}
    looked = _looked_at([split for split in parts.values() if len(split.keys)], check, progress)
    broken = [one for one in looked if isinstance(one, str)]
    sides = [one for one in looked if not isinstance(one, str)]
    if not sides:
        raise DataError(f"not one of {len(looked)} pictures can be read; the first: {broken[0]}")
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
    """Files by their extensions, in words.

    >>> counted({".txt": 1, ".heic": 3})
    '3 .heic, 1 .txt'
    """
    order = sorted(left_out, key=lambda extension: (-left_out[extension], extension))
    shown = [f"{left_out[extension]} {extension or 'without extension'}" for extension in order[:most]]
    rest = sum(left_out[extension] for extension in order[most:])
    return ", ".join(shown + [f"{rest} more"] * (rest > 0))


def _left_out(root: Path) -> Iterator[str]:
    """The extension of each file below a folder that no source takes for an image; none is hidden."""
    for _, folders, names in os.walk(root):
        folders[:] = [name for name in folders if not is_hidden(name)]
        yield from (
            os.path.splitext(name)[1].lower()
            for name in names
            if not is_hidden(name) and not has_extension(name)
        )


def _unused(root: Path, classes: Sequence[str]) -> list[str]:
    """The folders that stand in the place of a class and are none, and those beside parts; none is hidden."""

    def folders(place: Path) -> list[str]:
        names = os.listdir(place) if place.is_dir() else []
        return sorted(name for name in names if not is_hidden(name) and (place / name).is_dir())

    if not any((root / part).is_dir() for part in SPLITS):
        return [name for name in folders(root) if name not in classes]
    beside = [name for name in folders(root) if name not in PARTS]
    empty = [f"{part}/{name}" for part in PARTS for name in folders(root / part) if name not in classes]
    return [*beside, *empty]


def _looked_at(splits: list[Split], check: bool, progress: Progress) -> list[tuple[int, int] | str]:
    """The sides of every picture, or why it cannot be read."""
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

    with ThreadPoolExecutor(os.cpu_count() or 1) as pool, progress.bar("pictures", len(files)) as bar:
        with splits[0].reading():
            try:
                for sides in pool.map(look, pieces):
                    found += sides
                    bar.advance(len(sides))
            finally:  # Ctrl-C does not wait for the rest
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
