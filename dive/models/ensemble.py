"""Networks whose logits are averaged."""

import math
from collections.abc import Sequence

import torch
from torch import nn

from dive.models.network import Network
from dive.models.prior import WithoutPrior


class Ensemble(nn.Module):
    """Networks with one answer, the mean of their logits; each sees the views through its own input.

    networks: of the same classes and channels; their architectures and inputs may differ, and some may be
    without their prior. shares: the weight of each in the mean, their sum is 1; equal if not given.

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
        self._members = nn.ModuleList(networks)  # so that a mode and a device reach each of them

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The largest (H, W) that a network looks at, of views of (H, W)."""
        return max((network.sees(shape) for network in self.networks), key=math.prod)

    def on(self, device: torch.device) -> "Ensemble":
        """It on a device, in the memory layout that convolutions are fastest in."""
        for network in self.networks:
            network.on(device)
        return self

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """The mean (B, C), float32, of the networks' logits of views (B, channels, H, W) uint8."""
        both = zip(self.networks, self.shares, strict=True)
        return torch.stack([network(views).float() * share for network, share in both]).sum(dim=0)

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 where the networks are, to try them on."""
        return self.networks[0].blank(channels, shape, count)


# What gives logits of views: one network, perhaps without its prior, or several.
AnyNetwork = Network | WithoutPrior | Ensemble


def equal_shares(count: int) -> list[float]:
    """The weights of so many networks in their mean."""
    return [1 / count] * count
