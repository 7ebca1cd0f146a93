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
    "Checkpoint of a teacher or student, or the recipe of a teacher that dive did not train. Several are "
    "averaged [checkpoints/<recipe>/teacher.pt].",
    options.FILE,
)
@click.option(
    "--teacher-prior",
    "prior",
    type=click.Choice(PRIORS),
    help="For a teacher that dive did not train: whether its logits follow the class sizes of these images. "
    "train subtracts log n, where n are the class counts.",
)
@click.option(
    "--views",
    metavar="all|clean|K",
    help="Views of each image: the whole space, the clean one, or K drawn by seed [all; 50 if unbounded].",
)
@click.option(
    "--store",
    type=click.Choice(list(ENCODINGS)),
    default=DEFAULT,
    show_default=True,
    help="What the cache holds for each view: the logits, or the input of the teacher's last linear layer.",
)
@click.option("--out", type=options.FILE, help="Cache to write [cache/<recipe>.h5].")
@click.option(
    "--shard",
    type=options.SHARE,
    metavar="K/N",
    help="Write only the K-th of N shards, counted from 1, for dive merge-shards.",
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
    """Run the teacher once on every view and cache its logits.

    Before it starts, the export shows how large the file will be, and how large it would be with every
    --store. A stopped export resumes at the first missing block.

    \b
    Values of --store:
      - float16, float32: the logits as they are
      - int8: the logits, with a scale and an offset for each view
      - features: the input of the teacher's last linear layer in float16,
        and that layer once
      - features-int8: the same in int8

    features is smaller if there are fewer features than classes, and more exact than float16 logits.

    Several teachers form an ensemble. The cache then holds the mean of their logits, or their concatenated
    features. Their networks and inputs may differ. The images that they were trained on must be the same.

    --teacher also accepts a recipe (a YAML file, or the name of one) for a teacher that dive did not train.
    Its part model states the network, the weights (a file, or a name that the library knows), head keep, and
    the input. The data, the draw and the views are those of --config. Output i is taken as class i of the
    data. Such a teacher needs --teacher-prior: train if it was trained with plain cross-entropy on these
    long-tailed images, none if its logits do not follow their class sizes.

    Several processes can export together: processes started by torchrun, or jobs that share only a folder.
    For example, dive export-logits --shard 3/16 writes the third of sixteen shards, and dive merge-shards
    merges them (docs/distributed.md).

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
