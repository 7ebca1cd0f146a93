"""`dive merge-caches`."""

from pathlib import Path

import click

from dive.cache.encodings.registry import ENCODINGS
from dive.cli import options


@click.command("merge-caches", cls=options.VariadicCommand, variadic=("--cache", "--weights"))
@options.several("--cache", "caches", "FILE", "Logit caches with the same samples and views.", options.FILE)
@options.several(
    "--weights", "weights", "W", "Weight of each cache in the mean [equal]; normalised to a sum of 1."
)
@click.option(
    "--store",
    type=click.Choice(list(ENCODINGS)),
    help="Encoding to write [that of the caches; features or float16 if they differ].",
)
@click.option("--out", type=options.FILE, required=True, help="Cache to write.")
@options.apply(options.as_json, options.quiet, options.force)
def command(
    caches: tuple[Path, ...],
    weights: tuple[float, ...],
    store: str | None,
    out: Path,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Merge the logit caches of several teachers into an ensemble.

    The new cache holds the mean of the logits. If all caches hold features, it holds the concatenated
    features. It records the teachers of all caches.

    The caches must have the same samples, classes and views. Their encodings may differ. A stopped merge
    resumes when it is started again.

    \b
    Example:
      dive merge-caches --cache a.h5 b.h5 --weights 2 1 --out both.h5
    """
    if len(caches) < 2:
        raise click.UsageError("--cache takes two caches or more: --cache A.h5 B.h5")
    if weights and len(weights) != len(caches):
        raise click.UsageError(f"{len(caches)} caches and {len(weights)} --weights: give one weight a cache")
    from dive.workflows.merge import MergeOptions, merge_caches

    merged = merge_caches(caches, MergeOptions(out, weights, store, force), options.reporter(quiet))
    if as_json:
        options.print_json(merged.record)
        return
    from dive.cli.tables import print_cache

    print_cache(merged.path, merged.record)
