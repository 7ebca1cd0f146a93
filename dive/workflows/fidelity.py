"""How faithful stored logits are to exact ones: the divergence of their targets, relative to the signal."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.progress import Progress
from dive.recipe.documents import differences

TEMPERATURES = (1.0, 2.0, 6.0, 12.0)
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True)
class Fidelity:
    """Means over views, in nats, at an effective temperature T, with t = softmax(exact / T).

    temperature: T. kl: KL(t ‖ softmax(stored / T)). signal: KL(t ‖ uniform), the information in the target.
    """

    temperature: float
    kl: float
    signal: float

    @property
    def share(self) -> float | None:
        """kl as a share of the signal; None if the signal is zero."""
        return self.kl / self.signal if self.signal > 0 else None

    def document(self) -> dict[str, float | None]:
        """The fields and the share, in plain values."""
        return {**vars(self), "share": self.share}


class Comparison:
    """A comparison of exact with stored logits, which are added batch by batch.

    pairs: number of rows compared. largest: the largest absolute difference of a logit.
    """

    def __init__(self) -> None:
        self.pairs, self.largest = 0, 0.0
        self._agreeing = 0
        self._kl, self._signal = np.zeros((2, len(TEMPERATURES)))

    def add(self, exact: np.ndarray, stored: np.ndarray) -> None:
        """Add logits (B, C) of the same samples in the same views."""
        self.pairs += len(exact)
        self.largest = float(np.maximum(self.largest, np.abs(exact - stored).max()))  # NaN stays
        self._agreeing += int((exact.argmax(axis=1) == stored.argmax(axis=1)).sum())
        for i, temperature in enumerate(TEMPERATURES):
            log_exact, log_stored = (_log_softmax(z, temperature) for z in (exact, stored))
            target = np.exp(log_exact)
            self._kl[i] += (target * (log_exact - log_stored)).sum()
            self._signal[i] += (target * log_exact).sum() + len(exact) * np.log(exact.shape[1])

    @property
    def agreement(self) -> float:
        """The share of rows with the same top-1 class."""
        return self._agreeing / self.pairs

    def fidelities(self) -> list[Fidelity]:
        """The means at each temperature."""
        means = zip(TEMPERATURES, self._kl / self.pairs, self._signal / self.pairs, strict=True)
        return [Fidelity(temperature, float(kl), float(signal)) for temperature, kl, signal in means]

    def document(self) -> dict[str, Any]:
        """The results, in plain values."""
        return {
            "pairs": self.pairs,
            "largest": self.largest,
            "agreement": self.agreement,
            "fidelity": [one.document() for one in self.fidelities()],
        }


def _log_softmax(logits: np.ndarray, temperature: float) -> np.ndarray:
    z = logits.astype(np.float64) / temperature
    shifted = z - z.max(axis=1, keepdims=True)
    logs: np.ndarray = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return logs


def compare(
    cache: LogitCache, exact: LogitCache, count: int | None, seed: int, progress: Progress
) -> Comparison:
    """Compare a cache with another one of the same samples and views, `exact`, the reference.

    count: number of random (sample, view) pairs, drawn with `seed`; None for all. Raises CacheError if
    samples, labels, images, classes or views of the caches differ, or if a block of either is corrupt.
    """
    rows_there = rows_in(exact, cache)
    views = cache.shape[1]
    total = cache.shape[0] * views
    chosen = np.arange(total)
    if count is not None and count < total:
        chosen = np.sort(np.random.default_rng(seed).choice(total, count, replace=False))
    comparison = Comparison()
    with progress.bar("compare", len(chosen)) as bar:
        for some in _pieces(chosen):
            rows, columns = some // views, some % views
            comparison.add(exact.logits(rows_there[rows], columns), cache.logits(rows, columns))
            bar.advance(len(some))
    return comparison


def _pieces(chosen: np.ndarray) -> Iterator[np.ndarray]:
    for start in range(0, len(chosen), _ROWS_AT_ONCE):
        yield chosen[start : start + _ROWS_AT_ONCE]


def rows_in(exact: LogitCache, cache: LogitCache) -> np.ndarray:
    """The row in `exact` of each sample of `cache`: (N,) int64.

    Raises CacheError, which names what differs, unless both have the same samples, labels, classes, images
    and views, with the views in the same order.
    """
    place = {key: row for row, key in enumerate(exact.keys)}
    rows = np.array([place.get(key, -1) for key in cache.keys], dtype=np.int64)
    there, here = ({"view_space": one.identity.get("view_space")} for one in (exact, cache))
    what = ""
    if len(place) != len(rows) or (rows < 0).any():
        what = "samples"
    elif cache.classes != exact.classes:
        what = "classes"
    elif (cache.labels != exact.labels[rows]).any():
        what = "labels"
    elif (cache.digests != exact.digests[rows]).any():
        what = "images"
    elif cache.views.shape != exact.views.shape or (cache.views != exact.views[rows]).any():
        what = "views"
    elif different := differences(there, here):
        what = f"views ({'; '.join(different)})"
    if what:
        raise CacheError(f"{exact.path} has other {what} than {cache.path}; give a cache with the same ones")
    return rows
