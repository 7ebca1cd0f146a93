"""The long-tailed draw of training images, samples, and many-, medium- and few-shot classes.

The draw is a function of the imbalance, the seed, and the keys and labels of the images. It is therefore
the same in every command and process and on every machine, whether the data set is a folder, an archive or
arrays. This module imports NumPy but not torch.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dive.data.pictures import digest
from dive.data.reading import HELD, Pictures, Reading, read_pictures
from dive.data.sources.source import Source, Split
from dive.errors import DataError
from dive.randomness import draw_order, key_hashes
from dive.recipe.shots import SHOTS

MANY_ABOVE = 100
FEW_BELOW = 20
FINGERPRINT_VERSION = 2
PIXELS, FILES = "pixels", "files"  # what digests are computed from


def class_counts(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class of an exponential long tail: n_c = int(n_max · (1/IF)^(c/(C-1))).

    As in the published CIFAR-LT lists (Cao et al. 2019), with the same arithmetic and so the same rounding.
    """
    share = 1 / imbalance
    return [int(largest * share ** (c / max(classes - 1, 1))) for c in range(classes)]


def shot_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """The classes (their positions) of each group, by training images n.

    Many-shot classes have n > 100, medium-shot classes 20 <= n <= 100, and few-shot classes n < 20.
    """
    counts = np.asarray(counts)
    many, few = counts > MANY_ABOVE, counts < FEW_BELOW
    members = (many, ~many & ~few, few)
    return {shot: np.flatnonzero(of_shot) for shot, of_shot in zip(SHOTS, members, strict=True)}


def shot_means(per_class: np.ndarray, counts: np.ndarray) -> dict[str, float | None]:
    """The mean of per-class values (C,) within many, medium and few; None for an empty group."""
    groups = shot_groups(counts)
    return {
        name: float(per_class[members].mean()) if len(members) else None for name, members in groups.items()
    }


@dataclass(frozen=True)
class Samples:
    """Labelled images in the order of their keys.

    keys: N strings. labels: (N,) int64. pictures: N images. digests: (N, 16) uint8, of each image as the
    source has it, before any resize. classes: C names.
    """

    keys: list[str]
    labels: np.ndarray
    pictures: Pictures
    digests: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def counts(self) -> np.ndarray:
        """Images per class, (C,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def hashes(self) -> np.ndarray:
        """A hash of each sample's key, (N,) uint64, for its random choices."""
        return key_hashes(self.keys)

    def subset(self, rows: np.ndarray) -> "Samples":
        """The samples at `rows` (M,), in the order of `rows`."""
        keys = [self.keys[row] for row in rows]
        pictures = self.pictures.subset(rows)
        return Samples(keys, self.labels[rows], pictures, self.digests[rows], self.classes)

    @property
    def digests_of(self) -> str:
        """What the digests are of: `pixels` of images held in memory, `files` of images read on demand."""
        return FILES if self.pictures.on_demand else PIXELS

    @property
    def fingerprint(self) -> str:
        """The identity of these samples: SHA-256 over class names, keys, labels and digests, as hex."""
        return self.fingerprint_of(FINGERPRINT_VERSION, self.digests_of)

    def fingerprint_of(self, version: int, digests_of: str | None = None) -> str:
        """The fingerprint by a version of its definition: 1 is over the pixels, 2 over digests.

        digests_of: what the digests of version 2 are of; by default `self.digests_of`. `pixels` is possible
        for all samples; images on demand are all read for it. `files` is possible only for images on demand.
        Version 1 was defined for images of one size; for images of several sizes it gives a value that no
        record has.
        """
        key = (version, digests_of or self.digests_of)
        if key not in self._fingerprints:
            self._fingerprints[key] = self._take_fingerprint(*key)
        return self._fingerprints[key]

    @cached_property
    def _fingerprints(self) -> dict[tuple[int, str], str]:
        return {}

    def _take_fingerprint(self, version: int, digests_of: str) -> str:
        taken = hashlib.sha256()
        for texts in (self.classes, self.keys):
            for text in texts:
                taken.update(text.encode() + b"\0")
            taken.update(b"\0")
        taken.update(self.labels.astype("<i8").tobytes())
        if version == 1:
            taken.update(repr((len(self), *self.pictures.read(0).shape)).encode())
            for row in range(len(self)):
                taken.update(np.ascontiguousarray(self.pictures.read(row)).data)
        elif digests_of == self.digests_of:
            taken.update(np.ascontiguousarray(self.digests).data)
        else:
            for row in range(len(self)):
                taken.update(digest(self.pictures.read(row)))
        return taken.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """The long-tailed training samples, all test samples, and all validation samples, or None."""

    train: Samples
    test: Samples
    val: Samples | None = None


def long_tailed(source: Source, imbalance: float | None, seed: int, reading: Reading = HELD) -> Samples:
    """The training samples drawn from a source (see `draw`), with images read according to `reading`."""
    positions = draw(source.train, source.classes, imbalance, seed)
    return _samples(source.train, positions, source.classes, reading)


def untouched_test(source: Source, reading: Reading = HELD) -> Samples:
    """All test samples of a source, with images read according to `reading`."""
    return untouched(source.test, source.classes, reading)


def untouched(split: Split, classes: tuple[str, ...], reading: Reading = HELD) -> Samples:
    """All samples of a split, with images read according to `reading`."""
    return _samples(split, np.arange(len(split.keys)), classes, reading)


def draw(split: Split, classes: tuple[str, ...], imbalance: float | None, seed: int) -> np.ndarray:
    """Positions of the drawn training images, ascending.

    imbalance: ratio of the largest to the smallest class; None draws every image.

    Each class c keeps n_c images (`class_counts`, with the size of the largest class as n_max), or all of
    its images if it has fewer. Raises DataError if a class would have no image, or if there is only one
    class.
    """
    if len(classes) < 2:
        raise DataError(f"the data set has only one class, {classes[0]}; it needs at least two")
    available = np.bincount(split.labels, minlength=len(classes))
    if len(empty := np.flatnonzero(available == 0)):
        raise DataError(f"class {classes[empty[0]]} has no training image; add some, or leave out the class")
    wanted = available
    if imbalance is not None:
        tail = class_counts(int(available.max()), imbalance, len(classes))
        wanted = np.minimum(available, tail)
        if len(empty := np.flatnonzero(wanted == 0)):
            raise DataError(
                f"at imbalance {imbalance} class {classes[empty[0]]} would have no training image; "
                "choose a smaller data.imbalance"
            )
    chosen = []
    for label, count in enumerate(wanted):
        members = np.flatnonzero(split.labels == label)
        order = draw_order(seed, [split.keys[i] for i in members])
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def _samples(split: Split, positions: np.ndarray, classes: tuple[str, ...], reading: Reading) -> Samples:
    keys = [split.keys[i] for i in positions]
    pictures, digests = read_pictures(split, positions, reading)
    return Samples(keys, split.labels[positions], pictures, digests, classes)
