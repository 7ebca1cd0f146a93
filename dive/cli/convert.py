"""`dive convert`."""

from pathlib import Path

import click

from dive.cache.encodings.registry import ENCODINGS
from dive.cli import options


@click.command("convert")
@click.argument("cache", type=options.FILE)
@click.option("--store", type=click.Choice(list(ENCODINGS)), required=True, help="Encoding to write.")
@click.option("--out", type=options.FILE, help="Cache to write [NAME-<store>.h5 beside NAME.h5].")
@options.apply(options.as_json, options.quiet, options.force)
def command(cache: Path, store: str, out: Path | None, as_json: bool, quiet: bool, force: bool) -> None:
    """Re-encode a logit cache, without its teacher.

    A cache of features can be stored in any encoding, a cache of logits in any encoding of logits. The new
    cache records the cache it was made from. dive verify --against shows how far its targets are from those
    of the original. A stopped conversion resumes when it is started again.

    \b
    Example:
      dive convert cache/cifar100_lt_bbn.h5 --store int8
    """
    from dive.workflows.convert import ConvertOptions, convert

    converted = convert(cache, ConvertOptions(store, out, force), options.reporter(quiet))
    if as_json:
        options.print_json(converted.record)
        return
    from dive.cli.tables import cell, new_table, print_table
    from dive.files import readable_size

    record = converted.record
    table = new_table(f"Logit cache {converted.path}", ["cache"], ["store", "size"])
    for place in ("from", ""):
        path = record["from" if place else "cache"]
        stored, size = record[f"{place}_store".lstrip("_")], record[f"{place}_bytes".lstrip("_")]
        table.add_row(cell(path), stored, readable_size(size))
    print_table(table)
