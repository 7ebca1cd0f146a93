"""`dive tune-tau`."""

from pathlib import Path

import click

from dive.commands import options
from dive.errors import OutputError


@click.command("tune-tau", cls=options.VariadicCommand, variadic=("--tau", "--power"))
@click.option("--cache", type=options.FILE, help="Logit cache to read [cache/<recipe>.h5].")
@click.option(
    "--tau", "taus", type=float, multiple=True, metavar="T [T ...]", help="Temperatures to try [1 3 6 20]."
)
@click.option(
    "--power",
    "powers",
    type=float,
    multiple=True,
    metavar="P [P ...]",
    help="Power normalisations to try [0.5 1].",
)
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
    from dive.virtual_examples import DEFAULT_POWERS, DEFAULT_TAUS, examine, recommend, shot_means

    _check_range("--tau", taus)
    _check_range("--power", powers, most=1)
    if plot is not None:
        _check_plot(plot, force)
    if cache is None:
        cache = options.default_cache(options.read_recipe(config, assignments))
    from dive.logit_cache import LogitCache

    opened = LogitCache(cache)
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
        _print_tables(f"Virtual examples per class, {cache}, {views}", counts, pairs)
        click.echo(advice.sentence)


def _check_range(option: str, values: tuple[float, ...], most: float = float("inf")) -> None:
    wrong = [value for value in values if not 0 < value <= most or value == float("inf")]
    if wrong:
        wanted = "> 0" if most == float("inf") else f"> 0 and at most {most:g}"
        raise click.BadParameter(f"{wrong[0]:g} must be {wanted}", param_hint=option)


def _check_plot(plot: Path, force: bool) -> None:
    from dive import files

    if plot.suffix.lower() not in (".png", ".svg", ".pdf"):
        raise click.BadParameter(f"{plot} must end in .png, .svg or .pdf", param_hint="--plot")
    if plot.exists() and not force:
        raise OutputError(f"{plot} exists already; give another --plot, or --force to replace it")
    files.prepare_folder(plot)


def _plot(plot: Path, title: str, counts: dict, pairs: list) -> None:
    from dive.figures import plot_distributions

    found = {pair.distribution.temperature: pair.distribution for pair in pairs}
    plot_distributions(plot, title, counts, [found[t] for t in sorted(found)])


def _print_tables(title: str, counts: dict, pairs: list) -> None:
    from dive.tables import ABSENT, new_table, print_table

    def mean(value: float | None) -> str:
        return ABSENT if value is None else f"{value:.1f}"

    table = new_table(title, [], ["τ", "p", "τ/p", "many", "medium", "few", "max/min", "nats kept"])
    present = [count for count in counts.values() if count is not None]
    images = [mean(counts[shot]) for shot in ("many", "medium", "few")]
    table.add_row("images", "", "", *images, f"{max(present) / min(present):.2f}", "", end_section=True)
    for pair in pairs:
        d = pair.distribution
        table.add_row(
            f"{pair.tau:g}",
            f"{pair.power:g}",
            f"{d.temperature:g}",
            *(mean(d.shots[shot]) for shot in ("many", "medium", "few")),
            f"{d.ratio:.2f}",
            f"{d.information:.3f}",
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
                "ratio": pair.distribution.ratio,
                "information": pair.distribution.information,
                "per_class": pair.distribution.per_class.tolist(),
            }
            for pair in pairs
        ],
        "recommendation": {"tau": advice.tau, "power": advice.power, "sentence": advice.sentence},
    }
