"""The softmax sums of many logits at several temperatures, in chunks that fit into the CPU's caches."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from dive.cache.encodings.codec import Decoder

LOG2_E = math.log2(math.e)
SAFE_EXPONENT = 60.0  # sums of powers of 2 with exponents up to this, and their inverses, fit into float32
CHUNK_BYTES = 768 * 1024  # float32 logits of one step: they fit into a core's cache and outweigh a call


@dataclass(frozen=True)
class Exponential:
    """How 2^{z/T} of one temperature is computed, and where it is stored.

    index: the position of the temperature among the given ones. source: the buffer of 2^{z/(m·T)}, of which
    it is the m-th power; None if it is computed directly. power: m, 2 or 3; 1 without a source.
    """

    temperature: float
    index: int
    buffer: int
    source: int | None
    power: int

    def compute(self, z: np.ndarray, buffers: np.ndarray, work: np.ndarray, out: np.ndarray) -> None:
        """Write 2^{z/T} to `out`. z, work, out: (rows, C) float32. buffers: (B, rows, C)."""
        if self.source is None:
            np.multiply(z, np.float32(1 / self.temperature), out=out)
            np.exp2(out, out=out)
            return
        source = buffers[self.source]
        if self.power == 3:
            np.multiply(source, source, out=work)
            np.multiply(work, source, out=out)
        else:
            np.multiply(source, source, out=out)


def exponentials(temperatures: Sequence[float]) -> list[Exponential]:
    """The order in which to compute the exponentials, and their buffers.

    A product costs a fraction of an exponential, so the exponential of a temperature that is half or a third
    of another is derived from that one, depth first. The last one that is derived takes over its source's
    buffer. Rounding grows with the total power, to some 10⁻⁶ over a grid like 1 3 6 12.
    """
    index = {t: i for i, t in enumerate(temperatures)}
    derived: dict[float, list[tuple[float, int]]] = {t: [] for t in index}
    roots = []
    for t in sorted(index, reverse=True):
        above = [(u, m) for u in sorted(index) for m in (2, 3) if math.isclose(u, m * t, rel_tol=1e-9)]
        if above:
            source, power = above[0]
            derived[source].append((t, power))
        else:
            roots.append(t)
    steps: list[Exponential] = []

    def visit(t: float, buffer: int, source: int | None, power: int) -> None:
        steps.append(Exponential(t, index[t], buffer, source, power))
        for place, (smaller, m) in enumerate(derived[t], start=1):
            last = place == len(derived[t])
            visit(smaller, buffer if last else buffer + 1, buffer, m)

    for t in roots:
        visit(t, 0, None, 1)
    return steps


@dataclass(frozen=True)
class Tally:
    """Sums over rows at T temperatures, t = softmax(z/T).

    sums: (T, C) Σ t. information: (T, rows) log C − H(t) of each row. shares: (T, rows, G) t · groups of each
    row; None without groups.
    """

    sums: np.ndarray
    information: np.ndarray
    shares: np.ndarray | None


def tally(
    decoder: Decoder,
    rows: np.ndarray,
    classes: int,
    temperatures: Sequence[float],
    groups: np.ndarray | None = None,
) -> Tally:
    """The tally of stored rows (rows, …). groups: (C, G) weights of the classes.

    decoder: multiplies logits by log₂ e, so that e^z is 2 to the power of its result. Raises ValueError if a
    logit is not finite.
    """
    count, size = len(rows), max(1, CHUNK_BYTES // (4 * classes))
    at_once = size if decoder.rows is None else decoder.rows
    work = _Chunks(count, classes, min(size, at_once), temperatures, groups)
    decoded = np.empty((min(at_once, count), classes), np.float32)
    for start in range(0, count, at_once):
        stored = rows[start : start + at_once]
        z = decoded[: len(stored)]
        magnitude = decoder.decode(stored, z)
        if not math.isfinite(magnitude):
            raise ValueError("logits that are not finite")
        for begin in range(0, len(z), size):
            work.add(start + begin, z[begin : begin + size], magnitude)
    return work.tally()


class _Chunks:
    """The work memory for chunks of logits, and the sums over the chunks so far."""

    def __init__(
        self,
        rows: int,
        classes: int,
        size: int,
        temperatures: Sequence[float],
        groups: np.ndarray | None,
    ) -> None:
        self._classes, self._temperatures, self._groups = classes, temperatures, groups
        self._steps = exponentials(temperatures)
        self._scratch = np.empty((size, classes), np.float32)
        self._buffers = np.empty((1 + max(step.buffer for step in self._steps), size, classes), np.float32)
        self._sums = np.zeros((len(temperatures), classes), np.float32)
        self._part = np.empty(classes, np.float32)
        # Σ 2^{z/T} and Σ 2^{z/T}·z
        self._totals, self._products = np.empty((2, len(temperatures), rows), np.float32)
        self._ones = np.ones(classes, np.float32)
        self._shares = None
        if groups is not None:
            self._shares = np.empty((len(temperatures), rows, groups.shape[1]), np.float32)

    def add(self, start: int, z: np.ndarray, magnitude: float) -> None:
        """Add logits (rows, C) times log₂ e of the rows from `start` on; overwrites `z`."""
        chunk, of_chunk = len(z), slice(start, start + len(z))
        work = self._scratch[:chunk]
        if magnitude * LOG2_E > SAFE_EXPONENT * min(self._temperatures):
            z -= z.max(axis=1, keepdims=True)
        for step in self._steps:
            e = self._buffers[step.buffer, :chunk]
            step.compute(z, self._buffers[:, :chunk], work, out=e)
            total = np.dot(e, self._ones, out=self._totals[step.index, of_chunk])
            np.vecdot(e, z, out=self._products[step.index, of_chunk])
            self._sums[step.index] += np.dot(1 / total, e, out=self._part)
            if self._shares is not None and self._groups is not None:
                self._shares[step.index, of_chunk] = e @ self._groups / total[:, None]

    def tally(self) -> Tally:
        """The sums over all chunks."""
        # H(t) = log Σe − Σ e·(z/T)·ln 2 / Σe
        scale = np.array(self._temperatures, np.float32)[:, None] * np.float32(LOG2_E)
        expected = self._products / (self._totals * scale)
        information = math.log(self._classes) - np.log(self._totals) + expected
        return Tally(self._sums.astype(np.float64), information, self._shares)
