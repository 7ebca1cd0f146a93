"""A network that several processes train together, wrapped in torch's DistributedDataParallel (DDP).

Each process passes its share of a batch through the network. After the last pass of a batch, the gradients
are the mean over the processes. Before the first pass of a batch, all processes get the buffers (statistics
of batch norm) of the first process.
"""

import contextlib
import copy
from collections.abc import Iterator

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from dive.errors import ModelError
from dive.models.network import Network
from dive.models.registry import family_of
from dive.training.ranks import Ranks, lost_peers
from dive.training.spec import RunSpec

NO_SYNC = "model.sync_batchnorm needs CUDA: torch has no synchronised batch norm on a CPU"


def synchronise(network: Network, name: str, ranks: Ranks, device: torch.device) -> None:
    """Replace the batch norms of a network by ones that compute statistics over all processes.

    name: that of the network. With a single process nothing changes. Raises ModelError on a CPU, or if a
    batch norm does more than torch's and would lose this.
    """
    if device.type != "cuda":
        raise ModelError(NO_SYNC)
    if ranks.alone:
        return
    norms = {
        at: type(module) for at, module in network.body.named_modules() if isinstance(module, _BatchNorm)
    }
    network.body = family_of(name).synchronised(network.body)
    for at, kind in norms.items():
        plain = kind.forward in (_BatchNorm.forward, nn.SyncBatchNorm.forward)
        if not plain and type(network.body.get_submodule(at)) is nn.SyncBatchNorm:
            raise ModelError(
                f"model.sync_batchnorm is not for {name}: torch's synchronised batch norm would not do all "
                f"that its {kind.__name__} does ({at}); leave it out"
            )


def has_batch_norm(network: nn.Module) -> bool:
    """Whether a network has batch norm, whose result depends on the other samples of a pass."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


class SharedNetwork:
    """The network as a training step calls it: wrapped in DDP, or itself with a single process.

    Every process of a run creates it, calls `join`, and makes the same number of passes. Raises DiveError if
    the processes cannot exchange gradients.
    """

    def __init__(self, network: Network, ranks: Ranks, spec: RunSpec) -> None:
        self._network, self._spec, self._ranks = network, spec, ranks
        self._parallel: DistributedDataParallel | None = None
        self._unused = False
        if not ranks.alone:
            ranks.require_exchange(next(network.parameters()).device)
            with lost_peers():  # a synchronised batch norm communicates in this pass too
                self._unused = not _uses_every_parameter(network, self._blank(2))

    def join(self) -> None:
        """Copy weights and buffers of the first process; to be called once no buffer is added or removed."""
        if not self._ranks.alone:
            with lost_peers():
                self._parallel = DistributedDataParallel(self._network, find_unused_parameters=self._unused)

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of views (B, channels, H, W) uint8."""
        logits: torch.Tensor = (self._network if self._parallel is None else self._parallel)(views)
        return logits

    @contextlib.contextmanager
    def passing(self, last: bool) -> Iterator[None]:
        """The context of a forward and backward pass; raises PeerError if another process is gone.

        last: whether it is the last pass of a batch, after which gradients are averaged over processes.
        """
        if self._parallel is None:
            yield
            return
        kept = contextlib.nullcontext() if last else self._parallel.no_sync()
        with lost_peers(), kept:
            yield

    def pass_nothing(self) -> torch.Tensor:
        """A loss of 0, whose gradients are 0, for a process whose share of a batch is empty.

        The pass is over one blank view in eval mode, so that the statistics of batch norm do not change. With
        synchronised batch norm it is over zero views in training mode, because the batch norms of the other
        processes wait for those of this one.
        """
        synchronised = any(isinstance(module, nn.SyncBatchNorm) for module in self._network.modules())
        blank = self._blank(0 if synchronised else 1)
        training = self._network.training
        self._network.train(training and synchronised)
        try:
            return self(blank)[:0].sum()
        finally:
            self._network.train(training)

    def _blank(self, count: int) -> torch.Tensor:
        """Black views on the device of the network."""
        spec = self._spec
        return self._network.blank(spec.architecture.channels, spec.images.space.shape, count)


def _uses_every_parameter(network: Network, views: torch.Tensor) -> bool:
    """Whether a pass over views gives every trained parameter a gradient.

    A copy of the network makes the pass; the random state does not change.
    """
    trial = copy.deepcopy(network).train()
    devices = [views.device] if views.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trial(views).sum().backward()
    return all(p.grad is not None for p in trial.parameters() if p.requires_grad)
