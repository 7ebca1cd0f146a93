"""A network with its input: uint8 views go in, logits come out."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dive.models.registry import build_model


@dataclass(frozen=True)
class Architecture:
    """What a network is besides its weights: all that rebuilding one needs.

    name: in the registry. classes: C. channels: of its input. size: the side in pixels that its input is
    resized to, None for as it comes. mean, std: per channel, for pixels in [0, 1].
    """

    name: str
    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """It in plain values, as records and caches hold it."""
        document = asdict(self)
        parts = {"size": self.size, "mean": list(self.mean), "std": list(self.std)}
        return {key: document[key] for key in ("name", "classes", "channels")} | {"input": parts}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Architecture":
        """The architecture that `as_dict` gave."""
        given = document["input"]
        named = (document["name"], document["classes"], document["channels"])
        return cls(*named, tuple(given["mean"]), tuple(given["std"]), given["size"])

    def build(self, seed: int = 0) -> "Network":
        """The network, its weights drawn from `seed` alone.

        >>> tiny = Architecture("resnet8", classes=10, channels=1, mean=(0.3,), std=(0.4,))
        >>> tiny.build()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 10])
        """
        body = build_model(self.name, self.classes, self.channels, seed)
        return Network(body, self.mean, self.std, self.size)


class Network(nn.Module):
    """A network that takes views as pictures have them: (B, channels, H, W) uint8 to logits (B, C).

    body: the bare network, which takes normalised views; its `state_dict()` is what a checkpoint holds.
    """

    _scale: torch.Tensor
    _shift: torch.Tensor

    def __init__(
        self, body: nn.Module, mean: Sequence[float], std: Sequence[float], size: int | None = None
    ) -> None:
        super().__init__()
        self.body, self.size = body, size
        scale = 255 * torch.tensor(std, dtype=torch.float32)
        shift = -255 * torch.tensor(mean, dtype=torch.float32) / scale
        self.register_buffer("_scale", (1 / scale)[:, None, None], persistent=False)
        self.register_buffer("_shift", shift[:, None, None], persistent=False)

    def on(self, device: torch.device) -> "Network":
        """It on a device, in the memory layout that convolutions are fastest in."""
        return self.to(device).to(memory_format=torch.channels_last)

    def normalised(self, views: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8 as the body takes them, float32; raises TypeError of others."""
        if views.dtype != torch.uint8:
            raise TypeError(
                f"views are uint8 pixels, these are {views.dtype}; a network's body takes normalised ones"
            )
        pixels = views.float()
        if self.size is not None and views.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        return pixels * self._scale + self._shift

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of views (B, channels, H, W) uint8."""
        return self.body(self.normalised(views))
