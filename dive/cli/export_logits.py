"""`dive export-logits`."""

from pathlib import Path
from typing import Any

import click

from dive.cache.encodings.registry import DEFAULT, ENCODINGS
from dive.cli import options
from dive.recipe.teachers import PRIORS
from dive.workflows.places import cache_of, checkpoint_of


@click.command("export-logits", cls=options.VariadicCommand, variadic=("--teacher",))
@options.several(
    "--teacher",
    "teachers",
    "FILE",
    "Checkpoint to export, a student's too, or the recipe of a foreign teacher; of several the mean of their "
    "logits [checkpoints/<recipe>/teacher.pt].",
    options.FILE,
)
@click.option(
    "--teacher-prior",
    "prior",
    type=click.Choice(PRIORS),
    help="Of a foreign teacher: whether its logits follow the class sizes of these images; train subtracts "
    "log n of the class counts n.",
)
@click.option(
    "--views",
    metavar="all|clean|K",
    help="Views of each image: the whole space, the clean one, or K drawn by seed [all; AutoAugment: 50].",
)
@click.option(
    "--store",
    type=click.Choice(list(ENCODINGS)),
    default=DEFAULT,
    show_default=True,
    help="What the cache holds of a view: its logits, or the input of the teacher's last Linear.",
)
@click.option("--out", type=options.FILE, help="Cache to write [cache/<recipe>.h5].")
@click.option(
    "--shard",
    type=options.SHARE,
    metavar="K/N",
    help="Write the K-th of N shards alone, from 1, for dive merge-shards.",
)
@options.apply(
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.precision,
    options.workers,
    options.own,
    options.as_json,
    options.quiet,
    options.force,
)
def command(
    teachers: tuple[Path, ...],
    prior: str | None,
    views: str | None,
    store: str,
    out: Path | None,
    shard: tuple[int, int] | None,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    precision: str | None,
    workers: int | None,
    own: tuple[str, ...],
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Run the teacher once over every view and keep its logits.

    Says how large the file will be before it starts, and how large with every --store. float16 and float32
    keep logits as they are, int8 with a scale and an offset for each view. features keeps what the teacher's
    last linear layer turns into logits, in float16, and that layer once: smaller where there are fewer
    features than classes, and more exact than float16 logits; features-int8 keeps it in int8. Started again
    after a stop, it resumes with the first block that is missing.

    Several teachers are an ensemble: the cache holds the mean of their logits, or their features side by
    side. Their networks and inputs may differ, the images that they were trained on may not.

    A recipe (a YAML file, or the name of one) given to --teacher is a foreign teacher, one that dive did not
    train: its part model says the network, its own or the library's weights, head keep, and the input. Data,
    draw and views are those of --config. Output i is taken for class i of the data. Give --teacher-prior
    train if it was trained with plain cross-entropy on these long-tailed images, none if its logits do not
    follow their class sizes.

    Several processes export together: those that torchrun starts, or jobs that share a folder alone: dive
    export-logits --shard 3/16 is the third of sixteen, dive merge-shards the last step.

    \b
    Example:
      dive export-logits --config cifar100_lt/bbn --views all --store features
      dive export-logits --teacher pretrained.yaml --teacher-prior none
    """
    recipe = options.read_recipe(config, assignments, data__root=data, precision=precision)
    from dive.cli.tables import print_cache
    from dive.workflows.export import ExportOptions, export_logits
    from dive.world import this_world

    wanted = ExportOptions(
        teacher=teachers or checkpoint_of(recipe, "teacher"),
        out=out or cache_of(recipe),
        views=views,
        store=store,
        device=device,
        force=force,
        workers=workers,
        own=own,
        prior=prior,
        shard=shard,
    )
    exported = export_logits(recipe, wanted, options.reporter(quiet))
    if not this_world().first:
        return
    if as_json:
        options.print_json(exported.record)
        return
    if shard is not None:
        _print_shard(exported.record)
        return
    print_cache(exported.path, exported.record)


def _print_shard(record: dict[str, Any]) -> None:
    from dive.cli.tables import cell, new_table, print_table

    number, of = record["shard"]
    table = new_table(f"Shard {number}/{of} of {record['cache']}", ["file"], ["blocks", "precision"])
    blocks = "none" if record["blocks"] is None else "{} to {}".format(*record["blocks"])
    table.add_row(cell(record["file"] or "none is needed"), blocks, record["precision"])
    print_table(table)
