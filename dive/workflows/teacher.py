"""Training a teacher: balanced softmax (the paper's) or plain cross-entropy, freely augmented."""

from pathlib import Path

import torch

from dive.data.dataset import load_dataset
from dive.method import losses
from dive.progress import Progress
from dive.recipe.recipe import Recipe
from dive.training.device import choose_device
from dive.training.journal import Journal
from dive.training.step import Loss
from dive.views.draw import FreeViews
from dive.workflows.lesson import Lesson, Order, Result
from dive.workflows.run import run


def train_teacher(recipe: Recipe, out: Path, order: Order, progress: Progress) -> Result:
    """Train the recipe's teacher and write it to `out`.

    Raises DataError, OutputError or TrainingError; an earlier result stays as it was.
    """
    Journal(out).refuse_finished(order.force)
    device = choose_device(order.device)
    dataset = load_dataset(recipe, progress)
    trained = run([_lesson(recipe, out)], dataset, order, device, progress)
    trained.require_all()
    return trained.results[0]


def _lesson(recipe: Recipe, out: Path) -> Lesson:
    def make_loss(log_counts: torch.Tensor) -> Loss:
        if recipe.teacher.loss == "ce":
            return lambda logits, labels, _: losses.cross_entropy(logits, labels)
        return lambda logits, labels, _: losses.balanced_softmax(logits, labels, log_counts)

    return Lesson(
        kind="teacher",
        recipe=recipe,
        out=out,
        views=FreeViews,
        teacher=None,
        make_loss=make_loss,
        facts={"loss": recipe.teacher.loss},
    )
