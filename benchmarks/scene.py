"""What is measured on: images, teacher and cache of CIFAR-100-LT's shape at imbalance 100.

The contents are random: speed does not depend on them, and nothing needs to be downloaded.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, Content
from dive.data.longtail import Samples, class_counts
from dive.feeds.images import ViewedImages
from dive.feeds.teacher_logits import ResidentLogits, StreamedLogits, TeacherLogits
from dive.method import losses
from dive.models.registry import build_model
from dive.randomness import epoch_order
from dive.recipe.recipe import Recipe
from dive.training.device import Runtime, choose_precision, device_name
from dive.training.step import Loss, Task
from dive.versions import versions
from dive.views.crop_flip import CropFlip
from dive.views.draw import StoredViews
from dive.views.registry import view_space

CLASSES = 100


class RememberedImages(ViewedImages):
    """Images that keep the last batch, so that an online teacher sees it without rendering it again."""

    last: torch.Tensor

    def batch(self, rows: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
        """Normalised views, (B, channels, H, W) float32."""
        self.last = super().batch(rows, ids)
        return self.last


@dataclass
class OnlineTeacher:
    """The teacher itself in the place of its cache: a forward pass for every batch."""

    model: torch.nn.Module
    images: RememberedImages
    runtime: Runtime

    def begin(self, rows: np.ndarray, columns: np.ndarray) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    @torch.no_grad()
    def batch(self, rows: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The teacher's logits (B, C) of the views the student has just been given."""
        with self.runtime.autocast():
            return self.model(self.images.last)


class Scene:
    """Images, teacher and all-views cache; every `share`-th sample of CIFAR-100-LT's number."""

    def __init__(self, folder: Path, device: torch.device, share: int = 1) -> None:
        self.folder, self.device, self.recipe = folder, device, Recipe()
        labels = np.repeat(np.arange(CLASSES), class_counts(500, 100, CLASSES))[::share]
        shape = (len(labels), 32, 32, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        keys = [f"{label}/{i}.png" for i, label in enumerate(labels)]
        self.samples = Samples(keys, labels, pixels, tuple(f"class {c}" for c in range(CLASSES)))
        self.space: CropFlip = view_space(self.recipe.views, shape[1:])
        self.labels = torch.from_numpy(labels).to(device)
        self.log_counts = torch.from_numpy(np.log(np.maximum(self.samples.counts, 1))).float().to(device)
        self.views = np.tile(np.arange(self.space.size, dtype=np.int32), (len(labels), 1))
        self.place = np.arange(len(labels))

    def model(self, seed: int = 0) -> torch.nn.Module:
        """A ResNet-32 in the memory layout of training."""
        made = build_model(self.recipe.model.name, CLASSES, 3, seed)
        return made.to(self.device, memory_format=torch.channels_last)

    @cached_property
    def images(self) -> RememberedImages:
        """The images on the device."""
        data = self.recipe.data
        return RememberedImages(self.samples.images, self.space, data.mean, data.std, self.device)

    @cached_property
    def runtime(self) -> Runtime:
        """The precision that `auto` chooses on a real batch."""
        rows = torch.from_numpy(epoch_order(0, 1, self.samples.hashes)[:128]).to(self.device)
        batch = self.images.batch(rows, torch.full_like(rows, self.space.clean_id))
        loss = lambda logits: losses.balanced_softmax(logits, self.labels[rows], self.log_counts)  # noqa: E731
        return choose_precision("auto", self.device, self.model(), batch, loss)

    def content(self, samples: int | None = None) -> Content:
        """What an all-views cache of the first samples holds besides its logits."""
        n = len(self.samples) if samples is None else samples
        return Content(
            views=self.views[:n],
            labels=self.samples.labels[:n],
            keys=self.samples.keys[:n],
            pixel_digests=self.samples.pixel_digests[:n],
            classes=self.samples.classes,
            class_counts=np.bincount(self.samples.labels[:n], minlength=CLASSES),
            dtype="float16",
            identity={"scene": "random"},
            facts={"clean id": self.space.clean_id},
        )

    @cached_property
    def cache(self) -> LogitCache:
        """An all-views cache of random logits."""
        return write_cache(self.folder / "scene.h5", self.content())

    def resident(self) -> TeacherLogits:
        """The cache on the device."""
        return ResidentLogits(
            torch.from_numpy(self.cache.logits).to(self.device), torch.from_numpy(self.place).to(self.device)
        )

    def streamed(self) -> TeacherLogits:
        """The cache streamed from its file."""
        size = self.recipe.schedule.batch_size
        return StreamedLogits(self.cache.logits, self.place, size, self.device)

    def online(self) -> TeacherLogits:
        """The teacher in the place of its cache."""
        return OnlineTeacher(self.model(1).eval(), self.images, self.runtime)

    def task(self, teacher: TeacherLogits | None, recipe: Recipe | None = None) -> Task:
        """A student's task, or without a teacher that of training on the labels alone."""
        recipe = recipe or self.recipe
        return Task(
            recipe=recipe,
            identity={"kind": "student"},
            model=self.model(recipe.seed),
            images=self.images,
            labels=self.labels,
            hashes=self.samples.hashes,
            views=StoredViews(self.views),
            teacher=teacher,
            loss=self._loss(recipe),
        )

    def _loss(self, recipe: Recipe) -> Loss:
        d = recipe.distillation

        def loss(logits: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
            if teacher is None:
                return losses.balanced_softmax(logits, labels, self.log_counts)
            return losses.dive(
                logits,
                labels,
                teacher,
                self.log_counts,
                tau=d.tau,
                power=d.power,
                student_tau=d.tau,
                weight=d.weight,
            )

        return loss


def write_cache(path: Path, content: Content) -> LogitCache:
    """A cache of random logits: one random block, with which all are filled."""
    n, v, c = content.shape
    path.unlink(missing_ok=True)
    with CacheWriter(path, content) as writer:
        rows = writer.rows(0).stop
        block = np.random.default_rng(0).standard_normal((rows, v, c), dtype=np.float32) * 3
        for number in range(writer.blocks):
            part = writer.rows(number)
            writer.write(number, block[: part.stop - part.start])
        writer.finish()
    return LogitCache(path)


def machine(runtime: Runtime | None = None) -> dict[str, str]:
    """What a table has to say of where it was measured."""
    facts = dict(_machine(runtime))
    return facts | {name: version for name, version in versions().items() if name in ("torch", "numpy")}


def _machine(runtime: Runtime | None) -> Iterator[tuple[str, str]]:
    yield "on", device_name(torch.device("cpu") if runtime is None else runtime.device)
    if runtime is not None:
        yield "precision", runtime.precision
