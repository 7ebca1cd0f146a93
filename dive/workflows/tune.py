"""Tuning τ and p: what caches hold at each pair, what to take, and the paper's Figure 5. No torch."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dive import outputs
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import CacheError, OutputError
from dive.method.advice import Advice, recommend
from dive.method.virtual_examples import DEFAULT_POWERS, DEFAULT_TAUS, Pair, examine
from dive.printable import printable
from dive.recipe.teachers import teachers_name, teachers_of

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class TuneOptions:
    """What is asked of the tune step.

    taus, powers: to try, those of the paper where they are empty. clean: the clean view alone instead of all
    stored views. plot: where to draw the means, None for nowhere. sample: estimate from so many images, drawn
    by `seed`; None takes all.
    """

    taus: tuple[float, ...] = ()
    powers: tuple[float, ...] = ()
    clean: bool = False
    plot: Path | None = None
    force: bool = False
    sample: int | None = None
    seed: int = 0


@dataclass(frozen=True)
class Tuned:
    """What a cache holds at each pair of τ and p, and the recommendation.

    clean: whether of its clean view alone. counts: the mean training images per class in many, medium, few.
    sample: of how many images, None for all.
    """

    cache: LogitCache
    clean: bool
    counts: dict[str, float | None]
    pairs: list[Pair]
    advice: Advice
    sample: int | None = None

    @property
    def model(self) -> str:
        """Whose logits the cache holds; its file's name where it does not say."""
        teachers = teachers_of(self.cache.facts)
        return teachers_name(teachers) if teachers else printable(self.cache.path.stem)

    @property
    def views(self) -> str:
        """The views that were averaged over, in words."""
        stored = self.cache.shape[1]
        views = "the clean view" if self.clean else f"{stored} stored view{'s' * (stored > 1)}"
        return views if self.sample is None else f"{views} of {self.sample} images"

    def document(self) -> dict[str, Any]:
        """All of it in plain values."""
        cache, advice = self.cache, self.advice
        return {
            "cache": str(cache.path),
            "cache_hash": cache.hash,
            "model": self.model,
            "store": cache.store,
            "views": "clean" if self.clean else cache.shape[1],
            "sample": self.sample,
            "images": self.counts,
            "pairs": [
                {
                    "tau": pair.tau,
                    "power": pair.power,
                    "temperature": pair.distribution.temperature,
                    **pair.distribution.shots,
                    "ratio": pair.distribution.ratio if math.isfinite(pair.distribution.ratio) else None,
                    "information": pair.distribution.information,
                    "standard_errors": pair.distribution.errors,
                    "per_class": pair.distribution.per_class.tolist(),
                }
                for pair in self.pairs
            ],
            "recommendation": {"tau": advice.tau, "power": advice.power, "sentence": advice.sentence},
        }


def tune(caches: Sequence[Path], options: TuneOptions = TuneOptions()) -> list[Tuned]:
    """What each cache holds at each pair of τ and p, and the recommendation by the paper's rule of thumb.

    Raises CacheError where a cache is not whole, has no clean view where that is asked for, or, for a plot,
    is of other images per class than the first; OutputError where the plot cannot be written.

    >>> import dive
    >>> (tuned,) = dive.tune([Path("cache/digits_lt_bbn.h5")], dive.TuneOptions(taus=(1, 3), powers=(0.5, 1)))
    >>> [(pair.tau, pair.power) for pair in tuned.pairs]
    [(1, 0.5), (3, 0.5), (1, 1), (3, 1)]
    """
    if options.plot is not None:
        _refuse_plot(options.plot, caches, options.force)
    tuned = [_tuned(path, options) for path in caches]
    if options.plot is not None:
        _plot(options.plot, tuned)
    return tuned


def _tuned(path: Path, options: TuneOptions) -> Tuned:
    cache = LogitCache(path)
    taus, powers = options.taus or DEFAULT_TAUS, options.powers or DEFAULT_POWERS
    sample = options.sample if options.sample and options.sample < cache.shape[0] else None
    pairs = examine(cache, taus, powers, options.clean, sample, options.seed)
    counts = shot_means(cache.class_counts, cache.class_counts)
    advice = recommend([pair.distribution for pair in pairs])
    return Tuned(cache, options.clean, counts, pairs, advice, sample)


def _refuse_plot(plot: Path, caches: Sequence[Path], force: bool) -> None:
    if plot.suffix.lower() not in PLOT_SUFFIXES:
        raise OutputError(f"--plot {plot} must end in {', '.join(PLOT_SUFFIXES)}")
    from dive.report.figures import KIND

    outputs.refuse_existing(plot, force, KIND, caches, "--plot")


def _plot(plot: Path, tuned: Sequence[Tuned]) -> None:
    from dive.report.figures import plot_means

    first = tuned[0]
    for one in tuned:
        if one.counts != first.counts:
            raise CacheError(
                f"{one.cache.path} is of other images per class than {first.cache.path}; "
                "plot caches of one data set"
            )
    outputs.prepare_folder(plot)
    groups = [("images", first.counts)]
    temperatures = sorted({pair.distribution.temperature for pair in first.pairs})
    for temperature in temperatures:
        for one in tuned:
            (means, *_) = (
                p.distribution.shots for p in one.pairs if p.distribution.temperature == temperature
            )
            at = f"τ/p = {temperature:g}"
            model = one.model.replace(" (", "\n(").replace(", w=", ",\nw=")
            name = at if len(tuned) == 1 else model if len(temperatures) == 1 else f"{model}\n{at}"
            groups.append((name, means))
    what = f", τ/p = {temperatures[0]:g}" if len(tuned) > 1 and len(temperatures) == 1 else ""
    plot_means(plot, f"Virtual examples per class{what}, {first.views}", groups)
