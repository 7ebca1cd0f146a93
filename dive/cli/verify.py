"""`dive verify`."""

from pathlib import Path
from typing import Any

import click

from dive.cli import options


@click.command("verify", cls=options.VariadicCommand, variadic=("--teacher",))
@click.argument("place", metavar="[CACHE]", required=False, type=options.FILE)
@click.option("--cache", "named", type=options.FILE, help="The cache, if it is not the first argument.")
@click.option(
    "--sample",
    type=options.Whole(1, 10**9),
    metavar="N",
    help="Number of random (sample, view) pairs, for --teacher or --against.",
)
@options.several(
    "--teacher",
    "teachers",
    "FILE",
    "With --sample: the teacher to run again, or all teachers of an ensemble. Checkpoints, or recipes as for "
    "dive export-logits.",
    options.FILE,
)
@click.option("--against", type=options.FILE, help="Cache of the same samples and views, taken as exact.")
@click.option(
    "--config",
    type=options.FILE,
    metavar="FILE|NAME",
    help="With --teacher: recipe of the images [that of the checkpoint].",
)
@options.apply(
    options.assignments,
    options.data,
    options.device,
    options.own,
    options.sample_seed,
    options.as_json,
    options.quiet,
)
def command(
    place: Path | None,
    named: Path | None,
    sample: int | None,
    teachers: tuple[Path, ...],
    against: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    own: tuple[str, ...],
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check the integrity of a logit cache.

    \b
    The command checks:
      - the seal, the CRCs and the shapes
      - that all logits are finite
      - the labels against the class counts
      - the view ids against the space or draw that the cache states
      - how many views the teacher classifies correctly, against the number
        counted by the export; this finds rows shifted against their labels

    With --sample and --teacher, the teacher is run again on random (sample, view) pairs; for an ensemble,
    give every teacher. --data states where the images are, --seed which pairs are drawn. --teacher takes all
    files after it, so give the cache before it or with --cache.

    --teacher also accepts a recipe, for a teacher that dive did not train. If every teacher is such a recipe,
    --config is the recipe with which the cache was exported. It is needed if --data alone does not describe
    the images, as with list files.

    With --against, the logits of another cache are used instead of the teacher's.

    Either way, the command shows how far the stored targets are from the exact ones, at T = τ/p = 1, 2, 6 and
    12: KL(exact ‖ stored) in nats, and its share of KL(exact ‖ uniform), the information in the target.

    \b
    Example:
      dive verify cache/cifar100_lt_bbn.h5 --sample 100 --teacher teacher.pt
    """
    from dive.cache.reader import LogitCache
    from dive.workflows.fidelity import compare
    from dive.workflows.verify import sample as run_again
    from dive.workflows.verify import verify

    if (sample is None) if teachers else (sample is not None and against is None):
        raise click.UsageError(
            "--teacher FILE needs --sample N, and --sample N needs --teacher FILE or --against FILE"
        )
    if (config or assignments or data or own or device != "auto") and not teachers:
        raise click.UsageError(
            "--config, --set, --data, --model and --device are for --teacher; give it too, or leave them out"
        )
    drawn_by = options.seed_of_sample(seed, sample)
    cache = _one_cache(place, named)
    progress = options.reporter(quiet)
    verified = verify(cache, progress)
    document: dict[str, Any] = {
        "cache": str(cache),
        "hash": verified.hash,
        "shape": list(verified.shape),
        "store": verified.store,
        "stored_views_accuracy": verified.accuracy,
    }
    if sample is not None and teachers:
        count = min(sample, verified.shape[0] * verified.shape[1])
        recipe = None
        if config or assignments:
            recipe = options.read_recipe(config, assignments, data__root=data)
        again = run_again(verified, teachers, count, drawn_by, data, device, progress, own, recipe)
        document["sampled"] = again.document()
    if against is not None:
        compared = compare(verified, LogitCache(against), sample, drawn_by, progress)
        document["against"] = {"cache": str(against), **compared.document()}
    if as_json:
        options.print_json(document)
    else:
        _print_table(document)


def _one_cache(place: Path | None, named: Path | None) -> Path:
    """The cache, given as an argument or with --cache; raises click.UsageError unless it is given once."""
    if place is not None and named is not None:
        raise click.UsageError(f"Give one cache, {place} or --cache {named}.")
    if (cache := place or named) is None:
        raise click.UsageError(
            "Missing argument 'CACHE': give it before --teacher, which takes all files after it, or with "
            "--cache."
        )
    return cache


def _print_table(document: dict[str, Any]) -> None:
    from dive.cli.tables import cell, new_table, percent, print_table

    table = new_table(f"{document['cache']} is intact", ["check"], [])
    table.show_header = False
    table.add_column(overflow="fold")
    n, views, classes = document["shape"]
    table.add_row("seal and CRCs", f"match ({document['hash'][:12]})")
    table.add_row("rows", f"{n} samples × {views} views × {classes} classes, all finite, labels fit")
    share = percent(document["stored_views_accuracy"])
    table.add_row("teacher over the stored views", f"{share} % correct, as counted by the export")
    if again := document.get("sampled"):
        table.add_row(
            "teacher run again",
            cell(
                f"{again['pairs']} views in {again['precision']}: largest difference {again['largest']:.3g} "
                f"(rounding: up to {again['allowed']:.3g}), top-1 agreement {percent(again['agreement'])} %"
            ),
        )
    if other := document.get("against"):
        table.add_row(
            cell(f"against {other['cache']}"),
            f"{other['pairs']} views: largest difference {other['largest']:.3g}, "
            f"top-1 agreement {percent(other['agreement'])} %",
        )
    print_table(table)
    for part in ("sampled", "against"):
        if part in document:
            _print_fidelity(document[part]["fidelity"], document["store"])


def _print_fidelity(fidelity: list[dict[str, float | None]], store: str) -> None:
    from dive.cli.tables import ABSENT, new_table, print_table

    columns = ["T = τ/p", "KL(exact ‖ stored)", "KL(exact ‖ uniform)", "share"]
    table = new_table(f"Targets from {store}, mean over views in nats", [], columns)
    for one in fidelity:
        share = ABSENT if one["share"] is None else f"{100 * one['share']:.2g} %"
        table.add_row(f"{one['temperature']:g}", f"{one['kl']:.2g}", f"{one['signal']:.3f}", share)
    print_table(table)
