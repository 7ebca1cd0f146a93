"""A network whose logits follow the class sizes that it was trained on, and its logits without these."""

import torch
from torch import nn

from dive.models.network import Network


class WithoutPrior(nn.Module):
    """A network's logits less log n, with n the class sizes that it was trained on.

    Plain cross-entropy on a long-tailed set teaches a network p(y) p(x | y), whose logarithm has log n in it;
    balanced softmax (Ren et al. 2020) teaches logits that have not.

    class_counts: (C,) n, at least 1 each.

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
        """The (H, W) that the network looks at, of views of (H, W)."""
        return self.network.sees(shape)

    def on(self, device: torch.device) -> "WithoutPrior":
        """It on a device, in the memory layout that convolutions are fastest in."""
        self.network.on(device)
        return self.to(device)

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C), float32, without the prior, of views (B, channels, H, W) uint8."""
        logits: torch.Tensor = self.network(views).float() - self.log_prior
        return logits

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 where the network is, to try it on."""
        return self.network.blank(channels, shape, count)
