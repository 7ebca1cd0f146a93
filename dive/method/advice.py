"""Recommending τ and p from the virtual examples of a cache. RULES has the rules, the default first.

`crossing` computes exactly what the paper (He, Wu, Wei 2021) estimates: the τ/p at which few-shot classes
overtake many-shot ones. `grid` reads it off a grid of τ/p, as the paper does in its Figure 5. `information`
is the fallback of `crossing` for curves that do not cross.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from dive.cache.reader import LogitCache
from dive.data.longtail import FEW_BELOW, MANY_ABOVE
from dive.method.crossing import POWER, SEARCHED, Search, nominal_tau, rises, root, search
from dive.method.curves import Curves
from dive.method.virtual_examples import Distribution
from dive.recipe.bounds import TEMPERATURES
from dive.recipe.shots import SHOTS

PAPERS_TAU = 3.0
KEPT = 0.2  # share of the information at τ/p = 1 that the fallback keeps, as at crossings in RESULTS.md
LEAST_KEPT = 0.02  # share below which targets at the crossing are too flat to train on
# Nats at τ/p = 1, and nats per class, up to which a teacher's logits count as constant. Rounding of float32
# sums leaves so much for constant logits: up to 5e-5 with 1000 classes and 3e-4 with 8142.
UNIFORM, UNIFORM_A_CLASS = 1e-4, 1e-7


@dataclass(frozen=True)
class Advice:
    """A recommended pair of τ and p, with the reason.

    tau: temperature τ; None if the rule `grid` finds no pair on its grid.
    power: power normalisation p; None if `tau` is.
    rule: the rule that recommends it: `crossing`, `grid` or the fallback `information`.
    reason: one or more sentences.
    """

    tau: float | None
    power: float | None
    rule: str
    reason: str

    @property
    def sentence(self) -> str:
        """The recommendation as text: τ, p, the rule and the reason."""
        if self.tau is None:
            return f"No recommendation: {self.reason}"
        told = "fallback" if self.rule == INFORMATION else f"rule {self.rule}"
        return f"Take τ = {self.tau:g}, p = {self.power:g} ({told}): {self.reason}"


def recommend(cache: LogitCache, clean: bool = False, sample: int | None = None, seed: int = 0) -> Advice:
    """The recommended τ and p for a cache, an `Advice`, from the crossing of its curves.

    p is 0.5, and τ is half the τ/p at which few-shot classes overtake many-shot ones (`find_crossing`). If
    the curves do not cross, the fallback is the largest τ/p whose targets keep a fifth of the information at
    τ/p = 1. The fallback is also used if the targets at the crossing keep less than 2 % of it. Logits that
    carry no information at all give the paper's τ = 3.

    cache: the logit cache, from `open_cache`.
    clean: use the clean views only, not all stored views.
    sample: the number of images to estimate from; None for all images.
    seed: seed of the draw of the sample.

    Raises CacheError and ValueError as `virtual_examples` does.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> advice = dive.recommend(cache)
    >>> advice.power, advice.rule in ("crossing", "information"), advice.sentence.startswith("Take τ")
    (0.5, True, True)
    """
    curves = Curves(cache, clean, sample, seed)
    return by_crossing(curves, search(curves))


def by_crossing(curves: Curves, found: Search) -> Advice:
    """The advice from the crossing that a search of the curves found, or the fallback.

    The fallback is also used if targets at the crossing keep almost no information.
    """
    if found.crossing is None:
        return _by_information(curves, _without_crossing(curves, found))
    (plain,) = curves.at([1.0])
    ratio, kept = found.crossing.ratio, found.crossing.distribution.information
    share = 0.0 if _tells_nothing(plain) else kept / plain.information
    overtake = f"few-shot classes overtake many-shot ones at τ/p = {ratio:.4g}"
    if share < LEAST_KEPT:
        little = f"only {share:.1%}" if share >= 5e-4 else "less than 0.1%"
        return _by_information(
            curves,
            f"{overtake}, where the targets keep {little} of the information at τ/p = 1: they are "
            "all but uniform.",
        )
    return Advice(
        _tau(ratio),
        POWER,
        "crossing",
        f"{overtake}, and as in the paper p = {POWER:g} halves that. The targets keep {kept:.3f} nats, "
        f"{share:.0%} of those at τ/p = 1.",
    )


def by_grid(grid: Sequence[Distribution]) -> Advice:
    """The paper's rule: the smallest τ/p on a grid at which few-shot classes exceed many-shot ones.

    It recommends nothing if that is the smallest τ/p on the grid, if there is none, or if all classes are in
    one group. Without few-shot (or many-shot) classes, the rarest (or most frequent) group that exists takes
    their place.
    """
    by_temperature = sorted({one.temperature: one for one in grid}.items())
    present = [name for name in SHOTS if by_temperature[0][1].shots[name] is not None]
    if len(present) < 2:
        return _none(f"all classes are {present[0]}-shot, so there is nothing to compare.")
    frequent, rare = present[0], present[-1]
    crossed = [t for t, d in by_temperature if (d.shots[rare] or 0) > (d.shots[frequent] or 0)]
    smallest, largest = by_temperature[0][0], by_temperature[-1][0]
    if not crossed:
        return _none(
            f"{rare}-shot classes stay below {frequent}-shot ones up to τ/p = {largest:g}, the largest on "
            f"the grid; try larger ones, for example --tau {largest:g} {2 * largest:g} {4 * largest:g}."
        )
    if crossed[0] == smallest:
        return _none(
            f"{rare}-shot classes exceed {frequent}-shot ones already at τ/p = {smallest:g}, the smallest on "
            f"the grid; try smaller ones, for example --tau {smallest / 4:g} {smallest / 2:g} {smallest:g}."
        )
    return Advice(
        crossed[0] / 2,
        POWER,
        "grid",
        f"τ/p = {crossed[0]:g} is the smallest on the grid at which {rare}-shot classes get "
        f"more virtual examples than {frequent}-shot ones, and as in the paper p = {POWER:g} halves that.",
    )


Rule = Callable[[Curves, Search, Sequence[Distribution]], Advice]
RULES: dict[str, Rule] = {
    "crossing": lambda curves, found, _: by_crossing(curves, found),
    "grid": lambda _curves, _found, grid: by_grid(grid),
}
INFORMATION = "information"


def _none(reason: str) -> Advice:
    return Advice(None, None, "grid", reason)


def _tau(ratio: float) -> float:
    """The τ for a τ/p, clipped to the range that a student accepts."""
    least, most = TEMPERATURES
    return min(max(nominal_tau(ratio), least), most)


def _tells_nothing(plain: Distribution) -> bool:
    """Whether targets at τ/p = 1 are those of constant logits, up to rounding."""
    return plain.information <= max(UNIFORM, UNIFORM_A_CLASS * len(plain.per_class))


def _by_information(curves: Curves, why: str) -> Advice:
    """The flattest targets that keep a share of the information at τ/p = 1.

    Without any information there, the paper's τ and p.
    """
    (plain,) = curves.at([1.0])
    if _tells_nothing(plain):
        reason = (
            f"{why} The teacher tells no classes apart, so every τ/p gives the same targets; τ and p are the "
            "paper's."
        )
        return Advice(PAPERS_TAU, POWER, INFORMATION, reason)

    def lost(distribution: Distribution) -> float:
        return KEPT * plain.information - distribution.information

    curves = curves.afresh(SEARCHED)
    while (interval := rises(curves.known, lost)) is None and curves.carry_on(2):
        pass
    there = curves.known[-1] if interval is None else root(curves, lost, interval)
    return Advice(
        _tau(there.temperature),
        POWER,
        INFORMATION,
        f"{why} Instead, τ/p = {there.temperature:.4g} makes the flattest targets that keep "
        f"{KEPT:.0%} of the information at τ/p = 1, {there.information:.3f} nats.",
    )


def _without_crossing(curves: Curves, found: Search) -> str:
    """Why there is no crossing, and what that means for the teacher."""
    if found.absent:
        rest = [shot for shot, mean in curves.at(SEARCHED)[0].shots.items() if mean is not None]
        bounds = {"many": f"more than {MANY_ABOVE}", "few": f"fewer than {FEW_BELOW}"}
        lacking = " and none ".join(f"{shot}-shot ({bounds[shot]} images)" for shot in found.absent)
        told = f"; all are {rest[0]}-shot" if len(rest) == 1 else ""
        return f"no class is {lacking}{told}, so the crossing says nothing about this teacher."
    if found.above:
        return (
            f"few-shot classes exceed many-shot ones already at τ/p = {found.smallest:g}, the smallest "
            "searched: this teacher favours few-shot classes before its logits are softened."
        )
    return (
        f"few-shot classes do not exceed many-shot ones at any τ/p from {found.smallest:g} to "
        f"{found.largest:g}: softening evens out this teacher's targets, but they never favour "
        "few-shot classes, so the paper's rule does not apply to it."
    )
