"""The common way to train a DiVE student: PIL transforms, a DataLoader, the teacher run in each step, fp32.

It follows the published repositories of the field, and includes what costs nothing: workers that persist
between epochs, and a teacher in eval mode and without gradients.
"""

import numpy as np
import torch
from PIL import Image
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from dive.models.registry import build_model
from dive.recipe.recipe import Recipe

WORKERS = 2


class _Images(Dataset):
    """Images (N, H, W, 3) uint8, each transformed by PIL."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, recipe: Recipe) -> None:
        self._images, self._labels = images, labels
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(32, padding=4),
                transforms.RandomHorizontalFlip(),
                transforms.ToTensor(),
                transforms.Normalize(recipe.model.input.mean, recipe.model.input.std),
            ]
        )

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, row: int) -> tuple[torch.Tensor, int]:
        return self._transform(Image.fromarray(self._images[row])), int(self._labels[row])


class CommonWay:
    """A student and its teacher; each call trains for an epoch."""

    def __init__(self, images: np.ndarray, labels: np.ndarray, counts: np.ndarray, recipe: Recipe) -> None:
        size = recipe.schedule.batch_size
        self._loader = DataLoader(
            _Images(images, labels, recipe),
            batch_size=size,
            shuffle=True,
            num_workers=WORKERS,
            persistent_workers=True,
        )
        classes, o = len(counts), recipe.optimizer
        self._student = build_model(recipe.model.name, classes, 3, 0)
        self._teacher = build_model(recipe.model.name, classes, 3, 1).eval()
        self._log_counts = torch.from_numpy(np.log(np.maximum(counts, 1))).float()
        self._optimizer = torch.optim.SGD(
            self._student.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay
        )
        self._distillation = recipe.distillation

    def __call__(self) -> None:
        """Train for one epoch."""
        d = self._distillation
        self._student.train()
        for images, labels in self._loader:
            with torch.no_grad():
                target = F.softmax(self._teacher(images) / d.tau, dim=1) ** d.power
                target = target / target.sum(dim=1, keepdim=True)
            logits = self._student(images)
            labelled = F.cross_entropy(logits + self._log_counts, labels)
            distilled = F.kl_div(F.log_softmax(logits / d.tau, dim=1), target, reduction="batchmean")
            loss = (1 - d.weight) * labelled + d.weight * d.tau**2 * distilled
            self._optimizer.zero_grad()
            loss.backward()
            self._optimizer.step()
            loss.item()  # read in each step, as the progress lines of these repositories do
