"""Photographs a second: our feed against torchvision's ImageFolder, DataLoader and the same transforms.

The pictures are made up: smooth noise of 500×375 pixels as JPEGs, which cost what photographs cost to decode.
"""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch.utils.data import DataLoader
from torchvision import transforms
from torchvision.datasets import ImageFolder

from benchmarks.measure import Figure, interleaved
from dive.data.longtail import untouched_test
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
    """Decoded and viewed pictures a second, by the same number of workers."""
    count = 512 if full else 192
    root = _write(folder / "photographs", count)
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


def _write(root: Path, count: int) -> Path:
    """An image folder of JPEGs; the training part is one picture a class, for the layout's sake."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 2), ("test", count)):
        for i in range(number):
            small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            place = root / split / f"class {i % 2}" / f"{i:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(small).resize((500, 375), Image.Resampling.BICUBIC).save(place, quality=92)
    return root
