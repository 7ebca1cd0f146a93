"""`dive tune-tau`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dive.cli import options
from dive.recipe import bounds
from dive.workflows.places import cache_of

if TYPE_CHECKING:
    from rich.table import Table

    from dive.method.curves import Pair
    from dive.workflows.tune import Tuned


@click.command("tune-tau", cls=options.VariadicCommand, variadic=("--cache", "--tau", "--power"))
@options.several("--cache", "caches", "FILE", "Logit caches to read [cache/<recipe>.h5].", options.FILE)
@options.several("--tau", "taus", "T", "Temperatures to try [1 3 6 20].")
@options.several("--power", "powers", "P", "Power normalisations to try [0.5 1].")
@options.clean
@click.option(
    "--plot", type=options.FILE, metavar="FILE", help="Plot the paper's Figure 5 (.png, .svg or .pdf)."
)
@click.option(
    "--rule",
    type=click.Choice(["crossing", "grid"]),
    default="crossing",
    help="Recommend from the crossing, or like the paper from the grid of --tau and --power [crossing].",
)
@click.option(
    "--sample",
    type=options.Whole(2, 10**9),
    metavar="N",
    help="Estimate from N random images, with standard errors; only their blocks are read.",
)
@options.sample_seed
@options.apply(options.config, options.assignments, options.as_json, options.quiet, options.force)
def command(
    caches: tuple[Path, ...],
    taus: tuple[float, ...],
    powers: tuple[float, ...],
    clean: bool,
    plot: Path | None,
    rule: str,
    sample: int | None,
    seed: int | None,
    config: Path | None,
    assignments: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Choose the temperature and power from the cached logits.

    For every τ and p, the table shows the mean virtual examples per class in the many-, medium- and few-shot
    groups, and how much information the targets keep. The command needs no GPU and no torch.

    It then finds the τ/p at which few-shot classes overtake many-shot classes, with a few more passes over
    the cache. Like the paper, it recommends half of this τ/p as τ, with p = 0.5. The last row of the table is
    this pair. If there is no such τ/p, or a group has no class, the fallback is the largest τ/p that keeps a
    fifth of the information at τ/p = 1.

    Several caches are shown one after the other, and side by side in the plot.

    With --sample, the figures are estimates from a simple random sample of images, each in all its stored
    views. ± is one standard error.

    \b
    Example:
      dive tune-tau --config cifar100_lt/bbn --tau 1 3 6 --power 0.5 1 --plot tau.png
    """
    # Set before NumPy is loaded: BLAS threads inside the workers of the pass make it up to five times slower.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    _check_range("--tau", taus, bounds.TEMPERATURES)
    _check_range("--power", powers, bounds.POWERS)
    recipe = options.read_recipe(config, assignments)
    from dive.workflows.tune import TuneOptions, tune

    paths = caches or (cache_of(recipe),)
    asked = TuneOptions(taus, powers, clean, plot, force, sample, options.seed_of_sample(seed, sample), rule)
    tuned = tune(paths, asked)
    if plot is not None:
        options.reporter(quiet).note(f"wrote {plot}")
    if as_json:
        documents = [one.document() for one in tuned]
        options.print_json(documents[0] if len(documents) == 1 else {"caches": documents})
        return
    for one in tuned:
        _print_table(one)
        click.echo(_crossing(one))
        click.echo(one.advice.sentence)


def _check_range(option: str, values: tuple[float, ...], range_: tuple[float, float]) -> None:
    """Refuse values that a student could not be trained with, NaN included."""
    least, most = range_
    wrong = [value for value in values if not least <= value <= most]
    if wrong:
        raise click.BadParameter(
            f"{wrong[0]:g} must be > 0 (at least {least:g}) and at most {most:g}", param_hint=option
        )


def _print_table(one: "Tuned") -> None:
    from dive.cli.tables import new_table, number, print_table
    from dive.recipe.shots import SHOTS

    counts = one.counts
    title = f"Virtual examples per class, {one.cache.path}, {one.views}"
    table = new_table(title, [], ["τ", "p", "τ/p", *SHOTS, "max/min", "nats kept"])
    present = [count for count in counts.values() if count is not None]
    images = [number(counts[shot], 1) for shot in SHOTS]
    table.add_row("images", "", "", *images, number(max(present) / min(present), 2), "", end_section=True)
    for place, pair in enumerate(one.pairs, start=1):
        _add(table, pair, end_section=place == len(one.pairs))
    if one.recommended is not None:
        _add(table, one.recommended)
    print_table(table)


def _add(table: "Table", pair: "Pair", end_section: bool = False) -> None:
    """Add the row of a pair."""
    from dive.cli.tables import number
    from dive.recipe.shots import SHOTS

    d, errors = pair.distribution, pair.distribution.errors or {}
    table.add_row(
        f"{pair.tau:g}",
        f"{pair.power:g}",
        f"{d.temperature:g}",
        *(_estimate(d.shots[shot], errors.get(shot), 1) for shot in SHOTS),
        number(d.ratio, 2),
        _estimate(d.information, errors.get("information"), 3),
        end_section=end_section,
    )


def _crossing(one: "Tuned") -> str:
    """Where the curves cross, in a sentence."""
    crossing, further = one.crossing, one.search.further
    if crossing is None:
        return "Crossing: none."
    error = "" if crossing.error is None else f" ± {crossing.error:.2g}"
    more = f"; they cross again near {' and '.join(f'{ratio:.3g}' for ratio in further)}" if further else ""
    return (
        f"Crossing: τ/p = {crossing.ratio:.4g}{error}, where few-shot and many-shot classes have "
        f"{crossing.few:.1f} virtual examples each{more}."
    )


def _estimate(value: float | None, error: float | None, digits: int) -> str:
    """A number; if it is an estimate, with its standard error on a second line."""
    from dive.cli.tables import number

    shown = number(value, digits)
    return shown if error is None else f"{shown}\n±{number(error, digits)}"
