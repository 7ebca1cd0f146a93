"""Runs a network over views in batches, for export, verification and evaluation."""

import itertools
from collections.abc import Iterable, Iterator
from typing import Protocol

import numpy as np
import torch

from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.training.device import Runtime


class Viewer(Protocol):
    """A function of views: a network, or the part of it that computes features."""

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) to which it resizes views of (H, W)."""

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Its output (B, …) for views (B, channels, H, W) uint8."""


PIXELS = {"cpu": 256 * 32 * 32, "cuda": 2048 * 32 * 32}  # of all views in one forward pass


def batch_size(shape: tuple[int, int], device: torch.device, network: Viewer | None = None) -> int:
    """The number of views of (H, W) in one forward pass: fewer if they are larger, at most that of 32×32.

    network: the network that sees them, if known, since it may resize them to a larger size.
    """
    pixels = max(height * width for height, width in (shape, network.sees(shape) if network else shape))
    return max(1, PIXELS[device.type] // max(pixels, 32 * 32))


def clean_plan(count: int, clean_id: int, size: int) -> Iterator[Batch]:
    """A plan of the clean view of each of `count` samples, in order, in batches of `size`."""
    rows = np.arange(count, dtype=np.int64)
    yield from Batch(rows, np.full_like(rows, clean_id), np.zeros_like(rows)).split(size)


@torch.inference_mode()
def outputs(
    network: Viewer, images: Images, plan: Iterable[Batch], runtime: Runtime
) -> Iterator[torch.Tensor]:
    """Yields the network's output (B, …) float32 for each batch of a plan, in order.

    It does not wait for CUDA. The network must be in eval mode and on the runtime's device. No batch may be
    larger than what `batch_size` returns for the shape of the views and the device.
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
