"""Memory of a process and its descendants while it streams photographs."""

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from dive.data.longtail import untouched_test
from dive.data.reading import Reading
from dive.data.sources.folder import open_folder
from dive.feeds.feed import Batch, ImageFeed
from dive.feeds.images import Images
from dive.progress import SILENT
from dive.views.resized_crop import ResizedCrop

BATCH, SIZE = 32, 64
WIDTH, HEIGHT = 200, 150  # of the photographs
_OWN = ("Pss_Anon:", "Pss_Shmem:")


def taken() -> int:
    """Bytes of memory of this process and its descendants; shared memory is counted once.

    Pages of files are left out, because their share depends on which other programs map the same libraries.
    """
    parents: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                stat = (entry / "stat").read_text()
            except OSError:  # it has ended
                continue
            parents.setdefault(int(stat.rpartition(")")[2].split()[1]), []).append(int(entry.name))
    waiting, total = [os.getpid()], 0
    while waiting:
        pid = waiting.pop()
        waiting += parents.get(pid, [])
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith(_OWN))
    return total


def write_pictures(root: Path, count: int, size: tuple[int, int]) -> None:
    """Write an image folder of `count` test JPEGs, `size` wide and high, and one training image per class."""
    rng = np.random.default_rng(0)
    for split, number in (("train", 2), ("test", count)):
        for i in range(number):
            small = rng.integers(0, 256, (12, 16, 3), dtype=np.uint8)
            place = root / split / f"class {i % 2}" / f"{i:05d}.jpg"
            place.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(small).resize(size, Image.Resampling.BICUBIC).save(place, quality=92)


def after_epochs(folder: Path, count: int, workers: int, epochs: int = 2) -> Iterator[int]:
    """Bytes of memory after each epoch of streaming `count` photographs of 200×150 pixels through a feed."""
    root = folder / f"{count} photographs"
    write_pictures(root, count, (WIDTH, HEIGHT))
    reading = Reading(None, True, folder / f"{count}.npz", False, SILENT)
    pictures = untouched_test(open_folder(root), reading).pictures
    space = ResizedCrop(None, SIZE, (0.08, 1.0), (3 / 4, 4 / 3), True, (0.4, 0.4, 0.4, 0.0))
    feed = Images(pictures, space, torch.device("cpu"), workers).feed(BATCH)
    for epoch in range(epochs):
        _go_through(feed, count, epoch)
        yield taken()


def _go_through(feed: ImageFeed, count: int, epoch: int) -> None:
    rows = np.arange(count)
    plan = list(Batch(rows, rows + 1 + count * epoch, np.zeros_like(rows)).split(BATCH))
    feed.begin(plan)
    for batch in plan:
        feed.load()
        feed.batch(*(torch.from_numpy(index) for index in (batch.rows, batch.ids, batch.columns)))
