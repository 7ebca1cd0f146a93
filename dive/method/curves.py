"""A cache's virtual examples over τ/p, with each temperature computed once."""

from collections.abc import Iterable
from dataclasses import dataclass, field

from dive.cache.reader import LogitCache
from dive.method.virtual_examples import Distribution, virtual_examples

DEFAULT_TAUS = (1.0, 3.0, 6.0, 20.0)
DEFAULT_POWERS = (0.5, 1.0)
SMALLEST, LARGEST = 1e-3, 1e6  # τ/p; curves are not continued beyond them


def effective_temperature(tau: float, power: float) -> float:
    """τ/p, rounded so that pairs of equal ratio (0.9/0.3 and 3/1) give equal numbers."""
    return float(f"{tau / power:.12g}")


@dataclass
class Curves:
    """The distributions of a cache by effective temperature, each computed once.

    clean, sample, seed: as in `virtual_examples`. passes: the number of passes over the cache so far. source:
    the curves of the same cache from which these were derived.
    """

    cache: LogitCache
    clean: bool = False
    sample: int | None = None
    seed: int = 0
    passes: int = 0
    source: "Curves | None" = None
    _found: dict[float, Distribution] = field(default_factory=dict)

    def at(self, temperatures: Iterable[float]) -> list[Distribution]:
        """The distributions at temperatures, in their order; one pass computes all missing ones.

        Raises the errors of `virtual_examples`.
        """
        wanted = [effective_temperature(temperature, 1) for temperature in temperatures]
        if missing := sorted({*wanted} - {*self._found}):
            self._found |= zip(missing, self._compute(missing), strict=True)
        return [self._found[temperature] for temperature in wanted]

    def _compute(self, temperatures: list[float]) -> list[Distribution]:
        if self.source is not None:
            return self.source.at(temperatures)
        self.passes += 1
        return virtual_examples(self.cache, temperatures, self.clean, self.sample, self.seed)

    def afresh(self, temperatures: Iterable[float]) -> "Curves":
        """The same curves, known only at these temperatures, without computing any of them twice.

        Conclusions from the new curves do not depend on the other temperatures that were computed before.
        """
        curves = Curves(self.cache, self.clean, self.sample, self.seed, source=self)
        curves.at(temperatures)
        return curves

    def carry_on(self, factor: float) -> bool:
        """Compute up to four more temperatures, each `factor` times the one before; False if none is left.

        They continue above the largest known temperature or, with a factor below 1, below the smallest.
        """
        end = self.known[0 if factor < 1 else -1].temperature
        more = [t for k in range(1, 5) if SMALLEST <= (t := end * factor**k) <= LARGEST]
        self.at(more)
        return bool(more)

    @property
    def known(self) -> list[Distribution]:
        """All computed distributions, by ascending temperature."""
        return [self._found[temperature] for temperature in sorted(self._found)]


@dataclass(frozen=True)
class Pair:
    """A temperature τ and a power p, with their distribution."""

    tau: float
    power: float
    distribution: Distribution


def examine(curves: Curves, taus: Iterable[float], powers: Iterable[float]) -> list[Pair]:
    """The distribution of every pair of τ and p, ordered by p and τ; equal τ/p are computed once.

    Raises CacheError if the cache is corrupt, has logits that are not finite, or lacks a clean view;
    ValueError if a τ/p is not above 0 or the sample is too small.
    """
    pairs = [(tau, power) for power in sorted(set(powers)) for tau in sorted(set(taus))]
    distributions = curves.at([effective_temperature(*pair) for pair in pairs])
    return [Pair(*pair, distribution) for pair, distribution in zip(pairs, distributions, strict=True)]
