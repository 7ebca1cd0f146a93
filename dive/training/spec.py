"""The specification of a training run, as values."""

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
    """The specification of a run: which network it trains, on what data, with which objective, to which file.

    kind: `teacher` or `student`. out: the checkpoint to write. seed: that of initialisation, sample order,
    views and dropout. precision: `auto`, `fp32`, `tf32` or `bf16`. labels: (N,) int64 on the device. hashes:
    (N,) uint64, the hashes of the samples' keys, from which random choices are made. views: draws the view of
    each sample in an epoch. initial: the weights that the network begins with, None for random ones from the
    seed. teacher: the cached logits that the objective uses, None if it uses none. sync_batchnorm: whether
    batch norm computes statistics over all processes. recipe: the whole recipe as plain values, for the
    record. identity: plain values that must be equal for a stopped run to be resumed. facts: further values
    for its record. reads: files that it reads and must not replace.
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
        """The number of steps of an epoch."""
        return steps_per_epoch(len(self.hashes), self.schedule.batch_size)

    @property
    def last_batch(self) -> int:
        """The number of samples in the last batch of an epoch, which is the smallest."""
        return batch_of(self.steps_per_epoch - 1, len(self.hashes), self.schedule.batch_size)

    def parts(self, step: int) -> tuple[int, ...]:
        """The sizes of the parts in which the batch of step `step` (from 0) of an epoch is processed."""
        batch = batch_of(step, len(self.hashes), self.schedule.batch_size)
        return parts_of(batch, self.schedule.accumulate)

    def shares(self, step: int, rank: int, size: int) -> tuple[slice, ...]:
        """The share of each of these parts for process `rank` of `size`: positions in the epoch's order."""
        start, shares = step * self.schedule.batch_size, []
        for part in self.parts(step):
            share = share_of(part, rank, size)
            shares.append(slice(start + share.start, start + share.stop))
            start += part
        return tuple(shares)

    def largest_share(self, size: int = 1) -> int:
        """The largest number of samples in a share of a part of a batch, which is one pass of the network."""
        return math.ceil(max(self.parts(0)) / size)

    def smallest_share(self, size: int = 1) -> int:
        """The smallest number of samples in a share of a part of a batch that is not empty."""
        sizes = {*self.parts(0), *self.parts(self.steps_per_epoch - 1)}
        return min(max(1, part // size) for part in sizes)

    @property
    def epochs(self) -> int:
        """The number of epochs of the whole run."""
        return epochs_of(self.schedule, self.steps_per_epoch)
