"""A network that several processes train together: torch's DistributedDataParallel around it.

Each process passes its share of a batch; the gradients that the last pass of a batch leaves are the mean over
the processes. Buffers (batch norm's statistics) are the first process's at the begin of each pass.
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
    """Let batch norm take its statistics over the batches of all processes. name: of the network.

    Raises ModelError on a CPU, and where a batch norm would lose what it does besides. One process has these
    statistics already.
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
    """Whether a network has batch norm, whose statistics are of what one process sees at once."""
    return any(isinstance(module, _BatchNorm) for module in network.modules())


class SharedNetwork:
    """A network as the step of a process calls it; the network itself where the process is alone.

    Every process of a run makes it, joins the others, and goes through equally many passes. Raises DiveError
    where the processes cannot bring gradients together.
    """

    def __init__(self, network: Network, ranks: Ranks, spec: RunSpec) -> None:
        self._network, self._spec, self._ranks = network, spec, ranks
        self._parallel: DistributedDataParallel | None = None
        self._unused = False
        if not ranks.alone:
            ranks.require_exchange(next(network.parameters()).device)
            with lost_peers():  # batch norm that is synchronised meets the others in any pass
                self._unused = not _uses_every_parameter(network, self._blank(2))

    def join(self) -> None:
        """Take the weights and buffers of the first process; to be called when the buffers are settled."""
        if not self._ranks.alone:
            with lost_peers():
                self._parallel = DistributedDataParallel(self._network, find_unused_parameters=self._unused)

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of views (B, channels, H, W) uint8."""
        logits: torch.Tensor = (self._network if self._parallel is None else self._parallel)(views)
        return logits

    @contextlib.contextmanager
    def passing(self, last: bool) -> Iterator[None]:
        """The context of a pass forward and back; `last`: whether gradients are brought together at its end.

        Raises PeerError where another process is gone.
        """
        if self._parallel is None:
            yield
            return
        kept = contextlib.nullcontext() if last else self._parallel.no_sync()
        with lost_peers(), kept:
            yield

    def pass_nothing(self) -> torch.Tensor:
        """A loss of 0 without an example, for a process whose share of a batch is empty.

        Its gradients are 0. Batch norm's statistics stay as they are; where they are synchronised, the pass
        is over no view at all, as the other processes' batch norms wait for this one's.
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
        """Black views, where the network is."""
        spec = self._spec
        return self._network.blank(spec.architecture.channels, spec.images.space.shape, count)


def _uses_every_parameter(network: Network, views: torch.Tensor) -> bool:
    """Whether a pass over views leaves a gradient on every parameter that is trained.

    A copy makes it; the random state stays as it was.
    """
    trial = copy.deepcopy(network).train()
    devices = [views.device] if views.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        trial(views).sum().backward()
    return all(p.grad is not None for p in trial.parameters() if p.requires_grad)
