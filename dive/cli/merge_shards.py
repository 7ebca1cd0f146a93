"""`dive merge-shards`."""

from pathlib import Path

import click

from dive.cli import options
from dive.workflows.places import cache_of


@click.command("merge-shards")
@click.option("--out", type=options.FILE, help="Cache to write, beside its shards [cache/<recipe>.h5].")
@options.apply(options.config, options.as_json, options.quiet, options.force)
def command(out: Path | None, config: Path | None, as_json: bool, quiet: bool, force: bool) -> None:
    """Merge the shards of a parallel export into one cache.

    This is the last step after dive export-logits --shard K/N. Under torchrun it is not needed.

    Every block is checked and copied, and then the shards are removed. If shards are missing, the command
    names them and changes nothing. It needs no GPU, no images and no teacher.

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
