"""A network with its input: uint8 views go in, logits come out."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from dive.errors import ModelError
from dive.models.registry import build_model
from dive.printable import printable, shortened

SIZES = "model.input.size sets the size that it sees, views.size that of the pictures"
ALONE = "the last batch of an epoch has one: change schedule.batch_size"


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

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) that the body looks at, of views of (H, W)."""
        return shape if self.size is None else (self.size, self.size)

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
        return self.standardised(pixels)

    def standardised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, channels, H, W) float32 in [0, 255], at the size that the body sees, by mean and std."""
        return pixels * self._scale + self._shift

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of views (B, channels, H, W) uint8."""
        return self.body(self.normalised(views))

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 where the network is, to try it on."""
        return torch.zeros(count, channels, *shape, dtype=torch.uint8, device=self._scale.device)


def require_trainable(
    network: Network,
    architecture: Architecture,
    shape: tuple[int, int],
    smallest: int = 2,
    advice: str = ALONE,
) -> None:
    """Raise ModelError unless the network gives logits of views of (H, W) in training, and can be saved.

    smallest: views in the smallest batch, or part of one; batch norm may not take one alone. advice: what to
    do then. A copy makes one pass over two black views, or one; the network and the random state stay as they
    were.
    """
    name = architecture.name
    if fault := _fault_of_state(network.body):
        raise ModelError(f"{name} {fault}")
    views = network.blank(architecture.channels, shape, min(2, smallest))
    try:
        trial = copy.deepcopy(network).train()
    except Exception as error:  # of any network, which may do anything
        raise ModelError(f"{name} cannot be copied ({_said(error)})") from error
    require_logits(trial, architecture, views, advice if smallest == 1 else SIZES)


def require_logits(
    network: Network, architecture: Architecture, views: torch.Tensor, advice: str = SIZES
) -> None:
    """Raise ModelError unless the network, in the mode it is in, gives logits of views.

    views: (B, channels, H, W) uint8. advice: what to do where it fails. It makes one pass over them; the
    random state stays as it was.
    """
    name = architecture.name
    seen = "×".join(map(str, network.sees((views.shape[2], views.shape[3]))))
    devices = [views.device] if views.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            logits = network(views)
        except Exception as error:  # of any network, which may do anything
            raise ModelError(
                f"{name} does not take {len(views)} view{'s' * (len(views) > 1)} of "
                f"{architecture.channels}×{seen} ({_said(error)}); {advice}"
            ) from error
    wanted = (len(views), architecture.classes)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(f"{name} must give logits, a tensor {wanted}, not a {type(logits).__name__}")
    if tuple(logits.shape) != wanted or not logits.is_floating_point():
        told = f"{tuple(logits.shape)} of {logits.dtype}"
        raise ModelError(f"{name} must give logits {wanted} for {wanted[0]} views, not {told}")


def _said(error: Exception) -> str:
    return shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 200)


def _fault_of_state(body: nn.Module) -> str:
    """Why a checkpoint could not hold a network; an empty text where it can."""
    if not any(parameter.requires_grad for parameter in body.parameters()):
        return "has nothing to train: no parameter requires a gradient"
    for tensor_name, value in body.state_dict().items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
            return f"cannot be saved: {tensor_name} in its state dict is no dense tensor"
        if nn.parameter.is_lazy(value):
            return f"has a lazy parameter, {tensor_name}: give it its size"
    return ""
