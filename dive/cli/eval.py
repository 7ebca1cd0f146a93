"""`dive eval`."""

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dive.cli import options
from dive.errors import CheckpointError
from dive.workflows.places import checkpoint_of

if TYPE_CHECKING:
    from dive.progress import Progress
    from dive.recipe.recipe import Recipe
    from dive.workflows.evaluate import Apart, Seeds
    from dive.workflows.results import Result


@click.command("eval")
@click.argument("checkpoints", nargs=-1, type=options.FILE, metavar="[CHECKPOINT ...]")
@click.option(
    "--part",
    type=click.Choice(["test", "val"]),
    default="test",
    show_default=True,
    help="Which images to evaluate on: test or validation.",
)
@click.option("--per-class", is_flag=True, help="Also show the accuracy of every class.")
@click.option(
    "--plot",
    type=options.FILE,
    metavar="FILE",
    help="Plot the accuracy of each class against its number of training images (.png, .svg or .pdf).",
)
@click.option("--force", is_flag=True, help="Replace the figure of --plot.")
@options.apply(
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.own,
    options.workers,
    options.as_json,
    options.quiet,
)
def command(
    checkpoints: tuple[Path, ...],
    part: str,
    per_class: bool,
    plot: Path | None,
    force: bool,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    own: tuple[str, ...],
    workers: int | None,
    as_json: bool,
    quiet: bool,
) -> None:
    """Evaluate checkpoints: many-, medium- and few-shot accuracy.

    Accuracy is computed in fp32 on the whole test set, or with --part val on the validation set. Several
    seeds of one run are summarised as mean ± standard deviation.

    Without arguments, the recipe's teacher and student are evaluated. The test set is that of the recipe
    given with --config, or the one with which the first checkpoint was trained.

    A checkpoint of a network of your own is opened only if --model or the recipe of --config names that
    network.

    \b
    Example:
      dive eval teacher.pt student.pt --per-class --plot classes.png
    """
    if force and plot is None:
        raise click.UsageError("--force replaces the figure of --plot: give --plot too, or leave out --force")
    from dive.workflows.evaluate import PARTS, across_seeds, apart_by_precision, evaluate, recorded_recipe

    progress = options.reporter(quiet)
    if checkpoints and config is None:
        recipe = recorded_recipe(checkpoints[0], assignments, data)
    else:
        recipe = options.read_recipe(config, assignments, data__root=data)
        own = (*own, recipe.model.name, recipe.of_student.model.name)
    paths = checkpoints or _of_recipe(recipe, progress)
    evaluated = evaluate(paths, recipe, device, progress, own, workers, part, plot, force)
    if plot is not None:
        progress.note(f"wrote {plot}")
    if as_json:
        seeds, apart = across_seeds(evaluated), apart_by_precision(evaluated)
        options.print_json({"part": part, **_document(evaluated, seeds, apart)})
        return
    _print_shots(evaluated, PARTS[part], numbered=per_class)
    if per_class:
        _print_classes(evaluated, PARTS[part])


def _of_recipe(recipe: "Recipe", progress: "Progress") -> list[Path]:
    paths = {kind: checkpoint_of(recipe, kind) for kind in ("teacher", "student")}
    found = [path for path in paths.values() if path.exists()]
    if not found:
        raise CheckpointError(f"there is no {paths['teacher']} yet; dive teacher makes it")
    for kind, path in paths.items():
        if path not in found:
            others = sorted(path.parent.glob(f"{path.stem}-*{path.suffix}"))  # of a grid
            given = f"to evaluate others, give them: {', '.join(map(str, others[:3]))}"
            progress.note(f"there is no {path} yet; {given if others else f'dive {kind} makes it'}")
    return found


def _print_shots(evaluated: "list[Result]", title: str, numbered: bool) -> None:
    from dive.cli.tables import SHOT_COLUMNS, figures, named, new_table, percent, print_seeds, print_table

    table = new_table(f"{title} (%)", ["model"], SHOT_COLUMNS)
    for i, one in enumerate(evaluated, start=1):
        name = named(one.record, f"{one.path}, seed {one.record['seed']}", i if numbered else None)
        table.add_row(name, *map(percent, figures(one.accuracy)))
    print_table(table)
    print_seeds(evaluated)


def _print_classes(evaluated: "list[Result]", title: str) -> None:
    """Print the accuracy of every class, in a column per checkpoint, named by its number in the table above.

    If class counts differ between checkpoints, there are no columns for the shot group and the images.
    """
    import numpy as np

    from dive.cli.tables import cell, new_table, percent, print_table
    from dive.data.longtail import shot_groups

    first = evaluated[0].record
    counts = np.array(first["class_counts"])
    shot_of = {int(c): shot for shot, members in shot_groups(counts).items() for c in members}
    numbers = [f"[{i}]" for i in range(1, len(evaluated) + 1)]
    alike = all(one.record["class_counts"] == first["class_counts"] for one in evaluated)
    texts, figures = (["shot"], ["images"]) if alike else ([], [])
    table = new_table(f"{title} by class (%)", ["class", *texts], [*figures, *map(cell, numbers)])
    for c in np.argsort(-counts, kind="stable"):
        accuracies = (percent(one.accuracy.per_class[c]) for one in evaluated)
        of_draw = [shot_of[int(c)], str(counts[c])] if alike else []
        table.add_row(cell(first["classes"][c]), *of_draw, *accuracies)
    print_table(table)


def _document(evaluated: "list[Result]", seeds: "list[Seeds]", apart: "Iterable[Apart]") -> dict[str, Any]:
    from dive.cli.tables import SHOT_COLUMNS
    from dive.recipe.teachers import model_name

    columns = [name.replace(" ", "_") for name in SHOT_COLUMNS]
    return {
        "checkpoints": [
            {
                "path": str(one.path),
                "kind": one.record["kind"],
                "model": model_name(one.record["kind"], one.record),
                "seed": one.record["seed"],
                "precision": one.record["precision"],
                "weights_hash": one.record["weights_hash"],
                "accuracy": one.accuracy.as_dict(),
                "group_confusion": one.accuracy.group_confusion,
                "per_class": dict(zip(one.record["classes"], one.accuracy.per_class, strict=True)),
            }
            for one in evaluated
        ],
        "over_seeds": [
            {
                "model": model_name(run.record["kind"], run.record),
                "seeds": run.count,
                "mean": dict(zip(columns, run.means, strict=True)),
                "standard_deviation": dict(zip(columns, run.deviations, strict=True)),
            }
            for run in seeds
        ],
        "not_averaged": [{"model": runs.model, "seeds_by_precision": runs.seeds} for runs in apart],
    }
