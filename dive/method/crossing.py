"""Finding the crossing: the τ/p at which few-shot classes overtake many-shot ones in virtual examples.

The few-shot mean minus the many-shot mean is a smooth function of log(τ/p), whose root is searched. A first
pass over the cache evaluates it at temperatures a factor of 2 apart. A second pass evaluates it close to the
root of a polynomial through these points. A third pass verifies that the sign changes within TOLERANCE of the
root of a polynomial through all points; it also evaluates the rounded τ that is recommended. If the sign does
not change there, the interval is divided further.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np

from dive.cache.reader import LogitCache
from dive.method.curves import Curves
from dive.method.virtual_examples import Distribution

SEARCHED = tuple(0.25 * 2**k for k in range(9))  # τ/p; the first pass also computes those of a tune table
POWER = 0.5  # the paper's p, with which τ is half the τ/p of the crossing
TOLERANCE = 2.5e-4  # relative, of τ/p at a crossing
NOISE = 1e-5  # share of the sum of two means below which their difference may be rounding of float32 sums
ONE_HOT, FLAT = 0.99, 1e-3  # shares of log C beyond which targets hardly change with the temperature
NEAR = 8  # points of an interpolating polynomial

Height = Callable[[Distribution], float]


@dataclass(frozen=True)
class Crossing:
    """The point at which the few-shot mean of virtual examples overtakes the many-shot mean as τ/p grows.

    distribution: the virtual examples there. Its τ/p has a relative error of at most 2.5e-4.
    error: the standard error of `ratio` if it is estimated from a sample, else None.
    """

    distribution: Distribution
    error: float | None = None

    @property
    def ratio(self) -> float:
        """The τ/p of the crossing."""
        return self.distribution.temperature

    @property
    def few(self) -> float:
        """The mean number of virtual examples of a few-shot class, almost equal to `many`."""
        return _mean(self.distribution, "few")

    @property
    def many(self) -> float:
        """The mean number of virtual examples of a many-shot class."""
        return _mean(self.distribution, "many")


@dataclass(frozen=True)
class Search:
    """The result of a search for the crossing.

    crossing: the first one from below; None if there is none. further: approximate τ/p of other crossings.
    absent: the groups among many and few without classes. smallest, largest: the range of τ/p searched.
    above: whether the few-shot mean is the larger one at `smallest`.
    """

    crossing: Crossing | None
    further: tuple[float, ...]
    absent: tuple[str, ...]
    smallest: float
    largest: float
    above: bool


def find_crossing(
    cache: LogitCache, clean: bool = False, sample: int | None = None, seed: int = 0
) -> Crossing | None:
    """The smallest τ/p at which few-shot classes overtake many-shot ones, a `Crossing`, or None.

    None means that they never do, or that no class is few-shot or none is many-shot. τ/p is accurate to a
    relative 2.5e-4. The search usually takes three passes over the cache.

    cache: the logit cache, from `open_cache`.
    clean: use the clean views only, not all stored views.
    sample: the number of images to estimate from, which gives the crossing a standard error; None for all.
    seed: seed of the draw of the sample.

    Raises CacheError and ValueError as `virtual_examples` does.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> crossing = dive.find_crossing(cache)
    >>> if crossing is not None:
    ...     (there,) = dive.virtual_examples(cache, [crossing.ratio])
    ...     assert abs(there.shots["few"] - there.shots["many"]) < 0.01 * there.shots["many"]
    """
    return search(Curves(cache, clean, sample, seed)).crossing


def nominal_tau(ratio: float) -> float:
    """The τ that gives a τ/p at the paper's p, rounded to four digits."""
    return float(f"{ratio * POWER:.4g}")


def search(curves: Curves) -> Search:
    """Search a cache's curves for the crossing.

    The search begins with SEARCHED. It continues below them while few-shot classes lead and targets are not
    yet one-hot, and above them while no crossing is found and targets are not yet flat.
    """
    curves = curves.afresh(SEARCHED)
    absent = tuple(shot for shot in ("many", "few") if curves.known[0].shots[shot] is None)
    if absent:
        return Search(None, (), absent, SEARCHED[0], SEARCHED[-1], False)
    most = math.log(curves.cache.shape[2])
    while _clear_lead(curves.known[0]) > 0 and curves.known[0].information < ONE_HOT * most:
        if not curves.carry_on(1 / 2):
            break
    while not rises(curves.known, _clear_lead) and curves.known[-1].information > FLAT * most:
        if not curves.carry_on(2):
            break
    known = curves.known
    changes = _changes(known, _clear_lead)
    found = next((interval for interval, up in changes if up), None)
    crossing = None if found is None else _crossing(curves, found)
    others = [_secant(known, interval) for interval, _ in changes if interval != found]
    smallest, largest = known[0].temperature, known[-1].temperature
    return Search(crossing, tuple(others), (), smallest, largest, _clear_lead(known[0]) > 0)


def _mean(distribution: Distribution, shot: str) -> float:
    mean = distribution.shots[shot]
    assert mean is not None, f"no class is {shot}-shot, so there is no crossing"
    return mean


