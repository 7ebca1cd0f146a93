"""What benchmarks run on: images, teacher and cache in the shape of CIFAR-100-LT at imbalance 100.

The contents are random: speed does not depend on them, and nothing needs to be downloaded.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import torch

from dive.cache.encodings.codec import Head
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, Content
from dive.data.longtail import Samples, class_counts
from dive.data.pictures import DIGEST_BYTES, HeldPictures
from dive.feeds.feed import Batch, Feed, ImageFeed
from dive.feeds.images import Images
from dive.feeds.logits import CachedLogits, StreamedLogits
from dive.method.objectives import BalancedSoftmaxLoss, DiVELoss
from dive.models.network import Network
from dive.randomness import epoch_order
from dive.recipe.recipe import Recipe
from dive.training.device import Runtime, device_name
from dive.training.precision import choose_precision
from dive.training.spec import RunSpec
from dive.training.step import Inputs
from dive.versions import versions
from dive.views.crop_flip import CropFlip
from dive.views.draw import StoredViews
from dive.views.registry import view_space
from dive.workflows.results import architecture_of

CLASSES = 100
HEAD = Head(
    np.random.default_rng(1).standard_normal((CLASSES, 64), dtype=np.float32), np.zeros(CLASSES, np.float32)
)


class RememberedViews:
    """A feed of views that keeps the last batch, so that an online teacher sees the same views."""

    last: torch.Tensor

    def __init__(self, feed: ImageFeed) -> None:
        self._feed = feed

    @property
    def waited(self) -> float | None:
        """Seconds that the device waited for views, None if the images are on the device."""
        return self._feed.waited

    def begin(self, plan: Iterable[Batch]) -> None:
        """Start a plan."""
        self._feed.begin(plan)

    def load(self) -> None:
        """Make the next batch ready."""
        self._feed.load()

    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8."""
        self.last = self._feed.batch(rows, ids, columns)
        return self.last


