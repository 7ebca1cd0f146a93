"""`dive tune-tau`."""

import math
import os
from pathlib import Path

import click

from dive import files
from dive.commands import options

LEAST, MOST_TAU = 1e-6, 1e6
PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@click.command("tune-tau", cls=options.VariadicCommand, variadic=("--tau", "--power"))
@click.option("--cache", type=options.FILE, help="Logit cache to read [cache/<recipe>.h5].")
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
    cache: Path | None,
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
    targets keep, and recommends by the paper's rule of thumb. Needs no GPU and no torch.
    """
    # Before NumPy is loaded: threads of BLAS within the pass's own threads make it slower, up to five times.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    from dive.logit_cache import LogitCache
    from dive.longtail import shot_means
    from dive.virtual_examples import DEFAULT_POWERS, DEFAULT_TAUS, examine, recommend

    _check_range("--tau", taus, most=MOST_TAU)
    _check_range("--power", powers, most=1)
    recipe = options.read_recipe(config, assignments)
    if plot is not None:
        _check_plot(plot, force)
    opened = LogitCache(cache or options.default_cache(recipe))
    pairs = examine(opened, taus or DEFAULT_TAUS, powers or DEFAULT_POWERS, clean)
    advice = recommend(pairs)
    counts = shot_means(opened.class_counts, opened.class_counts)
    views = "the clean view" if clean else f"{opened.shape[1]} stored view{'s' * (opened.shape[1] > 1)}"
    if plot is not None:
        _plot(plot, f"Virtual examples per class, {views}", counts, pairs)
        options.reporter(quiet).note(f"wrote {plot}")
    if as_json:
        options.print_json(_document(opened, clean, counts, pairs, advice))
    else:
        _print_table(f"Virtual examples per class, {opened.path}, {views}", counts, pairs)
        click.echo(advice.sentence)


def _check_range(option: str, values: tuple[float, ...], most: float) -> None:
    """Refuse what is not above 0, NaN, and what float32 cannot divide by."""
    wrong = [value for value in values if not LEAST <= value <= most]
    if wrong:
        raise click.BadParameter(
            f"{wrong[0]:g} must be > 0 (at least {LEAST:g}) and at most {most:g}", param_hint=option
        )


def _check_plot(plot: Path, force: bool) -> None:
    if plot.suffix.lower() not in PLOT_SUFFIXES:
        raise click.BadParameter(f"{plot} must end in {', '.join(PLOT_SUFFIXES)}", param_hint="--plot")
    files.refuse_existing(plot, force, "--plot")


def _plot(plot: Path, title: str, counts: dict, pairs: list) -> None:
    from dive.figures import plot_distributions

    files.prepare_folder(plot)
    found = {pair.distribution.temperature: pair.distribution for pair in pairs}
    plot_distributions(plot, title, counts, [found[t] for t in sorted(found)])


def _print_table(title: str, counts: dict, pairs: list) -> None:
    from dive.longtail import SHOTS
    from dive.tables import new_table, number, print_table

    table = new_table(title, [], ["τ", "p", "τ/p", *SHOTS, "max/min", "nats kept"])
    present = [count for count in counts.values() if count is not None]
    images = [number(counts[shot], 1) for shot in SHOTS]
    table.add_row("images", "", "", *images, number(max(present) / min(present), 2), "", end_section=True)
    for pair in pairs:
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


def _document(cache: object, clean: bool, counts: dict, pairs: list, advice: object) -> dict:
    return {
        "cache": str(cache.path),
        "cache hash": cache.hash,
        "views": "clean" if clean else cache.shape[1],
        "images": counts,
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
            for pair in pairs
        ],
        "recommendation": {"tau": advice.tau, "power": advice.power, "sentence": advice.sentence},
    }
