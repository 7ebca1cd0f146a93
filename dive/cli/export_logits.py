"""`dive export-logits`."""

from pathlib import Path

import click

from dive.cli import options
from dive.workflows.places import cache_of, checkpoint_of


@click.command("export-logits")
@click.option(
    "--teacher",
    type=options.FILE,
    help="Checkpoint to export, a student's too [checkpoints/<recipe>/teacher.pt].",
)
@click.option(
    "--views",
    metavar="all|clean|K",
    help="Views of each image: the whole space, the clean one, or K drawn by seed [all; AutoAugment: 50].",
)
@click.option(
    "--dtype",
    type=click.Choice(["float16", "float32"]),
    default="float16",
    show_default=True,
    help="How the logits are stored.",
)
@click.option("--out", type=options.FILE, help="Cache to write [cache/<recipe>.h5].")
@options.apply(
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.precision,
    options.workers,
    options.as_json,
    options.quiet,
    options.force,
)
def command(
    teacher: Path | None,
    views: str | None,
    dtype: str,
    out: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    precision: str | None,
    workers: int | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Run the teacher once over every view and keep its logits.

    Says how large the file will be before it starts. Started again after a stop, it resumes
    with the first block that is missing.
    """
    recipe = options.read_recipe(config, assignments, data__root=data, precision=precision)
    from dive.cli.tables import cell, new_table, print_table
    from dive.files import readable_size
    from dive.recipe.records import model_name
    from dive.workflows.export import ExportOptions, export_logits

    wanted = ExportOptions(
        teacher=teacher or checkpoint_of(recipe, "teacher"),
        out=out or cache_of(recipe),
        views=views,
        dtype=dtype,
        device=device,
        force=force,
        workers=workers,
    )
    exported = export_logits(recipe, wanted, options.reporter(quiet))
    if as_json:
        options.print_json(exported.record)
        return
    n, v, c = exported.record["shape"]
    table = new_table(
        f"Logit cache {exported.path}", ["teacher"], ["samples", "views", "classes", "dtype", "size"]
    )
    exported_model = exported.record["teacher"]
    size = readable_size(exported.record["bytes"])
    table.add_row(
        cell(model_name(exported_model["kind"], exported_model)), f"{n:,}", f"{v}", f"{c}", dtype, size
    )
    print_table(table)
