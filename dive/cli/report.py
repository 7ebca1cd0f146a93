"""`dive report`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

import click

from dive.cli import options
from dive.errors import DiveError
from dive.workflows.places import cache_of, checkpoint_of

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe


@click.command("report")
@click.argument("files", nargs=-1, type=options.FILE, metavar="[CHECKPOINT|CACHE ...]")
@click.option(
    "--out", type=options.FILE, default=Path("report.html"), show_default=True, help="Page to write."
)
@click.option(
    "--sample",
    type=options.Whole(2, 10**9),
    metavar="N",
    help="Estimate virtual examples from N random images, for large caches.",
)
@options.apply(
    options.clean, options.sample_seed, options.config, options.assignments, options.data, options.as_json,
    options.quiet, options.force,
)  # fmt: skip
def command(
    files: tuple[Path, ...],
    out: Path,
    clean: bool,
    sample: int | None,
    seed: int | None,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Write an HTML page to explore checkpoints and caches.

    The page is one file that loads nothing from elsewhere. Writing it needs plotly.

    \b
    For a cache it shows:
      - the virtual examples of every class over τ/p, with a slider
      - the information kept, and where few-shot classes overtake many-shot
      - with --data, images in their stored views and their targets

    \b
    For a checkpoint, or its record (NAME.json), it shows:
      - accuracy by group and by class, and the confusion between groups
      - the training curves, the recipe and the origin

    Without arguments, the page shows the recipe's teacher, student and cache, as far as they exist.

    \b
    Example:
      dive report --config cifar100_lt/bbn --data data --out report.html
    """
    # Set before NumPy is loaded, as tune-tau does: the pass over the cache has its own processes or threads.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    drawn_by = options.seed_of_sample(seed, sample)
    recipe = options.read_recipe(config, assignments)
    from dive.workflows.report import ReportOptions, write_report

    progress = options.reporter(quiet)
    asked = ReportOptions(data, clean, sample, drawn_by, force, recipe if config or assignments else None)
    page = write_report(files or _of_recipe(recipe), out, asked, progress)
    progress.note(f"wrote {out}")
    if as_json:
        options.print_json(
            {
                "out": str(out),
                "models": [model.file for model in page.models],
                "caches": [
                    {"cache": one.file, "crossing": one.crossing and vars(one.crossing)}
                    for one in page.caches
                ],
            }
        )


def _of_recipe(recipe: "Recipe") -> list[Path]:
    paths = [checkpoint_of(recipe, "teacher"), checkpoint_of(recipe, "student"), cache_of(recipe)]
    if not (found := [path for path in paths if path.exists()]):
        raise DiveError(f"there is neither {paths[0]} nor {paths[2]} yet; dive teacher makes the first")
    return found
