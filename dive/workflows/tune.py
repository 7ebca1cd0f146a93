"""Tuning τ and p: virtual examples of each pair, the crossing, a recommendation and a plot. No torch."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dive import outputs
from dive.arguments import TakesTexts, as_paths, require_choice
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import CacheError
from dive.method.advice import INFORMATION, RULES, Advice
from dive.method.crossing import SEARCHED, Crossing, Search, search
from dive.method.curves import DEFAULT_POWERS, DEFAULT_TAUS, Curves, Pair, effective_temperature, examine
from dive.method.virtual_examples import Distribution
from dive.printable import printable
from dive.recipe.teachers import teachers_name, teachers_of

if TYPE_CHECKING:
    from dive.report.figures import Means

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class TuneOptions(TakesTexts):
    """Options of `dive.tune`.

    taus: the temperatures τ to try; 1, 3, 6 and 20 if empty.
    powers: the power normalisations p to try; 0.5 and 1 if empty.
    clean: use the clean views only, not all stored views.
    plot: a file (.png, .svg or .pdf) for a plot of the mean virtual examples per class; None for no plot.
    force: replace an existing plot.
    sample: the number of images to estimate from, with standard errors; None for all.
    seed: seed of the draw of the sample.
    rule: how a pair is recommended: `crossing`, or `grid` for the smallest of the τ/p tried at which few-shot
        classes exceed many-shot ones, as the paper does.
    """

    taus: tuple[float, ...] = ()
    powers: tuple[float, ...] = ()
    clean: bool = False
    plot: Path | None = None
    force: bool = False
    sample: int | None = None
    seed: int = 0
    rule: str = next(iter(RULES))


@dataclass(frozen=True)
class Tuned:
    """The result of `dive.tune` for one cache.

    cache: the cache.
    clean: whether its clean views only were used.
    counts: the mean number of training images of a class, by `many`, `medium` and `few`.
    pairs: for each pair of τ and p its virtual examples, ordered by p and τ.
    search: the result of the search for the crossing.
    advice: the recommendation.
    recommended: the virtual examples of the recommended pair; None if no pair is recommended.
    passes: the number of passes over the cache.
    sample: the number of images used; None for all.
    """

    cache: LogitCache
    clean: bool
    counts: dict[str, float | None]
    pairs: list[Pair]
    search: Search
    advice: Advice
    recommended: Pair | None
    passes: int
    sample: int | None = None

    @property
    def model(self) -> str:
        """The teacher of the cache in a few words; the name of the file if the cache does not name it."""
        teachers = teachers_of(self.cache.facts)
        return teachers_name(teachers) if teachers else printable(self.cache.path.stem)

    @property
    def views(self) -> str:
        """The views that were averaged over, as text."""
        stored = self.cache.shape[1]
        views = "the clean view" if self.clean else f"{stored} stored view{'s' * (stored > 1)}"
        return views if self.sample is None else f"{views} of {self.sample} images"

    @property
    def crossing(self) -> Crossing | None:
        """The point at which few-shot classes overtake many-shot ones; None if there is none."""
        return self.search.crossing

    def document(self) -> dict[str, Any]:
        """The result in plain values, as `dive tune-tau --json` prints it."""
        cache, search, crossing = self.cache, self.search, self.crossing
        return {
            "cache": str(cache.path),
            "cache_hash": cache.hash,
            "model": self.model,
            "store": cache.store,
            "views": "clean" if self.clean else cache.shape[1],
            "sample": self.sample,
            "images": self.counts,
            "pairs": [_plain(pair) for pair in self.pairs],
            "crossing": crossing and {"ratio": crossing.ratio, "few": crossing.few, "many": crossing.many},
            "search": {
                "smallest": search.smallest,
                "largest": search.largest,
                "standard_error": None if crossing is None else crossing.error,
                "further": list(search.further),
                "passes": self.passes,
            },
            "recommendation": asdict(self.advice),
            "recommended": None if self.recommended is None else _plain(self.recommended),
        }


def _plain(pair: Pair) -> dict[str, Any]:
    """A pair of τ and p in plain values."""
    d = pair.distribution
    return {
        "tau": pair.tau,
        "power": pair.power,
        "temperature": d.temperature,
        **d.shots,
        "ratio": d.ratio if math.isfinite(d.ratio) else None,
        "information": d.information,
        "standard_errors": d.errors,
        "per_class": d.per_class.tolist(),
    }


def tune(caches: str | Path | Sequence[str | Path], options: TuneOptions = TuneOptions()) -> list[Tuned]:
    """The virtual examples, the crossing and the recommended τ and p of each cache: a list of `Tuned`.

    caches: the cache files.
    options: the pairs to try, the rule, sample and plot, see `TuneOptions`.

    Raises:
        CacheError: a cache is incomplete or corrupt, lacks the clean view of an image with `clean`, or, for a
            plot, has other numbers of images per class than the first.
        OptionError: there is no such rule, or the name of the plot has another suffix.
        OutputError: the plot exists or cannot be written.
        ValueError: a τ/p is not above 0, or `sample` is invalid.

    >>> import dive
    >>> (tuned,) = dive.tune([Path("cache/digits_lt_bbn.h5")], dive.TuneOptions(taus=(1, 3), powers=(0.5, 1)))
    >>> [(pair.tau, pair.power) for pair in tuned.pairs]
    [(1, 0.5), (3, 0.5), (1, 1), (3, 1)]
    >>> tuned.advice.power, tuned.crossing is None or tuned.crossing.ratio > 0
    (0.5, True)
    """
    caches = as_paths(caches)
    require_choice("rule", options.rule, RULES)
    if options.plot is not None:
        _refuse_plot(options.plot, caches, options.force)
    tuned = [_tuned(path, options) for path in caches]
    if options.plot is not None:
        _plot(options.plot, tuned)
    return tuned


def _tuned(path: Path, options: TuneOptions) -> Tuned:
    cache = LogitCache(path)
    sample = options.sample if options.sample and options.sample < cache.shape[0] else None
    return tuned_of(Curves(cache, options.clean, sample, options.seed), options)


def tuned_of(curves: Curves, options: TuneOptions = TuneOptions()) -> Tuned:
    """The result of tuning for the curves of a cache, with the pairs and the rule of `options`."""
    cache, taus, powers = curves.cache, options.taus or DEFAULT_TAUS, options.powers or DEFAULT_POWERS
    curves.at(
        {*SEARCHED, *(effective_temperature(tau, power) for tau in taus for power in powers)}
    )  # one pass
    pairs, found = examine(curves, taus, powers), search(curves)
    advice = RULES[options.rule](curves, found, [pair.distribution for pair in pairs])
    recommended = None
    if advice.tau is not None and advice.power is not None:
        (recommended,) = examine(curves, [advice.tau], [advice.power])
    counts = shot_means(cache.class_counts, cache.class_counts)
    return Tuned(cache, curves.clean, counts, pairs, found, advice, recommended, curves.passes, curves.sample)


def _refuse_plot(plot: Path, caches: Sequence[Path], force: bool) -> None:
    outputs.require_suffix(plot, PLOT_SUFFIXES, "--plot")
    from dive.report.figures import KIND

    outputs.refuse_existing(plot, force, KIND, caches, "--plot")
    outputs.require_place(plot)


def _plot(plot: Path, tuned: Sequence[Tuned]) -> None:
    from dive.report.figures import plot_means

    first = tuned[0]
    for one in tuned:
        if one.counts != first.counts:
            raise CacheError(
                f"{one.cache.path} has other numbers of images per class than {first.cache.path}; "
                "plot caches of one data set"
            )
    outputs.prepare_folder(plot)
    plot_means(plot, means_of(tuned))


def means_of(tuned: Sequence[Tuned]) -> "Means":
    """The bars to draw for caches of one data set: a group for each temperature of each cache.

    If the grid has a single τ/p, the groups compare the caches, and the title states that τ/p.
    """
    from dive.report.figures import Means

    first = tuned[0]
    temperatures = {pair.distribution.temperature for pair in first.pairs}
    (only,) = temperatures if len(temperatures) == 1 else (None,)
    bars = [bar for place, one in enumerate(tuned) for bar in _bars(one, place, only is None)]
    bars.sort(key=lambda bar: (bar.distribution.temperature, bar.place))
    groups = [("images", first.counts)]
    alike = len({one.views for one in tuned}) == 1
    for bar in bars:
        at = f"τ/p = {bar.distribution.temperature:.4g}" + (f"\n({bar.mark})" if bar.mark else "")
        model = tuned[bar.place].model.replace(" (", "\n(").replace(", w=", ",\nw=")
        model += "" if alike else "\n" + tuned[bar.place].views.replace(" of ", "\nof ")
        name = at if len(tuned) == 1 else f"{model}\n{at}" if only is None else model
        groups.append((name, bar.distribution.shots))
    what = f", τ/p = {only:g}" if len(tuned) > 1 and only is not None else ""
    marked = [1 + place for place, bar in enumerate(bars) if bar.mark]
    views = f", {first.views}" if alike else ""
    return Means(f"Virtual examples per class{what}{views}", groups, marked)


@dataclass(frozen=True)
class _Bars:
    """A group of bars.

    place: the index of its cache. mark: `crossing`, `recommended`, `fallback`, or empty.
    """

    distribution: Distribution
    place: int
    mark: str = ""


def _bars(one: Tuned, place: int, over_temperatures: bool) -> Iterator[_Bars]:
    """The groups of bars of a cache: one for each temperature of the grid.

    In a plot over temperatures, the crossing is added and marked, or the recommended temperature if there is
    no crossing. If it is on the grid already, it is only marked.
    """
    bars = {pair.distribution.temperature: pair.distribution for pair in one.pairs}
    marks = {}
    if over_temperatures:
        marked = None if one.recommended is None else one.recommended.distribution
        mark = "recommended"
        if one.crossing is not None:
            marked, mark = one.crossing.distribution, "crossing"
        elif one.advice.rule == INFORMATION:
            mark = "fallback"
        if marked is not None:
            bars.setdefault(marked.temperature, marked)
            marks[marked.temperature] = mark
    yield from (_Bars(found, place, marks.get(temperature, "")) for temperature, found in bars.items())
