"""Training a teacher: balanced softmax (the paper's) or plain cross-entropy, freely augmented."""

import torch

from dive import losses
from dive.dataset import load_dataset
from dive.device import choose_device
from dive.progress import Progress
from dive.recipe import Recipe
from dive.run import Lesson, Order, Result, run
from dive.training import Journal, Loss
from dive.views import FreeViews


def train_teacher(recipe: Recipe, order: Order, progress: Progress) -> Result:
    """Train the recipe's teacher and write it to `order.out`.

    Raises DataError, OutputError or TrainingError; an earlier result stays as it was.
    """
    Journal(order.out).refuse_finished(order.force)
    device = choose_device(order.device)
    dataset = load_dataset(recipe, progress)
    return run(_lesson(recipe), recipe, dataset, order, device, progress)


def _lesson(recipe: Recipe) -> Lesson:
    def make_loss(log_counts: torch.Tensor, labels: torch.Tensor) -> Loss:
        if recipe.teacher.loss == "ce":
            return lambda logits, rows, _: losses.cross_entropy(logits, labels[rows])
        return lambda logits, rows, _: losses.balanced_softmax(logits, labels[rows], log_counts)

    return Lesson(kind="teacher", views=FreeViews, make_loss=make_loss, facts={"loss": recipe.teacher.loss})
