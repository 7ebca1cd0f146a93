"""`dive student`."""

from pathlib import Path

import click

from dive.commands import options


class TauType(click.ParamType):
    """A temperature, or `auto`."""

    name = "tau"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> float | str:
        if value == "auto":
            return "auto"
        try:
            return float(value)
        except ValueError:
            self.fail(f"{value!r} is neither a number nor auto", param, ctx)


@click.command("student")
@click.option("--cache", type=options.FILE, help="Logit cache to train from [cache/<recipe>.h5].")
@click.option("--tau", type=TauType(), metavar="T|auto", help="Teacher temperature; auto tunes τ and p [3].")
@click.option("--power", type=float, metavar="P", help="Power normalisation of the target [0.5].")
@click.option("--student-tau", type=float, metavar="T", help="The student's own temperature [the teacher's].")
@click.option("--weight", type=float, metavar="W", help="Weight of distillation against the labels [0.5].")
@click.option("--free-views", is_flag=True, help="With a one-view cache: augment freely over its logits.")
@click.option("--fixed-view", is_flag=True, help="With a one-view cache: train on that view alone.")
@click.option(
    "--epochs",
    type=click.IntRange(1),
    metavar="N",
    help="Train for N epochs; warm-up and milestones keep their share of them.",
)
@click.option("--out", type=options.FILE, help="Checkpoint to write [checkpoints/<recipe>/student.pt].")
@options.apply(
    options.eval_every,
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.precision,
    options.seed,
    options.as_json,
    options.quiet,
    options.force,
)
def command(
    cache: Path | None,
    tau: float | str | None,
    power: float | None,
    student_tau: float | None,
    weight: float | None,
    free_views: bool,
    fixed_view: bool,
    epochs: int | None,
    out: Path | None,
    eval_every: int,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    precision: str | None,
    seed: int | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Train a student from the cache alone.

    The loss is (1-w)·BSCE + w·τ²·KL against the teacher's cached logits, flattened by τ and p; the
    views are drawn from those the cache holds. Started again after a stop, it goes on by itself.
    """
    auto = tau == "auto"
    if auto and power is not None:
        raise click.UsageError("--tau auto chooses the power too: leave --power out")
    recipe = options.read_recipe(
        config,
        assignments,
        epochs=epochs,
        data__path=data,
        precision=precision,
        seed=seed,
        distillation__tau=None if auto else tau,
        distillation__power=power,
        distillation__student_tau=student_tau,
        distillation__weight=weight,
    )
    from dive.evaluation import Accuracy
    from dive.run import Order
    from dive.student import Distill, train_student
    from dive.tables import model_name, percent, print_table, shot_table

    distill = Distill(cache or options.default_cache(recipe), auto, free_views, fixed_view)
    order = Order(out or options.default_checkpoint(recipe, "student"), device, force, eval_every)
    result = train_student(recipe, distill, order, options.reporter(quiet))
    if as_json:
        options.print_json({"checkpoint": str(result.path), **result.record})
        return
    teacher = result.record["teacher"]
    rows = [
        (model_name(teacher["kind"], teacher), Accuracy(**teacher["accuracy"], per_class=())),
        (model_name("student", result.record), result.accuracy),
    ]
    title = f"Test accuracy (%) after the last epoch, {recipe.name}, seed {recipe.seed}"
    print_table(shot_table(title, rows))
    gain = result.accuracy.all - rows[0][1].all
    click.echo(f"The student is {percent(abs(gain))} points {'above' if gain >= 0 else 'below'} its teacher.")