@dataclass
class OnlineTeacher:
    """A feed of logits that runs the teacher instead of reading a cache: a forward pass for every batch."""

    network: Network
    views: RememberedViews
    runtime: Runtime

    def begin(self, plan: Iterable[Batch]) -> None:
        """Nothing to prepare."""

    def load(self) -> None:
        """Nothing to load."""

    @torch.no_grad()
    def batch(self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
        """The teacher's logits (B, C) of the views that the student has just been given."""
        with self.runtime.autocast():
            return self.network(self.views.last)


@dataclass(frozen=True)
class Student:
    """A student before its first step."""

    spec: RunSpec
    network: Network
    inputs: Inputs


class Scene:
    """Images, teacher and all-views cache, of every `share`-th sample of CIFAR-100-LT."""

    def __init__(self, folder: Path, device: torch.device, share: int = 1) -> None:
        self.folder, self.device, self.recipe = folder, device, Recipe()
        labels = np.repeat(np.arange(CLASSES), class_counts(500, 100, CLASSES))[::share]
        shape = (len(labels), 32, 32, 3)
        pixels = np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)
        self.samples = Samples(
            keys=[f"{label}/{i}.png" for i, label in enumerate(labels)],
            labels=labels,
            pictures=HeldPictures(pixels),
            digests=np.zeros((len(labels), DIGEST_BYTES), np.uint8),
            classes=tuple(f"class {c}" for c in range(CLASSES)),
        )
        self.counts = np.maximum(self.samples.counts, 1)
        views = self.recipe.views
        self.space: CropFlip = view_space(views.kind, shape[1:3], **views.keys())
        self.images = Images(self.samples.pictures, self.space, device)
        self.labels = torch.from_numpy(labels).to(device)
        self.views = np.tile(np.arange(self.space.size, dtype=np.int32), (len(labels), 1))
        self.place = np.arange(len(labels))
        self._stored: dict[str, LogitCache] = {}

    def network(self, seed: int = 0) -> Network:
        """A ResNet-32 in the memory layout of training."""
        made = architecture_of(self.recipe, self.samples).build(seed)
        return made.to(self.device, memory_format=torch.channels_last)

    @cached_property
    def runtime(self) -> Runtime:
        """The precision that `auto` chooses on a real batch."""
        rows = epoch_order(0, 1, self.samples.hashes)[:128]
        here = Batch(rows, np.full_like(rows, self.space.clean_id), np.zeros_like(rows))
        labels, objective = self.labels[torch.from_numpy(rows)], BalancedSoftmaxLoss(self.counts)
        objective = objective.to(self.device)
        return choose_precision(
            "auto",
            self.device,
            self.network(),
            self.batches([here])[0],
            lambda logits: objective(logits, labels),
        )

    def batches(self, plan: list[Batch]) -> list[torch.Tensor]:
        """The views (B, channels, H, W) uint8 of the batches of a plan, on the device."""
        feed = self.images.feed(max(map(len, plan)))
        feed.begin(plan)
        made = []
        for batch in plan:
            feed.load()
            places = (torch.from_numpy(index).to(self.device) for index in vars(batch).values())
            made.append(feed.batch(*places))
        return made

    def content(self, samples: int | None = None, store: str = "float16") -> Content:
        """The content of an all-views cache of the first samples, without its rows."""
        n = len(self.samples) if samples is None else samples
        return Content(
            views=self.views[:n],
            labels=self.samples.labels[:n],
            keys=self.samples.keys[:n],
            digests=self.samples.digests[:n],
            classes=self.samples.classes,
            class_counts=np.bincount(self.samples.labels[:n], minlength=CLASSES),
            store=store,
            identity={"scene": "random"},
            facts={"clean_id": self.space.clean_id},
            head=HEAD if ENCODINGS[store].of_features else None,
        )

    @cached_property
    def cache(self) -> LogitCache:
        """An all-views cache of random logits."""
        return write_cache(self.folder / "scene.h5", self.content())

    def stored_cache(self, store: str) -> LogitCache:
        """An all-views cache of random rows in an encoding."""
        if store not in self._stored:
            path = self.folder / f"scene-{store}.h5"
            self._stored[store] = write_cache(path, self.content(store=store))
        return self._stored[store]

    @cached_property
    def logits(self) -> CachedLogits:
        """The cache's logits for the device; they are on it if they fit."""
        return CachedLogits(self.cache, self.place, self.device)

    def student(
        self, source: str | None, recipe: Recipe | None = None, out: Path = Path("student.pt")
    ) -> Student:
        """A student, which without a source trains on the labels alone.

        source: where the teacher's logits come from: `cache` (resident), `streamed`, `online`, or the name of
        an encoding, for a resident cache in it.
        """
        recipe = recipe or self.recipe
        d, size = recipe.distillation, recipe.schedule.batch_size
        distilled = DiVELoss(self.counts, d.tau, d.power, d.weight, d.student_tau)
        spec = RunSpec(
            kind="student",
            out=out,
            seed=recipe.seed,
            architecture=architecture_of(recipe, self.samples),
            optimizer=recipe.optimizer,
            schedule=recipe.schedule,
            precision=self.runtime.precision,
            objective=BalancedSoftmaxLoss(self.counts) if source is None else distilled,
            images=self.images,
            labels=self.labels,
            hashes=self.samples.hashes,
            views=StoredViews(self.views),
            recipe=recipe.as_dict(),
            identity={"kind": "student"},
            facts={},
            teacher=None if source is None else self.logits,
        )
        views = RememberedViews(self.images.feed(size))
        more = () if source is None else (self._logits_of(source, views, size),)
        return Student(spec, self.network(recipe.seed), Inputs(views, self.labels, more))

    def _logits_of(self, source: str, views: RememberedViews, size: int) -> Feed:
        if source == "online":
            return OnlineTeacher(self.network(1).eval(), views, self.runtime)
        if source == "streamed":
            return StreamedLogits(self.cache, self.place, size, self.device)
        if source in ENCODINGS:
            return CachedLogits(self.stored_cache(source), self.place, self.device).feed(size)
        assert self.logits.resident, "the cache of the scene does not fit on the device"
        return self.logits.feed(size)


def content_of_one_view(samples: int, classes: int, store: str, head: Head | None = None) -> Content:
    """The content of a cache of one view of each sample, with classes of nearly equal size."""
    labels = np.sort(np.arange(samples) % classes)
    return Content(
        views=np.zeros((samples, 1), np.int32),
        labels=labels,
        keys=[f"{label}/{i}" for i, label in enumerate(labels)],
        digests=np.zeros((samples, DIGEST_BYTES), np.uint8),
        classes=tuple(map(str, range(classes))),
        class_counts=np.bincount(labels, minlength=classes),
        store=store,
        identity={"scene": "random"},
        facts={"clean_id": 0},
        head=head,
    )


def write_cache(path: Path, content: Content) -> LogitCache:
    """Write a cache whose blocks are all filled from one random block."""
    _, v, _ = content.shape
    path.unlink(missing_ok=True)
    with CacheWriter(path, content) as writer:
        rows = writer.rows(0).stop
        block = np.random.default_rng(0).standard_normal((rows, v, content.codec.width), dtype=np.float32) * 3
        for number in range(writer.blocks):
            part = writer.rows(number)
            writer.write(number, block[: part.stop - part.start])
        writer.finish()
    return LogitCache(path)


def machine(runtime: Runtime | None = None) -> dict[str, str]:
    """Facts on the machine, for the table of what was measured on it."""
    facts = dict(_machine(runtime))
    return facts | {name: version for name, version in versions().items() if name in ("torch", "numpy")}


def _machine(runtime: Runtime | None) -> Iterator[tuple[str, str]]:
    yield "on", device_name(torch.device("cpu") if runtime is None else runtime.device)
    if runtime is not None:
        yield "precision", runtime.precision
