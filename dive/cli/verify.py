"""`dive verify`."""

from pathlib import Path
from typing import Any

import click

from dive.cli import options


@click.command("verify")
@click.argument("cache", type=options.FILE)
@click.option(
    "--sample",
    type=options.Whole(1, 10**9),
    metavar="N",
    help="Run the teacher again on N random (sample, view) pairs.",
)
@click.option("--teacher", type=options.FILE, help="With --sample: the teacher's checkpoint.")
@options.apply(options.data, options.device, options.own, options.seed, options.as_json, options.quiet)
def command(
    cache: Path,
    sample: int | None,
    teacher: Path | None,
    data: str | None,
    device: str,
    own: tuple[str, ...],
    seed: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Check a logit cache from its seal to its last row.

    Seal, CRCs, shapes, finiteness, labels against class counts, view ids against the space or the draw
    that the cache says they are of, and that the teacher is right in as many views as the export counted,
    which rows that slipped against their labels are not. With --sample and
    --teacher the teacher itself is asked again; --data says where the images are, --seed which pairs.
    """
    from dive.workflows.verify import sample as run_again
    from dive.workflows.verify import verify

    if (sample is None) != (teacher is None):
        raise click.UsageError("--sample N and --teacher FILE belong together")
    progress = options.reporter(quiet)
    verified = verify(cache, progress)
    document: dict[str, Any] = {
        "cache": str(cache),
        "hash": verified.hash,
        "shape": list(verified.shape),
        "stored_views_accuracy": verified.accuracy,
    }
    if sample is not None and teacher is not None:
        count = min(sample, verified.shape[0] * verified.shape[1])
        document["sampled"] = vars(
            run_again(verified, teacher, count, seed or 0, data, device, progress, own)
        )
    if as_json:
        options.print_json(document)
    else:
        _print_table(document)


def _print_table(document: dict[str, Any]) -> None:
    from dive.cli.tables import cell, new_table, percent, print_table

    table = new_table(f"{document['cache']} is whole", ["check"], [])
    table.show_header = False
    table.add_column(overflow="fold")
    n, views, classes = document["shape"]
    table.add_row("seal and CRCs", f"match ({document['hash'][:12]})")
    table.add_row("rows", f"{n} samples × {views} views × {classes} classes, all finite, labels fit")
    share = percent(document["stored_views_accuracy"])
    table.add_row("teacher over the stored views", f"{share} % right, as the export counted")
    if again := document.get("sampled"):
        table.add_row(
            "teacher run again",
            cell(
                f"{again['pairs']} views in {again['precision']}: largest difference {again['largest']:.3g} "
                f"(rounding: up to {again['allowed']:.3g}), top-1 agreement {percent(again['agreement'])} %"
            ),
        )
    print_table(table)
