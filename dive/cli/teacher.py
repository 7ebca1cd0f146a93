"""`dive teacher`."""

from pathlib import Path

import click

from dive.cli import options
from dive.workflows.places import checkpoint_of


@click.command("teacher")
@click.option(
    "--loss",
    type=click.Choice(["bsce", "ce"]),
    help="Balanced softmax (default) or cross-entropy.",
)
@click.option(
    "--epochs",
    type=options.EPOCHS,
    metavar="N",
    help="Train for N epochs; warm-up and milestones are scaled to N.",
)
@click.option("--out", type=options.FILE, help="Checkpoint to write [checkpoints/<recipe>/teacher.pt].")
@options.apply(
    options.eval_every,
    options.config,
    options.assignments,
    options.data,
    options.device,
    options.precision,
    options.seed,
    options.workers,
    options.check_images,
    options.tensorboard,
    options.as_json,
    options.quiet,
    options.force,
)
def command(
    loss: str | None,
    epochs: int | None,
    out: Path | None,
    eval_every: int,
    config: Path | None,
    assignments: tuple[str, ...],
    data: str | None,
    device: str,
    precision: str | None,
    seed: int | None,
    workers: int | None,
    check_images: bool,
    tensorboard: Path | None,
    as_json: bool,
    quiet: bool,
    force: bool,
) -> None:
    """Train the teacher.

    At the end, the accuracy of the last epoch is shown; nothing is selected on the test set. A stopped run
    resumes when it is started again.

    Under torchrun, the processes train the teacher together (docs/distributed.md).

    \b
    Example:
      dive teacher --config cifar100_lt/bbn --seed 1 --out teacher-s1.pt
    """
    recipe = options.read_recipe(
        config,
        assignments,
        epochs=epochs,
        data__root=data,
        precision=precision,
        seed=seed,
        teacher__loss=loss,
    )
    from dive.cli.tables import print_table, shot_table
    from dive.recipe.teachers import model_name
    from dive.workflows.results import TrainOptions
    from dive.workflows.teacher import train_teacher

    training = TrainOptions(device, force, eval_every, workers, check_images, tensorboard)
    result = train_teacher(recipe, out or checkpoint_of(recipe, "teacher"), training, options.reporter(quiet))
    if as_json:
        options.print_json({"checkpoint": str(result.path), **result.record})
    else:
        name, run = model_name("teacher", result.record), f"{recipe.name}, seed {recipe.seed}"
        if validated := result.validated():
            print_table(
                shot_table(
                    f"Validation accuracy (%) after the last epoch, {run}", [(name, validated.accuracy)]
                )
            )
        print_table(shot_table(f"Test accuracy (%) after the last epoch, {run}", [(name, result.accuracy)]))
