"""Virtual examples: the sums by class of a cache's softened logits at a temperature.

The virtual examples of class c are Σ_i t_ic over the training set (He, Wu, Wei 2021, section 3.2),
t = softmax(p·z/τ). Only the effective temperature T = τ/p matters to them. One pass over the cache
serves every temperature. NumPy alone, on all cores.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np

from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import CacheError
from dive.workers import begin_worker

LOG2_E = math.log2(math.e)
SAFE_EXPONENT = 60.0  # sums of powers of 2 up to this, and their inverses, are far from float32's ends
MOST_WORKERS = 16  # more would wait for memory
CHUNK_BYTES = 768 * 1024  # of float32 logits in one step: near the core, and long against a call
DEFAULT_TAUS = (1.0, 3.0, 6.0, 20.0)
DEFAULT_POWERS = (0.5, 1.0)


@dataclass(frozen=True)
class Distribution:
    """Virtual examples at one effective temperature.

    per_class: (C,) virtual examples, summing to the number of samples. shots: their mean per class
    in many, medium and few, None where there is no such class. information: the mean over samples
    of log C − H(t), in nats.
    """

    temperature: float
    per_class: np.ndarray
    shots: dict[str, float | None]
    information: float

    @property
    def ratio(self) -> float:
        """Largest over smallest of the shots' means: 1 is flat, infinite where one got nothing."""
        means = [mean for mean in self.shots.values() if mean is not None]
        return max(means) / min(means) if min(means) > 0 else math.inf


@dataclass(frozen=True)
class Pair:
    """A temperature and a power, with the distribution they make."""

    tau: float
    power: float
    distribution: Distribution


def effective_temperature(tau: float, power: float) -> float:
    """τ/p, rounded so that pairs equal on paper are equal here (0.9/0.3 and 3/1)."""
    return float(f"{tau / power:.12g}")


def examine(
    cache: LogitCache, taus: Iterable[float], powers: Iterable[float], clean: bool = False
) -> list[Pair]:
    """The distribution of every pair of τ and p, ordered by p and τ; equal τ/p are computed once.

    Averaged over the stored views, or with `clean` of the clean view alone. Raises CacheError where
    the cache is corrupt, not finite, or has no clean view.
    """
    pairs = [(tau, power) for power in sorted(set(powers)) for tau in sorted(set(taus))]
    temperatures = sorted({effective_temperature(*pair) for pair in pairs})
    found = {d.temperature: d for d in virtual_examples(cache, temperatures, clean)}
    return [Pair(tau, power, found[effective_temperature(tau, power)]) for tau, power in pairs]


def virtual_examples(
    cache: LogitCache, temperatures: Sequence[float], clean: bool = False
) -> list[Distribution]:
    """The virtual examples of every class at each effective temperature T = τ/p, in one pass over the cache.

    Averaged over the stored views, or with `clean` of the clean view alone. Raises CacheError where the cache
    is corrupt, not finite, or has no clean view; ValueError where a temperature is not above 0.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> sharp, flat = dive.virtual_examples(cache, [1, 6])
    >>> round(float(flat.per_class.sum()), 3) == len(cache.labels)  # one an image, in all
    True
    >>> sharp.ratio > flat.ratio
    True
    """
    if wrong := [temperature for temperature in temperatures if not temperature > 0]:
        raise ValueError(f"an effective temperature must be above 0, not {wrong[0]}")
    column = _clean_columns(cache) if clean else None
    n, v, c = cache.shape
    sums, information = np.zeros((len(temperatures), c)), np.zeros(len(temperatures))
    with _workers(_Pass(cache, column, temperatures)) as pool:
        for block_sums, block_information in pool.map(_tally_block, range(cache.block_count)):
            sums += block_sums
            information += block_information
    views = 1 if clean else v
    return [
        Distribution(t, s / views, shot_means(s / views, cache.class_counts), float(i / (n * views)))
        for t, s, i in zip(temperatures, sums, information, strict=True)
    ]


@dataclass(frozen=True)
class _Pass:
    """What the workers of one pass share. column: (N,) of each sample's clean view; None takes all views."""

    cache: LogitCache
    column: np.ndarray | None
    temperatures: Sequence[float]


_running: _Pass  # of this process, set before its workers' first block


def _workers(running: _Pass) -> Executor:
    """A pool of workers that know the pass, one a core.

    Processes forked from this one, for NumPy's short calls spend their time waiting for each other's
    interpreter lock; threads where torch is loaded, whose threads a fork would not survive.
    """
    count = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if "torch" in sys.modules or sys.platform != "linux":
        return ThreadPoolExecutor(count, initializer=_set_running, initargs=(running,))
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, fork, initializer=_begin_worker, initargs=(running,))


def _set_running(running: _Pass) -> None:
    global _running
    _running = running


def _begin_worker(running: _Pass) -> None:
    begin_worker()
    _set_running(running)


def _tally_block(block: int) -> tuple[np.ndarray, np.ndarray]:
    """`_tally` of a block of the running pass, its CRC checked first."""
    cache, column = _running.cache, _running.column
    rows, logits = cache.block(block)  # (rows, V, C)
    if column is not None:
        logits = np.take_along_axis(logits, column[rows, None, None], axis=1)
    return _tally(cache, logits.reshape(-1, cache.shape[2]), _running.temperatures)


