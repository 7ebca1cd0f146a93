"""Networks whose logits are averaged."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from dive.models.network import Network
from dive.models.prior import WithoutPrior


class Ensemble(nn.Module):
    """Several networks as one, which returns the mean of their logits. Each has its own preprocessing.

    networks: they must have the same classes and channels. Their architectures and inputs may differ, and
    some may be `WithoutPrior`. shares: the weight of each network in the mean; they sum to 1, and are equal
    by default.

    >>> from dive.models.network import Architecture
    >>> tiny = [Architecture(name, 10, 1, (0.3,), (0.4,)).build() for name in ("resnet8", "resnet14")]
    >>> Ensemble(tiny)(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
    torch.Size([2, 10])
    """

    def __init__(
        self, networks: Sequence[Network | WithoutPrior], shares: Sequence[float] | None = None
    ) -> None:
        super().__init__()
        self.shares = equal_shares(len(networks)) if shares is None else list(shares)
        if len(self.shares) != len(networks):
            raise ValueError(f"{len(networks)} networks have {len(self.shares)} shares")
        self.networks = tuple(networks)
        self._members = nn.ModuleList(networks)  # so that `eval`, `train` and `to` reach each network

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The largest (H, W), by area, at which one of the networks sees views of (H, W)."""
        return max((network.sees(shape) for network in self.networks), key=math.prod)

    def on(self, device: torch.device) -> "Ensemble":
        """The ensemble itself, moved to a device and to channels-last, in which convolutions are fastest."""
        for network in self.networks:
            network.on(device)
        return self

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """The mean (B, C), float32, of the networks' logits of views (B, channels, H, W) uint8."""
        both = zip(self.networks, self.shares, strict=True)
        return torch.stack([network(views).float() * share for network, share in both]).sum(dim=0)

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 on the device of the networks, for a trial pass."""
        return self.networks[0].blank(channels, shape, count)


# Whatever returns logits of views: one network, possibly without its prior, or an ensemble.
AnyNetwork = Network | WithoutPrior | Ensemble


def equal_shares(count: int) -> list[float]:
    """Equal weights of `count` networks in their mean."""
    return [1 / count] * count
