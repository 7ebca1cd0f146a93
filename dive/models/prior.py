"""A network without the class prior that it learned from the sizes of its training classes."""

import torch
from torch import nn

from dive.models.network import Network


class WithoutPrior(nn.Module):
    """A network whose logits are taken minus log n, where n are the sizes of its training classes.

    Plain cross-entropy on a long-tailed set teaches a network p(y) p(x | y), whose logarithm contains log n.
    The logits of a network trained with balanced softmax (Ren et al. 2020) do not contain it.

    class_counts: (C,), n, at least 1 each.

    >>> from dive.models.network import Architecture
    >>> tiny = Architecture("resnet8", 3, 1, (0.3,), (0.4,)).build().eval()
    >>> views = torch.zeros(1, 1, 8, 8, dtype=torch.uint8)
    >>> (tiny(views) - WithoutPrior(tiny, torch.tensor([100, 10, 1]))(views)).exp().round()
    tensor([[100.,  10.,   1.]], grad_fn=<RoundBackward0>)
    """

    log_prior: torch.Tensor

    def __init__(self, network: Network, class_counts: torch.Tensor) -> None:
        super().__init__()
        self.network = network
        self.register_buffer("log_prior", class_counts.double().log().float(), persistent=False)

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) at which the network sees views of (H, W)."""
        return self.network.sees(shape)

    def on(self, device: torch.device) -> "WithoutPrior":
        """The network itself, moved to a device and to channels-last, in which convolutions are fastest."""
        self.network.on(device)
        return self.to(device)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C), float32, without the prior, of views (B, channels, H, W) uint8."""
        logits: torch.Tensor = self.network(views).float() - self.log_prior
        return logits

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 on the device of the network, for a trial pass."""
        return self.network.blank(channels, shape, count)
