"""The long-tailed draw: which images are trained on, and what their classes count as.

The draw is seeded and made over sorted keys, so it is the same for every command, process and
machine, and for every form the data set comes in. NumPy alone.
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
PIXELS, FILES = "pixels", "files"  # what digests are of


def class_counts(largest: int, imbalance: float, classes: int) -> list[int]:
    """Images per class of an exponential long tail: n_c = int(n_max · (1/IF)^(c/(C-1))).

    As in the published CIFAR-LT lists (Cao et al. 2019; the same arithmetic, so the same rounding).
    """
    share = 1 / imbalance
    return [int(largest * share ** (c / max(classes - 1, 1))) for c in range(classes)]


def shot_groups(counts: np.ndarray) -> dict[str, np.ndarray]:
    """Classes (positions) by training images: many n > 100, medium 20 <= n <= 100, few n < 20."""
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
    """Labelled pictures in the order of their keys.

    keys: N texts. labels: (N,) int64. pictures: N. digests: (N, 16) uint8, of each picture as its source has
    it. classes: C names.
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
        """Pictures per class, (C,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def hashes(self) -> np.ndarray:
        """Each sample's random identity, (N,) uint64."""
        return key_hashes(self.keys)

    def subset(self, rows: np.ndarray) -> "Samples":
        """The samples of some rows (M,), in their order."""
        keys = [self.keys[row] for row in rows]
        pictures = self.pictures.subset(rows)
        return Samples(keys, self.labels[rows], pictures, self.digests[rows], self.classes)

    @property
    def digests_of(self) -> str:
        """What the digests are of: `pixels` of pictures that are held, bytes of `files` read on demand."""
        return FILES if self.pictures.on_demand else PIXELS

    @property
    def fingerprint(self) -> str:
        """What tells these samples from others: SHA-256 over class names, keys, labels and digests."""
        return self.fingerprint_of(FINGERPRINT_VERSION, self.digests_of)

    def fingerprint_of(self, version: int, digests_of: str | None = None) -> str:
        """The fingerprint as a version of dive took it: 1 over the pixels, 2 over digests.

        digests_of: what those are of, these samples' own if not given. That of pixels is taken of any
        pictures, which are all read for it where they are on demand. Version 1 knew pictures of one size; of
        several it is one that no record has.
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
    """The long-tailed training samples, and the untouched test and validation samples, None without those."""

    train: Samples
    test: Samples
    val: Samples | None = None


def long_tailed(source: Source, imbalance: float | None, seed: int, reading: Reading = HELD) -> Samples:
    """Draw the training samples from a source (see `draw`), their pictures read as `reading` says."""
    positions = draw(source.train, source.classes, imbalance, seed)
    return _samples(source.train, positions, source.classes, reading)


def untouched_test(source: Source, reading: Reading = HELD) -> Samples:
    """All test pictures of a source, read as `reading` says."""
    return untouched(source.test, source.classes, reading)


def untouched(split: Split, classes: tuple[str, ...], reading: Reading = HELD) -> Samples:
    """All pictures of a split, read as `reading` says."""
    return _samples(split, np.arange(len(split.keys)), classes, reading)


def draw(split: Split, classes: tuple[str, ...], imbalance: float | None, seed: int) -> np.ndarray:
    """Positions of the drawn training images, ascending.

    imbalance: of the largest to the smallest class, None takes all there are.

    Each class keeps as many as the long tail of the largest class allows it, or all it has where
    it has fewer. Raises DataError where a class would be left without an image, or there is one only.
    """
    if len(classes) < 2:
        raise DataError(f"the data set has one class only, {classes[0]}; there is nothing to tell apart")
    available = np.bincount(split.labels, minlength=len(classes))
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
