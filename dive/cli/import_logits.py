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
    help="Whether the logits contain the class prior of the training set (train) or not (none); required.",
)
@click.option(
    "--store",
    type=click.Choice(list(ENCODINGS)),
    metavar="|".join(_STORES),
    default=DEFAULT,
    show_default=True,
    help="What the cache holds of a view.",
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
    """Make a logit cache of logits that another program wrote.

    FILE is a .npz or an .h5 with keys (N texts <class>/<file name>, as dive.open_images has them), logits
    (N, C) or (N, V, C) of floating type, classes (C names, in the order of the logits' columns) and, unless
    they are of the clean view, views (N, V) or (V,) of view ids. Rows are joined by key, columns by class
    name; labels are those of the data. Rows of other images are left out and training images that FILE lacks
    are not in the cache; both are counted. An .h5 is read block by block, the logits of a .npz are held in
    memory. Started again after a stop, it resumes.

    --teacher-prior train is for a network that learned by plain cross-entropy on the long-tailed training
    set, whose logits contain its class prior: log n is subtracted from them, n being the training images of
    the class. none is for one that learned on balanced data, or by balanced softmax.

    \b
    Example:
      dive import-logits logits.npz --config digits_lt/bbn --teacher-prior none
    """
    if prior is None:
        raise click.UsageError(
            "give --teacher-prior train for logits of a network that learned by plain cross-entropy on the "
            "long-tailed training set (log n of each class is subtracted from them), or --teacher-prior none "
            "for logits without its class prior"
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
