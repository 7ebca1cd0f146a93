"""Accuracy on the test set or on that for validation, by many, medium and few-shot classes."""

import itertools
import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dive.data.longtail import shot_groups, shot_means
from dive.errors import ModelError
from dive.feeds.images import Images
from dive.models.network import Network
from dive.recipe.shots import SHOTS
from dive.training.device import Runtime
from dive.training.inference import batch_size, clean_plan, outputs
from dive.training.ranks import ALONE, Ranks
from dive.training.schedule import share_of


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracies, all in [0, 1].

    many, medium, few: the mean of their classes' accuracies, None where there is no such class.
    all: over images. class_mean: over classes. per_class: (C,), None for a class without a test image, which
    no mean counts. group_confusion: test images of a group's classes (many, medium, few) by the group of the
    class that was predicted, None where that is not known.
    """

    many: float | None
    medium: float | None
    few: float | None
    all: float
    class_mean: float
    per_class: tuple[float | None, ...]
    group_confusion: dict[str, dict[str, int]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The figures without the classes, as plain values."""
        return {key: getattr(self, key) for key in (*SHOTS, "all", "class_mean")}


def shot_accuracy(predictions: np.ndarray, labels: np.ndarray, training_counts: np.ndarray) -> Accuracy:
    """Accuracy of predicted labels (N,) against labels (N,); shots by training_counts (C,).

    A class that does not occur in `labels` has no accuracy and is left out of the means.
    """
    classes = len(training_counts)
    correct = np.bincount(labels[predictions == labels], minlength=classes)
    tested = np.bincount(labels, minlength=classes)
    present = np.flatnonzero(tested)
    of_present = correct[present] / tested[present]
    per_class: list[float | None] = [None] * classes
    for label, share in zip(present.tolist(), of_present.tolist(), strict=True):
        per_class[label] = share
    return Accuracy(
        **shot_means(of_present, np.asarray(training_counts)[present]),
        all=float((predictions == labels).mean()),
        class_mean=float(of_present.mean()),
        per_class=tuple(per_class),
        group_confusion=group_confusion(predictions, labels, training_counts),
    )


def group_confusion(
    predictions: np.ndarray, labels: np.ndarray, training_counts: np.ndarray
) -> dict[str, dict[str, int]]:
    """Test images (N,) by the group of their class, then by the group of the class predicted."""
    groups = shot_groups(training_counts)
    of_class = np.empty(len(training_counts), dtype=np.int64)
    for place, shot in enumerate(SHOTS):
        of_class[groups[shot]] = place
    pairs = of_class[labels] * len(SHOTS) + of_class[predictions]
    counted = np.bincount(pairs, minlength=len(SHOTS) ** 2).reshape(len(SHOTS), -1).tolist()
    return {shot: dict(zip(SHOTS, row, strict=True)) for shot, row in zip(SHOTS, counted, strict=True)}


@dataclass(frozen=True)
class Evaluator:
    """Measures networks on one test set, which is prepared once.

    images: the test pictures, in the space of the clean view. labels: (N,). training_counts: (C,), by which
    classes are many, medium or few. ranks: processes that share the test set; each has the same network.
    """

    images: Images
    labels: np.ndarray
    training_counts: np.ndarray
    device: torch.device
    ranks: Ranks = ALONE

    def __call__(self, network: Network) -> Accuracy:
        """The network's accuracy on the clean view of each test image, in fp32."""
        return shot_accuracy(self.predict(network), self.labels, self.training_counts)

    def predict(self, network: Network) -> np.ndarray:
        """The class of the largest logit of each test image, (N,) int64; in fp32, eval mode.

        Processes share whole batches, so that each image is in the batch that one process has it in. Raises
        ModelError where a logit is not finite.
        """
        space, count = self.images.space, len(self.images)
        size = batch_size(space.shape, self.device, network)
        share = share_of(math.ceil(count / size), self.ranks.rank, self.ranks.size)
        plan = itertools.islice(clean_plan(count, space.clean_id, size), share.start, share.stop)
        was_training = network.training
        network.eval()
        runtime = Runtime(self.device, "fp32")
        predicted = [_largest(logits) for logits in outputs(network, self.images, plan, runtime)]
        network.train(was_training)
        classes = torch.zeros(count, dtype=torch.int64)
        if predicted:
            here = torch.cat(predicted).cpu()
            classes[share.start * size :][: len(here)] = here
        found = self.ranks.sum(classes)
        if unsound := int((found < 0).sum()):
            raise ModelError(
                f"the network's logits of {unsound} of {count} images are not finite: its training diverged; "
                "a smaller optimizer.lr may help"
            )
        return found.numpy()


def _largest(logits: torch.Tensor) -> torch.Tensor:
    """The class (B,) of the largest of logits (B, C), -1 where one of them is not finite."""
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)
