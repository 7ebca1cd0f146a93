"""What a training run is to do, in values: nothing here is computed yet."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dive.feeds.images import Images
from dive.feeds.logits import CachedLogits
from dive.method.objectives import Objective
from dive.models.network import Architecture
from dive.models.weights import InitialWeights
from dive.recipe.training import Optimizer, Schedule
from dive.training.schedule import batch_of, epochs_of, parts_of, share_of, steps_per_epoch


class ViewDraw(Protocol):
    """Draws a view of every sample for an epoch (see `dive.views.draw`)."""

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns, each (N,) int64."""


@dataclass(frozen=True)
class RunSpec:
    """What a run is to do: which network it trains, on what, with which objective, and where to.

    kind: `teacher` or `student`. out: the checkpoint to write. seed: of initialisation, sample order and
    views. precision: `auto` or one by name. labels: (N,) int64 on the device. hashes: (N,) uint64, the
    samples' random identities. initial: the weights that the network begins with, None for those that its
    seed draws. teacher: the cached logits that the objective takes, None where it takes none.
    sync_batchnorm: whether batch norm takes its statistics over the batches of all processes.
    recipe: the whole of it in plain values, for the record. identity: plain values that must be equal for a
    stopped run to be resumed. facts: what its record tells besides. reads: files that it reads and must not
    replace.
    """

    kind: str
    out: Path
    seed: int
    architecture: Architecture
    optimizer: Optimizer
    schedule: Schedule
    precision: str
    objective: Objective
    images: Images
    labels: torch.Tensor
    hashes: np.ndarray
    views: ViewDraw
    recipe: dict[str, Any]
    identity: dict[str, Any]
    facts: dict[str, Any]
    teacher: CachedLogits | None = None
    sync_batchnorm: bool = False
    initial: InitialWeights | None = None
    reads: tuple[Path, ...] = ()

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(len(self.hashes), self.schedule.batch_size)

    @property
    def last_batch(self) -> int:
        """Samples in the last batch of an epoch, the smallest."""
        return batch_of(self.steps_per_epoch - 1, len(self.hashes), self.schedule.batch_size)

    def parts(self, step: int) -> tuple[int, ...]:
        """Sizes of the parts that the batch of step `step` (from 0) of an epoch is gone through in."""
        batch = batch_of(step, len(self.hashes), self.schedule.batch_size)
        return parts_of(batch, self.schedule.accumulate)

    def shares(self, step: int, rank: int, size: int) -> tuple[slice, ...]:
        """The share of each of these parts that process `rank` of `size` goes through, within the epoch."""
        start, shares = step * self.schedule.batch_size, []
        for part in self.parts(step):
            share = share_of(part, rank, size)
            shares.append(slice(start + share.start, start + share.stop))
            start += part
        return tuple(shares)

    def largest_share(self, size: int = 1) -> int:
        """Samples in the largest share of a part of a batch: what the network sees at once."""
        return math.ceil(max(self.parts(0)) / size)

    def smallest_share(self, size: int = 1) -> int:
        """Samples in the smallest share of a part of a batch that is not empty."""
        sizes = {*self.parts(0), *self.parts(self.steps_per_epoch - 1)}
        return min(max(1, part // size) for part in sizes)

    @property
    def epochs(self) -> int:
        """Epochs of the whole run."""
        return epochs_of(self.schedule, self.steps_per_epoch)
