"""`dive student`."""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from dive.cli import options
from dive.workflows.places import cache_of, checkpoint_of

if TYPE_CHECKING:
    from dive.workflows.results import Result


class Tau(options.Number):
    """A temperature, or `auto`."""

    name = "tau"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        return value if value == "auto" else super().convert(value, param, ctx)


GRID = ("--tau", "--power", "--student-tau", "--weight", "--seed")


@click.command("student", cls=options.VariadicCommand, variadic=GRID)
@click.option("--cache", type=options.FILE, help="Logit cache to train from [cache/<recipe>.h5].")
@options.several("--tau", "taus", "T", "Temperatures of the teacher; auto chooses τ and p [3].", Tau())
@options.several("--power", "powers", "P", "Power normalisations of the target [0.5].")
@options.several("--student-tau", "student_taus", "T", "Temperatures of the student [the teacher's].")
@options.several("--weight", "weights", "W", "Weights w of the distillation loss [0.5].")
@options.several("--seed", "seeds", "N", "Seeds of initialisation, sample order and views.", options.SEED)
@click.option("--free-views", is_flag=True, help="With a one-view cache: augment freely over its logits.")
@click.option("--fixed-view", is_flag=True, help="With a one-view cache: train only on that view.")
@click.option("--allow-missing", is_flag=True, help="Skip training images that the cache lacks.")
@click.option(
    "--split", is_flag=True, help="Under torchrun: train each student of a grid in all processes, in turn."
)
@click.option(
    "--epochs",
    type=options.EPOCHS,
    metavar="N",
    help="Train for N epochs; warm-up and milestones are scaled to N.",
)
@click.option(
    "--out",
    type=options.FILE,
    help="Checkpoint to write [checkpoints/<recipe>/student.pt]; for a grid, the names are derived from it.",
)
@options.apply(
    options.eval_every,
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.precision,
    options.workers,
    options.check_images,
    options.tensorboard,
    options.as_json,
    options.quiet,
    options.force,
)
def command(
    cache: Path | None,
    taus: tuple[float | str, ...],
    powers: tuple[float, ...],
    student_taus: tuple[float, ...],
    weights: tuple[float, ...],
    free_views: bool,
    fixed_view: bool,
    allow_missing: bool,
    split: bool,
    epochs: int | None,
    out: Path | None,
    eval_every: int,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    precision: str | None,
    seeds: tuple[int, ...],
    workers: int | None,
    check_images: bool,
    tensorboard: Path | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Train a student, or a grid of students, from images and cached logits.

    The teacher is not run. The loss is (1-w)·BSCE + w·τ²·KL against the teacher's cached logits, flattened by
    τ and p. The views are drawn from those in the cache.

    With several values of τ, p, w or seed, every combination is trained and written to its own file
    (student-t6-p0.5-w0.5-s1.pt). A stopped run resumes when it is started again.

    Under torchrun, the processes train a single student together, and of a grid each process trains students
    of its own (docs/distributed.md).

    \b
    Example:
      dive student --config cifar100_lt/bbn --tau 3 6 --power 0.5 --weight 0.5
    """
    auto = "auto" in taus
    if auto and len(taus) > 1:
        raise click.UsageError("--tau auto chooses one temperature: give no other beside it")
    if auto and powers:
        raise click.UsageError("--tau auto chooses the power too: leave --power out")
    if auto and any(one.startswith(("distillation.tau=", "distillation.power=")) for one in assignments):
        raise click.UsageError("--tau auto chooses both: leave distillation.tau and distillation.power out")
    recipes = [
        options.read_recipe(
            config,
            assignments,
            epochs=epochs,
            of_student=True,
            data__root=data,
            precision=precision,
            seed=seed,
            distillation__tau=tau,
            distillation__power=power,
            distillation__student_tau=student_tau,
            distillation__weight=weight,
        )
        for tau, power, student_tau, weight, seed in _combinations(
            () if auto else taus, powers, student_taus, weights, seeds
        )
    ]
    from dive.workflows.results import TrainOptions
    from dive.workflows.student import StudentOptions, train_students

    first = recipes[0]
    distilling = StudentOptions(cache or cache_of(first), auto, free_views, fixed_view, allow_missing, split)
    where = out or checkpoint_of(first, "student")
    training = TrainOptions(device, force, eval_every, workers, check_images, tensorboard)
    trained = train_students(recipes, where, distilling, training, options.reporter(quiet))
    if trained.results:
        _print_results(trained.results, first.name, as_json, several=len(recipes) > 1)
    trained.require_all()


def _combinations(*given: tuple[Any, ...]) -> Iterator[tuple[Any, ...]]:
    """Every combination of the values, without repeated ones; None for an option that was not given."""
    return itertools.product(*(dict.fromkeys(values) or (None,) for values in given))


def _print_results(results: "list[Result]", name: str, as_json: bool, several: bool) -> None:
    """The finished students as tables, or as the document of `--json`: one record, or a list of several."""
    if not as_json:
        _print_tables(results, name)
        return
    documents = [{"checkpoint": str(result.path), **result.record} for result in results]
    options.print_json({"students": documents} if several else documents[0])


def _print_tables(results: "list[Result]", name: str) -> None:
    """Print test accuracies. With a validation set, print those on it too; of several students only those."""
    validated = [one for one in (result.validated() for result in results) if one]
    if len(validated) < len(results):
        _print_accuracies(results, name, "Test accuracy", "accuracy")
    elif len(results) == 1:
        _print_accuracies(validated, name, "Validation accuracy", "val_accuracy", verdict=False)
        _print_accuracies(results, name, "Test accuracy", "accuracy")
    else:
        _print_accuracies(validated, name, "Validation accuracy", "val_accuracy")
        click.echo("Choose by validation accuracy; dive eval CHECKPOINT tests the one you choose.")


def _print_accuracies(results: "list[Result]", name: str, title: str, key: str, verdict: bool = True) -> None:
    """Print one table: the teacher, if its accuracy under `key` is recorded, and the students below it."""
    from dive.cli.tables import print_seeds, print_table, shot_table
    from dive.recipe.teachers import model_name, teachers_name, teachers_of
    from dive.training.evaluation import Accuracy

    teachers = teachers_of(results[0].record)
    rows = []
    if len(teachers) == 1 and key in teachers[0]:  # the accuracy of an ensemble's mean is not recorded
        rows.append((teachers_name(teachers), Accuracy(**teachers[0][key], per_class=())))
    gains = [result.accuracy.all - one.all for _, one in rows for result in results]
    several = len(results) > 1
    for result in results:
        label = model_name("student", result.record)
        rows.append((f"{label}, seed {result.record['seed']}" if several else label, result.accuracy))
    seed = "" if several else f", seed {results[0].record['seed']}"
    print_table(shot_table(f"{title} (%) after the last epoch, {name}{seed}", rows))
    print_seeds(results)
    if len(teachers) > 1:
        click.echo(f"Taught by an {teachers_name(teachers)}.")
    elif teachers and "accuracy" not in teachers[0]:
        click.echo(f"Taught by {teachers_name(teachers)}, whose accuracy is not recorded.")
    if gains and verdict:
        click.echo(_verdict(gains))


def _verdict(gains: list[float]) -> str:
    """How accurate the students are compared with their teacher, in a sentence."""
    from dive.cli.tables import percent

    if gains == [0.0]:
        return "The student is as accurate as its teacher."
    if len(gains) == 1:
        side = "above" if gains[0] > 0 else "below"
        return f"The student is {percent(abs(gains[0]))} points {side} its teacher."
    above = sum(gain > 0 for gain in gains)
    return (
        f"{above} of {len(gains)} students are above their teacher: "
        f"{100 * min(gains):+.2f} to {100 * max(gains):+.2f} points."
    )
