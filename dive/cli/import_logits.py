"""`dive import-logits`."""

from pathlib import Path

import click

from dive.cache.encodings.registry import DEFAULT, ENCODINGS
from dive.cli import options
from dive.recipe.teachers import PRIORS

_STORES = [name for name, encoding in ENCODINGS.items() if not encoding.of_features]


@click.command("import-logits")
@click.argument("file", type=options.FILE)
@click.option(
    "--teacher-prior",
    "prior",
    type=click.Choice(PRIORS),
    help="Whether the logits contain the class prior of the training set (train) or not (none). Required.",
)
@click.option(
    "--store",
    type=click.Choice(list(ENCODINGS)),
    metavar="|".join(_STORES),
    default=DEFAULT,
    show_default=True,
    help="How the logits of each view are stored.",
)
@click.option("--out", type=options.FILE, help="Cache to write [cache/<recipe>.h5].")
@options.apply(
    options.config, options.assignments, options.data, options.as_json, options.quiet, options.force
)
def command(
    file: Path,
    prior: str | None,
    store: str,
    out: Path | None,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Create a logit cache from logits of another program.

    \b
    FILE is a .npz or an .h5 with these arrays:
      - keys: N strings <class>/<file name>, as in dive.DrawnViews
      - logits: (N, C) or (N, V, C), of floating type
      - classes: C names, in the order of the columns of logits
      - views: (N, V) or (V,) view ids; may be omitted for the clean view

    Rows are joined with the data by key, and columns by class name. Labels are those of the data. Rows of
    other images are skipped. Training images that FILE lacks are not in the cache. Both are counted.

    An .h5 is read block by block; the logits of a .npz are held in memory. A stopped import resumes when it
    is started again.

    Give --teacher-prior train for a network trained with plain cross-entropy on the long-tailed training set.
    Its logits contain the class prior, so log n is subtracted, where n is the number of training images of
    the class. Give none for a network trained on balanced data or with balanced softmax.

    \b
    Example:
      dive import-logits logits.npz --config digits_lt/bbn --teacher-prior none
    """
    if prior is None:
        raise click.UsageError(
            "give --teacher-prior train for logits of a network trained with plain cross-entropy on the "
            "long-tailed training set (log n of each class is subtracted from them), or --teacher-prior none "
            "for logits that do not contain its class prior"
        )
    recipe = options.read_recipe(config, assignments, data__root=data)
    from dive.workflows.import_logits import ImportOptions, import_logits

    wanted = ImportOptions(prior, out, store, force)
    imported = import_logits(recipe, file, wanted, options.reporter(quiet))
    if as_json:
        options.print_json(imported.record)
        return
    from dive.cli.tables import print_cache

    print_cache(imported.path, imported.record)
