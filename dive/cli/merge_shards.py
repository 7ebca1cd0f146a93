"""`dive merge-shards`."""

from pathlib import Path

import click

from dive.cli import options
from dive.workflows.places import cache_of


@click.command("merge-shards")
@click.option("--out", type=options.FILE, help="Cache whose shards lie beside it [cache/<recipe>.h5].")
@options.apply(options.config, options.as_json, options.quiet, options.force)
def command(out: Path | None, config: Path | None, as_json: bool, quiet: bool, force: bool) -> None:
    """Make one cache of the shards that several export-logits wrote.

    The last step of dive export-logits --shard K/N; under torchrun it is done already. Checks every block,
    copies it, and removes the shards, or says which are missing. Needs no GPU, no pictures and no teacher.

    \b
    Example:
      dive merge-shards --out cache.h5
    """
    if out is None:
        out = cache_of(options.read_recipe(config, ()))
    from dive.cli.tables import print_cache
    from dive.workflows.merge_shards import merge_shards

    merged = merge_shards(out, force, options.reporter(quiet))
    if as_json:
        options.print_json(merged.record)
        return
    print_cache(merged.path, merged.record, shards=f"{merged.record['shards']}")
