"""A network over views in batches: what export, verification and evaluation all do."""

import itertools
from collections.abc import Iterable, Iterator

import numpy as np
import torch

from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.models.network import Network
from dive.training.device import Runtime

PIXELS = {"cpu": 256 * 32 * 32, "cuda": 2048 * 32 * 32}  # of the views in one forward pass


def batch_size(shape: tuple[int, int], device: torch.device, network: Network | None = None) -> int:
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
    network: Network, images: Images, plan: Iterable[Batch], runtime: Runtime
) -> Iterator[torch.Tensor]:
    """The network's logits (B, C) float32 of each batch of a plan, in order; on CUDA they are not waited for.

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
