"""Photographs a second: our feed against torchvision's ImageFolder, DataLoader and the same transforms.

It also measures how long a small network waits for them, and the memory that they take. The photographs are
smooth noise of 500×375 pixels as JPEGs, which takes as long to decode as real ones.
"""

from collections.abc import Iterator
from pathlib import Path
from time import perf_counter

import numpy as np
import torch
from torch.utils.data import DataLoader
from torchvision import models, transforms
from torchvision.datasets import ImageFolder

from benchmarks.measure import Figure, interleaved
from benchmarks.memory import after_epochs, write_pictures
from dive.data.longtail import Samples, untouched_test
from dive.data.reading import Reading
from dive.data.sources.folder import open_folder
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.progress import SILENT
from dive.views.resized_crop import ResizedCrop

WORKERS, BATCH, SIZE = 2, 32, 224
JITTER = (0.4, 0.4, 0.4, 0.0)
CPU = torch.device("cpu")


def photographs(folder: Path, full: bool) -> Iterator[Figure]:
    """Photographs per second, decoded and augmented, with the same number of workers."""
    count = 512 if full else 192
    root = folder / "photographs"
    write_pictures(root, count, (500, 375))
    samples = untouched_test(open_folder(root), Reading(None, True, folder / "index.npz", False, SILENT))
    space = ResizedCrop(None, SIZE, (0.08, 1.0), (3 / 4, 4 / 3), True, JITTER)
    feed = Images(samples.pictures, space, CPU, WORKERS).feed(BATCH)
    rows = np.arange(count)
    epoch = iter(range(1_000_000))

    def ours() -> None:
        plan = list(Batch(rows, rows + 1 + count * next(epoch), np.zeros_like(rows)).split(BATCH))
        feed.begin(plan)
        for batch in plan:
            feed.load()
            feed.batch(*(torch.from_numpy(index) for index in (batch.rows, batch.ids, batch.columns)))

    made = transforms.Compose(
        [
            transforms.RandomResizedCrop(SIZE),
            transforms.RandomHorizontalFlip(),
            transforms.ColorJitter(*JITTER),
            transforms.PILToTensor(),
        ]
    )
    loader = DataLoader(
        ImageFolder(str(root / "test"), made),
        batch_size=BATCH,
        num_workers=WORKERS,
        persistent_workers=True,
        prefetch_factor=4,
        multiprocessing_context="forkserver",
    )

    def theirs() -> None:
        for _ in loader:
            pass

    times = interleaved({"ours": ours, "torchvision": theirs}, rounds=7)
    yield Figure(
        "photographs a second, ours / ImageFolder + DataLoader",
        times.ratio("torchvision", "ours"),
        at_least=1.0,
        seconds=times.medians(),
    )
    yield Figure("photographs a second", count / times.median("ours"))
    yield Figure("share of a ResNet-18's step at 64 pixels spent waiting for photographs", _waiting(samples))
    few, many = 500, 2000
    memory = [list(after_epochs(folder, number, WORKERS)) for number in (50, few, many)]  # 50: not compared
    for epoch in (1, 2):
        more = (memory[2][epoch - 1] - memory[1][epoch - 1]) / (many - few)
        yield Figure(f"memory of one more photograph after epoch {epoch}", more / 1000, "kB", at_most=3)


def _waiting(samples: Samples) -> float:
    """The share of an epoch's time that training a small network waits for batches."""
    feed = Images(
        samples.pictures, ResizedCrop(None, 64, (0.08, 1.0), (3 / 4, 4 / 3), True, JITTER), CPU, WORKERS
    )
    streamed, network = feed.feed(BATCH), models.resnet18(num_classes=2)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    rows = np.arange(len(samples.pictures))
    plan = list(Batch(rows, rows + 1, np.zeros_like(rows)).split(BATCH))
    for _ in range(2):  # the workers start in the first
        streamed.begin(plan)
        start = perf_counter()
        for batch in plan:
            streamed.load()
            views = streamed.batch(
                *(torch.from_numpy(index) for index in (batch.rows, batch.ids, batch.columns))
            )
            optimizer.zero_grad()
            labels = torch.from_numpy(samples.labels[batch.rows])
            torch.nn.functional.cross_entropy(network(views.float() / 255), labels).backward()
            optimizer.step()
        whole = perf_counter() - start
    return (streamed.waited or 0.0) / whole