@dataclass(frozen=True)
class _Exponential:
    """How 2^{z/T} of one temperature comes about, and where it is put.

    index: the temperature's place among those asked for. source: the buffer that holds 2^{z/(m·T)},
    whose m-th power it is; None computes it anew. power: that m, 2 or 3.
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


def _exponentials(temperatures: Sequence[float]) -> list[_Exponential]:
    """The order in which to compute the exponentials, and their buffers.

    A product costs a fraction of an exponential, so a temperature that is half or a third of another
    is got from it: depth first, the last one derived taking its source's buffer over. Rounding grows
    with the power taken in all, to some 10⁻⁶ over a grid like 1 3 6 12.
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
    steps: list[_Exponential] = []

    def visit(t: float, buffer: int, source: int | None, power: int) -> None:
        steps.append(_Exponential(t, index[t], buffer, source, power))
        for place, (smaller, m) in enumerate(derived[t], start=1):
            last = place == len(derived[t])
            visit(smaller, buffer if last else buffer + 1, buffer, m)

    for t in roots:
        visit(t, 0, None, 1)
    return steps


def _magnitude(logits: np.ndarray) -> float:
    """The largest absolute value of logits of a cache; infinite or NaN where one is not finite."""
    if logits.dtype.itemsize == 4:
        return float(np.abs(logits).max())
    # Of float16 the bits below the sign grow with the absolute value, infinity and NaN last of all.
    positive, negative = int(logits.view("<i2").max()), int(logits.view("<u2").max()) - 0x8000
    return float(np.array(max(positive, negative, 0), np.uint16).view(np.float16))


def _to_bits(logits: np.ndarray, out: np.ndarray) -> None:
    """Write finite logits of a cache times log₂ e to `out`, float32: e^z is 2 to the power of those.

    NumPy turns float16 into float32 one by one. A float16's bits, moved to where float32 has its
    exponent and mantissa, are the number divided by 2¹¹².
    """
    if logits.dtype.itemsize == 4:
        np.multiply(logits, np.float32(LOG2_E), out=out)
        return
    bits = out.view(np.int32)
    np.copyto(bits, logits.view("<i2"))  # with the sign in every bit above
    bits <<= 13
    bits &= np.int32(-0x70002000)  # 0x8fffe000: sign, five bits of exponent, ten of mantissa
    out *= np.float32(2.0**112 * LOG2_E)


def _tally(
    cache: LogitCache, logits: np.ndarray, temperatures: Sequence[float]
) -> tuple[np.ndarray, np.ndarray]:
    """Σ t over rows, (T, C), and Σ (log C − H(t)), (T,), of a block's logits (rows, C), in chunks."""
    rows, c = logits.shape
    size = max(1, CHUNK_BYTES // (4 * c))
    steps = _exponentials(temperatures)
    z_memory, scratch = np.empty((size, c), np.float32), np.empty((size, c), np.float32)
    buffers = np.empty((1 + max(step.buffer for step in steps), size, c), np.float32)
    sums, part = np.zeros((len(temperatures), c), np.float32), np.empty(c, np.float32)
    totals, products = np.empty((2, len(temperatures), rows), np.float32)  # Σ 2^{z/T} and Σ 2^{z/T}·z
    ones = np.ones(c, np.float32)
    for start in range(0, rows, size):
        chunk = logits[start : start + size]
        of_chunk = slice(start, start + len(chunk))
        z, work = z_memory[: len(chunk)], scratch[: len(chunk)]
        magnitude = _magnitude(chunk)
        if not math.isfinite(magnitude):
            raise CacheError(f"{cache.path} holds logits that are not finite; export it again")
        _to_bits(chunk, z)
        if magnitude * LOG2_E > SAFE_EXPONENT * min(temperatures):
            z -= z.max(axis=1, keepdims=True)
        for step in steps:
            e = buffers[step.buffer, : len(chunk)]
            step.compute(z, buffers[:, : len(chunk)], work, out=e)
            total = np.dot(e, ones, out=totals[step.index, of_chunk])
            np.vecdot(e, z, out=products[step.index, of_chunk])
            sums[step.index] += np.dot(1 / total, e, out=part)
    # H(t) = log Σe − Σ e·(z/T)·ln 2 / Σe
    expected = products / (totals * np.array(temperatures, np.float32)[:, None] * np.float32(LOG2_E))
    information = math.log(c) - np.log(totals) + expected
    return sums.astype(np.float64), information.sum(axis=1, dtype=np.float64)


def _clean_columns(cache: LogitCache) -> np.ndarray:
    """The column of each sample's clean view, (N,)."""
    clean_id = cache.facts.get("clean_id")
    stated = type(clean_id) is int
    is_clean = cache.views == (clean_id if stated else -1)
    if not stated or not is_clean.any(axis=1).all():
        raise CacheError(f"{cache.path} does not hold the clean view of every sample; leave --clean out")
    columns: np.ndarray = is_clean.argmax(axis=1)
    return columns
