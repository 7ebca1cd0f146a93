"""The long-tailed draw: which images are trained on, and what their classes count as.

The draw is seeded and made over sorted keys, so it is the same for every command, process and
machine, and for every form the data set comes in. NumPy alone.
"""

import hashlib
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dive.data.sources.source import Source, Split
from dive.errors import DataError
from dive.randomness import draw_order, key_hashes
from dive.recipe.recipe import Data

MANY_ABOVE = 100
FEW_BELOW = 20
SHOTS = ("many", "medium", "few")


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
    return {
        "many": np.flatnonzero(many),
        "medium": np.flatnonzero(~many & ~few),
        "few": np.flatnonzero(few),
    }


def shot_means(per_class: np.ndarray, counts: np.ndarray) -> dict[str, float | None]:
    """The mean of per-class values (C,) within many, medium and few; None for an empty group."""
    groups = shot_groups(counts)
    return {
        name: float(per_class[members].mean()) if len(members) else None for name, members in groups.items()
    }


@dataclass(frozen=True)
class Samples:
    """Images in memory, in the order of their keys.

    keys: N texts. labels: (N,) int64. images: (N, H, W, channels) uint8. classes: C names.
    """

    keys: list[str]
    labels: np.ndarray
    images: np.ndarray
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.keys)

    @cached_property
    def counts(self) -> np.ndarray:
        """Images per class, (C,) int64."""
        return np.bincount(self.labels, minlength=len(self.classes))

    @cached_property
    def hashes(self) -> np.ndarray:
        """Each sample's random identity, (N,) uint64."""
        return key_hashes(self.keys)

    @cached_property
    def pixel_digests(self) -> np.ndarray:
        """The first 16 bytes of SHA-256 over each image's shape and decoded pixels, (N, 16) uint8."""
        shape = repr(self.images.shape[1:]).encode()
        digests = (hashlib.sha256(shape + image.tobytes()).digest()[:16] for image in self.images)
        return np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, 16)

    def subset(self, rows: np.ndarray) -> "Samples":
        """The samples of some rows (M,), in their order."""
        keys = [self.keys[row] for row in rows]
        return Samples(keys, self.labels[rows], self.images[rows], self.classes)

    @cached_property
    def fingerprint(self) -> str:
        """SHA-256 over class names, keys, labels and decoded pixels."""
        digest = hashlib.sha256()
        for texts in (self.classes, self.keys):
            for text in texts:
                digest.update(text.encode() + b"\0")
            digest.update(b"\0")
        digest.update(self.labels.astype("<i8").tobytes())
        digest.update(repr(self.images.shape).encode())
        digest.update(np.ascontiguousarray(self.images).data)
        return digest.hexdigest()


@dataclass(frozen=True)
class Dataset:
    """The long-tailed training samples and the untouched test samples."""

    train: Samples
    test: Samples


def long_tailed(source: Source, data: Data) -> Samples:
    """Draw a recipe's training samples from a source, and decode them."""
    return _samples(source.train, draw(source.train, source.classes, data), source.classes)


def untouched_test(source: Source) -> Samples:
    """All test images of a source."""
    return _samples(source.test, np.arange(len(source.test.keys)), source.classes)


def draw(split: Split, classes: tuple[str, ...], data: Data) -> np.ndarray:
    """Positions of the drawn training images, ascending.

    Each class keeps as many as the long tail of the largest class allows it, or all it has where
    it has fewer. Raises DataError where a class would be left without an image, or there is one only.
    """
    if len(classes) < 2:
        raise DataError(f"the data set has one class only, {classes[0]}; there is nothing to tell apart")
    available = np.bincount(split.labels, minlength=len(classes))
    wanted = available
    if data.imbalance is not None:
        tail = class_counts(int(available.max()), data.imbalance, len(classes))
        wanted = np.minimum(available, tail)
    if len(empty := np.flatnonzero(wanted == 0)):
        raise DataError(
            f"at imbalance {data.imbalance} class {classes[empty[0]]} would have no training image; "
            "choose a smaller data.imbalance"
        )
    chosen = []
    for label, count in enumerate(wanted):
        members = np.flatnonzero(split.labels == label)
        order = draw_order(data.seed, [split.keys[i] for i in members])
        chosen.append(members[order[:count]])
    return np.sort(np.concatenate(chosen))


def _samples(split: Split, positions: np.ndarray, classes: tuple[str, ...]) -> Samples:
    keys = [split.keys[i] for i in positions]
    return Samples(keys, split.labels[positions], split.decode(positions), classes)
