"""Training written out plainly: what `dive` must agree with on the digits.

NumPy pads and crops, the loss is written from its formula, the update is torch's own unfused SGD.
Shared with dive are the network, its initial weights, and the order and choice of views.
"""

from collections.abc import Callable

import numpy as np
import torch

from dive.data.longtail import Samples
from dive.models.registry import build_model
from dive.progress import Progress
from dive.randomness import epoch_choice, epoch_order
from dive.recipe.recipe import Recipe
from dive.workflows.data import load_dataset

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]


def training_samples(recipe: Recipe) -> Samples:
    """The recipe's training samples."""
    return load_dataset(recipe, Progress(quiet=True)).train


def rendered(images: np.ndarray, ids: np.ndarray, recipe: Recipe) -> torch.Tensor:
    """Views `ids` (B,) of images (B, 8, 8, 1), normalised, (B, 1, 8, 8) float32; padded by one, no flip."""
    assert recipe.views.pad == 1 and not recipe.views.flip
    padded = np.pad(images[..., 0], ((0, 0), (1, 1), (1, 1)))
    places = [(view // 3, view % 3) for view in ids.tolist()]
    crops = [image[dy : dy + 8, dx : dx + 8] for image, (dy, dx) in zip(padded, places, strict=True)]
    pixels = np.stack(crops)[:, None].astype(np.float64) / 255
    return torch.from_numpy((pixels - recipe.model.input.mean[0]) / recipe.model.input.std[0]).float()


def balanced_softmax(logits: torch.Tensor, labels: torch.Tensor, counts: np.ndarray) -> torch.Tensor:
    """-log of n_y e^{s_y} / Σ n_c e^{s_c}, (B,), in float64."""
    weighted = torch.from_numpy(counts).double() * logits.double().exp()
    return -(weighted[torch.arange(len(labels)), labels] / weighted.sum(1)).log()


def distilled(
    student: torch.Tensor, teacher: torch.Tensor, tau: float, power: float, student_tau: float
) -> torch.Tensor:
    """KL(softmax(z/τ)^p, normalised again ‖ softmax(s/τ_student)), (B,), in float64."""
    target = torch.softmax(teacher.double() / tau, 1) ** power
    target = target / target.sum(1, keepdim=True)
    said = torch.softmax(student.double() / student_tau, 1)
    return (target * (target / said).log()).sum(1)


def rate_of(step: int, per_epoch: int, recipe: Recipe) -> float:
    """lr · min(1, (step+1)/warm-up), times gamma for each milestone reached."""
    o, s = recipe.optimizer, recipe.schedule
    rate = o.lr
    if s.warmup_epochs:
        rate *= min(1, (step + 1) / (s.warmup_epochs * per_epoch))
    for milestone in s.milestones:
        rate *= s.gamma if step >= milestone * per_epoch else 1
    return rate


def train(recipe: Recipe, loss_of: Loss) -> list[dict[str, float]]:
    """Loss and training accuracy of each epoch, and the last learning rate.

    loss_of: student's logits (B, C), rows (B,) and views (B, 1, 8, 8) to the loss of each example.
    """
    samples = training_samples(recipe)
    labels = torch.from_numpy(samples.labels)
    model = build_model(recipe.model.name, len(samples.classes), 1, recipe.seed).train()
    o, size = recipe.optimizer, recipe.schedule.batch_size
    optimizer = torch.optim.SGD(
        model.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, foreach=False
    )
    step, epochs = 0, []
    for epoch in range(1, recipe.schedule.epochs + 1):
        order = epoch_order(recipe.seed, epoch, samples.hashes)
        ids = epoch_choice(recipe.seed, epoch, samples.hashes, 9)
        total, correct = 0.0, 0
        batches = [order[i : i + size] for i in range(0, len(order), size)]
        for rows in batches:
            optimizer.param_groups[0]["lr"] = rate_of(step, len(batches), recipe)
            views = rendered(samples.pictures.held[rows], ids[rows], recipe)
            logits = model(views)
            losses = loss_of(logits, torch.from_numpy(rows), views)
            optimizer.zero_grad()
            losses.mean().backward()
            optimizer.step()
            total += losses.sum().item()
            correct += int((logits.argmax(1) == labels[rows]).sum())
            step += 1
        epochs.append(
            {
                "loss": total / len(order),
                "train_accuracy": correct / len(order),
                "lr": optimizer.param_groups[0]["lr"],
            }
        )
    return epochs
