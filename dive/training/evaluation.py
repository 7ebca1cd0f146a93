"""Accuracy on the test set, by many, medium and few-shot classes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dive.data.longtail import SHOTS, Samples, shot_means
from dive.feeds.images import ViewedImages
from dive.recipe.recipe import Data
from dive.training.device import Runtime
from dive.views.crop_flip import CropFlip

BATCH = 500


@dataclass(frozen=True)
class Accuracy:
    """Top-1 accuracies, all in [0, 1].

    many, medium, few: the mean of their classes' accuracies, None where there is no such class.
    all: over images. class_mean: over classes. per_class: (C,).
    """

    many: float | None
    medium: float | None
    few: float | None
    all: float
    class_mean: float
    per_class: tuple[float, ...]

    def as_dict(self) -> dict[str, Any]:
        """The figures without the classes, as plain values."""
        return {key: getattr(self, key) for key in (*SHOTS, "all", "class_mean")}


def shot_accuracy(predictions: np.ndarray, labels: np.ndarray, training_counts: np.ndarray) -> Accuracy:
    """Accuracy of predicted labels (N,) against labels (N,); shots by training_counts (C,).

    Every class must occur in `labels`.
    """
    classes = len(training_counts)
    correct = np.bincount(labels[predictions == labels], minlength=classes)
    per_class = correct / np.bincount(labels, minlength=classes)
    return Accuracy(
        **shot_means(per_class, training_counts),
        all=float((predictions == labels).mean()),
        class_mean=float(per_class.mean()),
        per_class=tuple(per_class.tolist()),
    )


def predict(model: torch.nn.Module, samples: Samples, data: Data, device: torch.device) -> np.ndarray:
    """The class of the largest logit of each sample's clean view, (N,) int64; in fp32, eval mode."""
    height, width = samples.images.shape[1:3]
    images = ViewedImages(samples.images, CropFlip(0, False, height, width), data.mean, data.std, device)
    was_training = model.training
    model.eval()
    predicted = []
    with torch.inference_mode(), Runtime(device, "fp32").autocast():
        for rows in torch.arange(len(samples), device=device).split(BATCH):
            predicted.append(model(images.batch(rows, torch.zeros_like(rows))).argmax(dim=1))
    model.train(was_training)
    return torch.cat(predicted).cpu().numpy()


def evaluate(
    model: torch.nn.Module, test: Samples, training_counts: np.ndarray, data: Data, device: torch.device
) -> Accuracy:
    """The model's shot accuracy on test samples."""
    return shot_accuracy(predict(model, test, data, device), test.labels, training_counts)
