"""Which temperature to take: the rule of thumb that the paper (He, Wu, Wei 2021) reads off its Figure 5."""

from collections.abc import Sequence
from dataclasses import dataclass

from dive.method.virtual_examples import Distribution
from dive.recipe.shots import SHOTS


@dataclass(frozen=True)
class Advice:
    """What the rule of thumb recommends; tau and power are None where it cannot say."""

    tau: float | None
    power: float | None
    sentence: str


def recommend(distributions: Sequence[Distribution]) -> Advice:
    """The paper's rule of thumb over the distributions of a grid of temperatures.

    The proper temperature is the smallest T = τ/p at which the few-shot mean exceeds the many-shot
    mean; it is given as (T/2, 0.5). Where there is no few-shot (or many-shot) class, the rarest (or
    most frequent) group there is stands in.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> advice = dive.recommend(dive.virtual_examples(cache, [1, 3, 6, 12, 20, 40]))
    >>> advice.tau is None or advice.sentence.startswith("Take τ")
    True
    """
    by_temperature = sorted({one.temperature: one for one in distributions}.items())
    present = [name for name in SHOTS if by_temperature[0][1].shots[name] is not None]
    if len(present) < 2:
        return Advice(
            None, None, f"All classes are {present[0]}-shot, so the rule of thumb has nothing to compare."
        )
    frequent, rare = present[0], present[-1]
    crossed = [t for t, d in by_temperature if (d.shots[rare] or 0) > (d.shots[frequent] or 0)]
    smallest, largest = by_temperature[0][0], by_temperature[-1][0]
    if not crossed:
        return Advice(
            None,
            None,
            f"No recommendation: {rare}-shot classes stay below {frequent}-shot ones up to "
            f"τ/p = {largest:g}, the largest on the grid; try larger ones, for example "
            f"--tau {largest:g} {2 * largest:g} {4 * largest:g}.",
        )
    if crossed[0] == smallest:
        return Advice(
            None,
            None,
            f"No recommendation: {rare}-shot classes exceed {frequent}-shot ones already at "
            f"τ/p = {smallest:g}, the smallest on the grid; try smaller ones, for example "
            f"--tau {smallest / 4:g} {smallest / 2:g} {smallest:g}.",
        )
    tau = crossed[0] / 2
    return Advice(
        tau,
        0.5,
        f"Take τ = {tau:g}, p = 0.5: τ/p = {crossed[0]:g} is the smallest on the grid at which {rare}-shot "
        f"classes get more virtual examples than {frequent}-shot ones.",
    )
