"""Training a teacher: balanced softmax (the paper's) or plain cross-entropy, freely augmented."""

from pathlib import Path

from dive.method.objectives import OF_LABELS
from dive.models.registry import require_known
from dive.progress import SILENT, Progress
from dive.recipe.recipe import Recipe
from dive.training.device import choose_device
from dive.training.ranks import ranks_on
from dive.training.spec import RunSpec
from dive.training.tensorboard import require_tensorboard
from dive.views.draw import FreeViews
from dive.workflows.data import load_dataset, warn_of_workers
from dive.workflows.places import checkpoint_of
from dive.workflows.prepared import Prepared, prepare, spec_of
from dive.workflows.results import (
    DEFAULT,
    Result,
    TrainOptions,
    initial_facts,
    initial_of,
)
from dive.workflows.run import refuse_finished, run
from dive.workflows.together import require_same_data, require_same_task


def train_teacher(
    recipe: Recipe,
    out: Path | None = None,
    options: TrainOptions = DEFAULT,
    progress: Progress = SILENT,
) -> Result:
    """Train the recipe's teacher and write it to `out`, or to checkpoints/<recipe>/teacher.pt.

    The recipe's part `student` has no influence. A run that was stopped is resumed. Raises DataError,
    OutputError or TrainingError; an earlier result stays as it was. Processes that torchrun started train it
    together.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn", "schedule.epochs=1", "schedule.warmup_epochs=0",
    ...                           "schedule.milestones=[]")
    >>> result = dive.train_teacher(recipe, Path("teacher.pt"), dive.TrainOptions(device="cpu"))
    >>> result.path.exists(), 0 < result.accuracy.all < 1
    (True, True)
    """
    recipe = recipe.of_teacher
    out = out or checkpoint_of(recipe, "teacher")
    if options.tensorboard is not None:
        require_tensorboard()
    device = choose_device(options.device)
    with ranks_on(device) as ranks:
        require_same_task(ranks, [recipe], options)
        ranks.from_first(lambda: refuse_finished(out, options.force))
        require_known(recipe.model.name)
        with ranks.one_a_machine_first():
            dataset = load_dataset(recipe, progress, options.check_images and ranks.first_here)
        require_same_data(ranks, dataset)
        prepared = prepare(recipe, dataset, device, options.workers, ranks)
        warn_of_workers(prepared.images, options.workers, progress)
        trained = run([_spec(recipe, out, prepared)], prepared, options, progress)
    trained.require_all()
    return trained.results[0]


def _spec(recipe: Recipe, out: Path, prepared: Prepared) -> RunSpec:
    train_set, space = prepared.dataset.train, prepared.images.space
    initial = initial_of(recipe)
    wanted = recipe.teacher
    facts = {"loss": wanted.loss} | initial_facts(initial)
    objective = OF_LABELS[wanted.loss].for_counts(train_set.counts, wanted.label_smoothing)
    return spec_of(recipe, "teacher", out, prepared, objective, FreeViews(space), facts, initial)
