"""Training a teacher with balanced softmax (as in the paper) or plain cross-entropy, on random views."""

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
    out: str | Path | None = None,
    options: TrainOptions = DEFAULT,
    progress: Progress = SILENT,
) -> Result:
    """Train the teacher of a recipe and write its checkpoint; returns the path, the record and the accuracy.

    An interrupted run is resumed. Processes that torchrun starts train the teacher together. If an error is
    raised, an earlier result is left as it was.

    recipe: the recipe; its part `student` is ignored.
    out: the checkpoint to write; None for checkpoints/<recipe>/teacher.pt.
    options: device, workers, evaluations and more, see `TrainOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        DataError: the images are missing, or one cannot be read.
        DiveError: the device does not exist, or TensorBoard is not installed.
        ModelError: the network cannot be built or trained, or its initial weights are missing or do not fit.
        OutputError: the checkpoint exists, cannot be written, or was begun by another run.
        TrainingError: the loss is not finite.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn", "schedule.epochs=1", "schedule.warmup_epochs=0",
    ...                           "schedule.milestones=[]")
    >>> result = dive.train_teacher(recipe, Path("teacher.pt"), dive.TrainOptions(device="cpu"))
    >>> result.path.exists(), 0 < result.accuracy.all < 1
    (True, True)
    """
    recipe = recipe.of_teacher
    place = Path(out) if out else checkpoint_of(recipe, "teacher")
    if options.tensorboard is not None:
        require_tensorboard()
    device = choose_device(options.device)
    with ranks_on(device) as ranks:
        require_same_task(ranks, [recipe], options)
        ranks.from_first(lambda: refuse_finished(place, options.force))
        require_known(recipe.model.name)
        with ranks.one_a_machine_first():
            dataset = load_dataset(recipe, progress, options.check_images and ranks.first_here)
        require_same_data(ranks, dataset)
        prepared = prepare(recipe, dataset, device, options.workers, ranks)
        warn_of_workers(prepared.images, options.workers, progress)
        trained = run([_spec(recipe, place, prepared)], prepared, options, progress)
    trained.require_all()
    return trained.results[0]


def _spec(recipe: Recipe, out: Path, prepared: Prepared) -> RunSpec:
    train_set, space = prepared.dataset.train, prepared.images.space
    initial = initial_of(recipe)
    wanted = recipe.teacher
    facts = {"loss": wanted.loss} | initial_facts(initial)
    objective = OF_LABELS[wanted.loss].for_counts(train_set.counts, wanted.label_smoothing)
    return spec_of(recipe, "teacher", out, prepared, objective, FreeViews(space), facts, initial)
