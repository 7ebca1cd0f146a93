"""`dive tune-tau`."""

import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dive import outputs
from dive.cli import options
from dive.errors import CacheError
from dive.printable import printable
from dive.recipe import bounds

if TYPE_CHECKING:
    from dive.cache.reader import LogitCache
    from dive.method.virtual_examples import Advice, Pair

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@click.command("tune-tau", cls=options.VariadicCommand, variadic=("--cache", "--tau", "--power"))
@options.several("--cache", "caches", "FILE", "Logit caches to read [cache/<recipe>.h5].", options.FILE)
@options.several("--tau", "taus", "T", "Temperatures to try [1 3 6 20].")
@options.several("--power", "powers", "P", "Power normalisations to try [0.5 1].")
@click.option(
    "--clean", is_flag=True, help="The clean view alone, as in the paper's Figure 5, not all stored views."
)
@click.option(
    "--plot", type=options.FILE, metavar="FILE", help="Write the paper's Figure 5 (.png, .svg or .pdf)."
)
@options.apply(options.config, options.assignments, options.as_json, options.quiet, options.force)
def command(
    caches: tuple[Path, ...],
    taus: tuple[float, ...],
    powers: tuple[float, ...],
    clean: bool,
    plot: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Choose temperature and power normalisation from the cached logits.

    Shows the mean virtual examples per class in many, medium and few, and how much information the
    targets keep, and recommends by the paper's rule of thumb. Several caches are shown one after the
    other, and side by side in the plot. Needs no GPU and no torch.
    """
    # Before NumPy is loaded: threads of BLAS within the pass's own threads make it slower, up to five times.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _check_range("--tau", taus, bounds.TEMPERATURES)
    _check_range("--power", powers, bounds.POWERS)
    recipe = options.read_recipe(config, assignments)
    paths = caches or (options.default_cache(recipe),)
    if plot is not None:
        _check_plot(plot, force, paths)
    examined = [_examine(path, taus, powers, clean) for path in paths]
    if plot is not None:
        _plot(plot, examined, clean)
        options.reporter(quiet).note(f"wrote {plot}")
    if as_json:
        documents = [_document(one, clean) for one in examined]
        options.print_json(documents[0] if len(documents) == 1 else {"caches": documents})
        return
    for one in examined:
        _print_table(one, clean)
        click.echo(one.advice.sentence)


@dataclass(frozen=True)
class _Examined:
    """A cache, the mean training images per class in many, medium and few, and what it says at each pair."""

    cache: "LogitCache"
    counts: dict[str, float | None]
    pairs: "list[Pair]"
    advice: "Advice"

    @property
    def model(self) -> str:
        """Whose logits the cache holds; its file's name where it does not say."""
        from dive.cli.tables import model_name
        from dive.recipe.records import TEACHER
        from dive.structure import fault_of

        teacher = self.cache.facts.get("teacher")
        told = not fault_of(teacher, TEACHER)
        return model_name(teacher["kind"], teacher) if told else printable(self.cache.path.stem)

    def views(self, clean: bool) -> str:
        """The views that were averaged over, in words."""
        stored = self.cache.shape[1]
        return "the clean view" if clean else f"{stored} stored view{'s' * (stored > 1)}"


def _examine(path: Path, taus: tuple[float, ...], powers: tuple[float, ...], clean: bool) -> _Examined:
    from dive.cache.reader import LogitCache
    from dive.data.longtail import shot_means
    from dive.method.virtual_examples import DEFAULT_POWERS, DEFAULT_TAUS, examine, recommend

    cache = LogitCache(path)
    pairs = examine(cache, taus or DEFAULT_TAUS, powers or DEFAULT_POWERS, clean)
    return _Examined(cache, shot_means(cache.class_counts, cache.class_counts), pairs, recommend(pairs))


def _check_range(option: str, values: tuple[float, ...], range_: tuple[float, float]) -> None:
    """Refuse what a student could not be trained with, NaN included."""
    least, most = range_
    wrong = [value for value in values if not least <= value <= most]
    if wrong:
        raise click.BadParameter(
            f"{wrong[0]:g} must be > 0 (at least {least:g}) and at most {most:g}", param_hint=option
        )


def _check_plot(plot: Path, force: bool, caches: tuple[Path, ...]) -> None:
    if plot.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(f"{plot} must end in {', '.join(PLOT_SUFFIXES)}", param_hint="--plot")
    from dive.report.figures import KIND

    outputs.refuse_existing(plot, force, KIND, caches, "--plot")


def _plot(plot: Path, examined: list[_Examined], clean: bool) -> None:
    from dive.report.figures import plot_means

    first = examined[0]
    for one in examined:
        if one.counts != first.counts:
            raise CacheError(
                f"{one.cache.path} is of other images per class than {first.cache.path}; "
                "plot caches of one data set"
            )
    outputs.prepare_folder(plot)
    groups = [("images", first.counts)]
    temperatures = sorted({pair.distribution.temperature for pair in first.pairs})
    for temperature in temperatures:
        for one in examined:
            (means, *_) = (
                p.distribution.shots for p in one.pairs if p.distribution.temperature == temperature
            )
            at = f"τ/p = {temperature:g}"
            model = one.model.replace(" (", "\n(").replace(", w=", ",\nw=")
            name = at if len(examined) == 1 else model if len(temperatures) == 1 else f"{model}\n{at}"
            groups.append((name, means))
    what = f", τ/p = {temperatures[0]:g}" if len(examined) > 1 and len(temperatures) == 1 else ""
    plot_means(plot, f"Virtual examples per class{what}, {first.views(clean)}", groups)


def _print_table(one: _Examined, clean: bool) -> None:
    from dive.cli.tables import new_table, number, print_table
    from dive.data.longtail import SHOTS

    counts = one.counts
    title = f"Virtual examples per class, {one.cache.path}, {one.views(clean)}"
    table = new_table(title, [], ["τ", "p", "τ/p", *SHOTS, "max/min", "nats kept"])
    present = [count for count in counts.values() if count is not None]
    images = [number(counts[shot], 1) for shot in SHOTS]
    table.add_row("images", "", "", *images, number(max(present) / min(present), 2), "", end_section=True)
    for pair in one.pairs:
        d = pair.distribution
        table.add_row(
            f"{pair.tau:g}",
            f"{pair.power:g}",
            f"{d.temperature:g}",
            *(number(d.shots[shot], 1) for shot in SHOTS),
            number(d.ratio, 2),
            number(d.information, 3),
        )
    print_table(table)


def _document(one: _Examined, clean: bool) -> dict:
    cache, advice = one.cache, one.advice
    return {
        "cache": str(cache.path),
        "cache hash": cache.hash,
        "model": one.model,
        "views": "clean" if clean else cache.shape[1],
        "images": one.counts,
        "pairs": [
            {
                "tau": pair.tau,
                "power": pair.power,
                "temperature": pair.distribution.temperature,
                **pair.distribution.shots,
                "ratio": pair.distribution.ratio if math.isfinite(pair.distribution.ratio) else None,
                "information": pair.distribution.information,
                "per_class": pair.distribution.per_class.tolist(),
            }
            for pair in one.pairs
        ],
        "recommendation": {"tau": advice.tau, "power": advice.power, "sentence": advice.sentence},
    }
