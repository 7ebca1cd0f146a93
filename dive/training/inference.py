"""A network over views in batches: what export, verification and evaluation all do."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch

from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.training.device import Runtime


class Viewer(Protocol):
    """What looks at views: a network, or what gives its features."""

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) that it looks at, of views of (H, W)."""

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Its answer (B, …) to views (B, channels, H, W) uint8."""


PIXELS = {"cpu": 256 * 32 * 32, "cuda": 2048 * 32 * 32}  # of the views in one forward pass


def batch_size(shape: tuple[int, int], device: torch.device, network: Viewer | None = None) -> int:
    """Views of (H, W) in one forward pass: fewer where they are larger, at most as many as of 32×32.

    network: that sees them, perhaps larger than they are.
    """
    pixels = max(height * width for height, width in (shape, network.sees(shape) if network else shape))
    return max(1, PIXELS[device.type] // max(pixels, 32 * 32))


def clean_plan(count: int, clean_id: int, size: int) -> Iterator[Batch]:
    """The clean view of each of `count` samples, in order, in batches of `size`."""
    rows = np.arange(count, dtype=np.int64)
    yield from Batch(rows, np.full_like(rows, clean_id), np.zeros_like(rows)).split(size)


@torch.inference_mode()
def outputs(
    network: Viewer, images: Images, plan: Iterable[Batch], runtime: Runtime
) -> Iterator[torch.Tensor]:
    """The network's answer (B, …) float32 to each batch of a plan, in order; on CUDA it is not waited for.

    The network must be in eval mode and on the runtime's device. No batch may be larger than `batch_size`
    gives for the views.
    """
    feed = images.feed(batch_size(images.space.shape, runtime.device))
    to_feed, here = itertools.tee(plan)
    feed.begin(to_feed)
    for batch in here:
        feed.load()
        places = (_on_device(index, runtime.device) for index in (batch.rows, batch.ids, batch.columns))
        with runtime.autocast():
            yield network(feed.batch(*places)).float()


def _on_device(index: np.ndarray, device: torch.device) -> torch.Tensor:
    given = torch.from_numpy(index)
    return given.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else given
