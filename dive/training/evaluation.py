"""Accuracy on the test or the validation set, by many, medium and few-shot classes."""

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

    many, medium, few: the mean accuracy of the classes of the group, None if it has no class with a test
    image. all: the mean over images. class_mean: the mean over classes. per_class: (C,), None for a class
    without test images; no mean includes such a class. group_confusion: the number of test images, by the
    group of their class (many, medium, few), then by the group of the predicted class; None if not known.
    """

    many: float | None
    medium: float | None
    few: float | None
    all: float
    class_mean: float
    per_class: tuple[float | None, ...]
    group_confusion: dict[str, dict[str, int]] | None = None

    def as_dict(self) -> dict[str, Any]:
        """The five mean accuracies, as plain values."""
        return {key: getattr(self, key) for key in (*SHOTS, "all", "class_mean")}


def shot_accuracy(predictions: np.ndarray, labels: np.ndarray, training_counts: np.ndarray) -> Accuracy:
    """Accuracy of predictions (N,) given labels (N,).

    training_counts: (C,) training images per class, which make a class many, medium or few-shot. A class that
    does not occur in `labels` has no accuracy and is left out of the means.
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
    """The number of test images, by the group of their class, then by the group of the predicted class.

    predictions, labels: (N,). training_counts: (C,). Groups are many, medium and few.
    """
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

    images: the test images, in the view space whose clean view is used. labels: (N,). training_counts: (C,)
    training images per class, which make a class many, medium or few-shot. ranks: the processes that share
    the test set; each must have the same network.
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

        Processes share whole batches, so that each image is in the batch in which a single process has it.
        Every process gets all predictions. Raises ModelError if a logit is not finite.
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
    """The class (B,) of the largest of logits (B, C), -1 for a row that has a value that is not finite."""
    return torch.where(torch.isfinite(logits).all(dim=1), logits.argmax(dim=1), -1)