def _lead(distribution: Distribution) -> float:
    """The few-shot mean minus the many-shot mean."""
    return _mean(distribution, "few") - _mean(distribution, "many")


def _clear_lead(distribution: Distribution) -> float:
    """The few-shot mean minus the many-shot mean; 0 if it may be rounding."""
    noise = NOISE * (_mean(distribution, "few") + _mean(distribution, "many"))
    lead = _lead(distribution)
    return lead if abs(lead) > noise else 0.0


def _changes(known: Sequence[Distribution], height: Height) -> list[tuple[tuple[float, float], bool]]:
    """The intervals of temperature in which a height changes its sign, and whether it rises there.

    Temperatures at which it is 0 are left out.
    """
    signed = [(one.temperature, found > 0) for one in known if (found := height(one)) != 0]
    return [
        ((before, after), above) for (before, below), (after, above) in pairwise(signed) if above != below
    ]


def rises(known: Sequence[Distribution], height: Height) -> tuple[float, float] | None:
    """The first interval of temperature in which a height changes from below 0 to above; None without one.

    known: by ascending temperature.
    """
    return next((interval for interval, up in _changes(known, height) if up), None)


def root(curves: Curves, height: Height, interval: tuple[float, float]) -> Distribution:
    """The distribution at the temperature, within TOLERANCE, at which a height becomes positive.

    interval: of temperature; the height is below 0 at its beginning and above 0 at its end.
    """
    for attempt in range(1, 100):
        low, high = interval
        guess = _guess(curves, height, interval)
        if attempt % 2:
            curves.at(_spread(guess, interval, even=attempt > 1))
        else:
            ends = (guess * (1 - TOLERANCE), guess * (1 + TOLERANCE))
            below, middle, above, _ = curves.at([ends[0], guess, ends[1], nominal_tau(guess) / POWER])
            if height(below) < 0 < height(above):
                return middle
        within = [one for one in curves.known if low <= one.temperature <= high]
        narrowed = rises(within, height)
        assert narrowed is not None
        interval = narrowed
        if interval[1] / interval[0] - 1 <= TOLERANCE:
            break
    return curves.at([interval[1]])[0]


def _guess(curves: Curves, height: Height, interval: tuple[float, float]) -> float:
    """The root, in an interval, of a polynomial in log T through the points nearest to the interval.

    It is found by bisection, because the polynomial need not be monotonic.
    """
    low, high = np.log(interval)
    by_distance = sorted(curves.known, key=lambda one: abs(math.log(one.temperature) - (low + high) / 2))
    ends = curves.at(interval)
    near = ends + [one for one in by_distance if one.temperature not in interval][: NEAR - 2]
    x = np.array([math.log(one.temperature) for one in near])
    y = np.array([height(one) for one in near])
    begin, end = float(low), float(high)
    for _ in range(50):
        middle = (begin + end) / 2
        begin, end = (begin, middle) if _interpolated(x, y, middle) > 0 else (middle, end)
    return math.exp(end)


def _interpolated(x: np.ndarray, y: np.ndarray, at: float) -> float:
    """The value at a position of the polynomial through the points (x, y), (n,) each, in Lagrange's form."""
    others = ~np.eye(len(x), dtype=bool)
    factors = np.where(others, (at - x)[None, :] / np.where(others, x[:, None] - x[None, :], 1), 1)
    return float(y @ factors.prod(axis=1))


def _spread(guess: float, interval: tuple[float, float], even: bool) -> list[float]:
    """Temperatures within an interval: two around a guess, or four that divide it evenly."""
    low, high = np.log(interval)
    if even:
        return np.exp(np.linspace(low, high, 6)[1:-1]).tolist()
    steps = np.array([-1 / 24, 1 / 24]) * (high - low)
    margin = (high - low) / 64  # so that the points around a guess at an end are within
    return np.exp(np.unique(np.clip(math.log(guess) + steps, low + margin, high - margin))).tolist()


def _crossing(curves: Curves, interval: tuple[float, float]) -> Crossing:
    there = root(curves, _lead, interval)
    error = None
    if there.difference_error is not None:  # by the delta method
        slope = abs(_slope(curves, there.temperature))
        error = there.difference_error / slope if slope else math.inf
    return Crossing(there, error)


def _slope(curves: Curves, temperature: float) -> float:
    """The derivative of few minus many by temperature, from the nearest points that differ clearly."""
    clear = 10 * TOLERANCE
    known = curves.known
    below = next((one for one in known[::-1] if one.temperature < temperature * (1 - clear)), known[0])
    above = next((one for one in known if one.temperature > temperature * (1 + clear)), known[-1])
    return (_lead(above) - _lead(below)) / (above.temperature - below.temperature)


def _secant(known: Sequence[Distribution], interval: tuple[float, float]) -> float:
    """The approximate temperature in an interval at which few minus many is 0."""
    heights = [abs(_lead(one)) for one in known if one.temperature in interval]
    low, high = np.log(interval)
    return float(np.exp(low + (high - low) * heights[0] / sum(heights)))
