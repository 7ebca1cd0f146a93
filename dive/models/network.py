"""A network with its preprocessing: uint8 views in, logits out."""

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

SIZES = "model.input.size sets the size that it sees, views.size that of the images"
ALONE = "the last batch of an epoch has only one image: change schedule.batch_size"


@dataclass(frozen=True)
class Architecture:
    """All that is needed to rebuild a network, except its weights.

    name: its name in the registry. classes: C. channels: those of its input. size: the side in pixels to
    which views are resized; None keeps their size. mean, std: the normalisation per channel, for pixels in
    [0, 1].
    """

    name: str
    classes: int
    channels: int
    mean: tuple[float, ...]
    std: tuple[float, ...]
    size: int | None = None

    def as_dict(self) -> dict[str, Any]:
        """The architecture as plain values, the form in which records and caches store it."""
        document = asdict(self)
        parts = {"size": self.size, "mean": list(self.mean), "std": list(self.std)}
        return {key: document[key] for key in ("name", "classes", "channels")} | {"input": parts}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "Architecture":
        """The architecture from the plain values that `as_dict` returns."""
        given = document["input"]
        named = (document["name"], document["classes"], document["channels"])
        return cls(*named, tuple(given["mean"]), tuple(given["std"]), given["size"])

    def build(self, seed: int = 0) -> "Network":
        """The network, with weights that are initialised from `seed` alone.

        >>> tiny = Architecture("resnet8", classes=10, channels=1, mean=(0.3,), std=(0.4,))
        >>> tiny.build()(torch.zeros(2, 1, 8, 8, dtype=torch.uint8)).shape
        torch.Size([2, 10])
        """
        body = build_model(self.name, self.classes, self.channels, seed)
        return Network(body, self.mean, self.std, self.size)


class Network(nn.Module):
    """A network that takes views (B, channels, H, W) uint8 and returns logits (B, C).

    It resizes views to `size` pixels a side (None keeps their size) and normalises them. body: the network
    without this preprocessing; a checkpoint holds its `state_dict()`.
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
        """The (H, W) at which the body sees views of (H, W)."""
        return shape if self.size is None else (self.size, self.size)

    def on(self, device: torch.device) -> "Network":
        """The network itself, moved to a device and to channels-last, in which convolutions are fastest."""
        return self.to(device).to(memory_format=torch.channels_last)

    def normalised(self, views: torch.Tensor) -> torch.Tensor:
        """Views (B, channels, H, W) uint8 resized and normalised for the body, float32.

        Raises TypeError if the views are not uint8.
        """
        if views.dtype != torch.uint8:
            raise TypeError(
                f"views are uint8 pixels, these are {views.dtype}; normalised views are for a network's body"
            )
        pixels = views.float()
        if self.size is not None and views.shape[-2:] != (self.size, self.size):
            pixels = F.interpolate(pixels, (self.size, self.size), mode="bilinear", antialias=True)
        return self.standardised(pixels)

    def standardised(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (B, channels, H, W) float32 in [0, 255], of the size that the body sees, normalised."""
        return pixels * self._scale + self._shift

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Logits (B, C) of views (B, channels, H, W) uint8."""
        return self.body(self.normalised(views))

    def blank(self, channels: int, shape: tuple[int, int], count: int = 2) -> torch.Tensor:
        """Black views (count, channels, H, W) uint8 on the device of the network, for a trial pass."""
        return torch.zeros(count, channels, *shape, dtype=torch.uint8, device=self._scale.device)


def require_trainable(
    network: Network,
    architecture: Architecture,
    shape: tuple[int, int],
    smallest: int = 2,
    advice: str = ALONE,
) -> None:
    """Raise ModelError unless a network can be saved and, in training mode, returns logits for (H, W) views.

    smallest: the number of views in the smallest batch, or part of a batch; batch norm may not accept a
    single view. advice: what to do if it does not. A copy of the network makes one pass over two black views,
    or over one if `smallest` is 1; the network and the random state do not change.
    """
    name = architecture.name
    if fault := _fault_of_state(network.body):
        raise ModelError(f"{name} {fault}")
    views = network.blank(architecture.channels, shape, min(2, smallest))
    try:
        trial = copy.deepcopy(network).train()
    except Exception as error:  # a network may raise anything
        raise ModelError(f"{name} cannot be copied ({_said(error)})") from error
    require_logits(trial, architecture, views, advice if smallest == 1 else SIZES)


def require_logits(
    network: Network, architecture: Architecture, views: torch.Tensor, advice: str = SIZES
) -> None:
    """Raise ModelError unless the network, in its current mode, returns logits of views.

    views: (B, channels, H, W) uint8; the network makes one pass over them. advice: what to do if the pass
    fails. The random state does not change.
    """
    name = architecture.name
    seen = "×".join(map(str, network.sees((views.shape[2], views.shape[3]))))
    devices = [views.device] if views.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices), torch.no_grad():
        try:
            logits = network(views)
        except Exception as error:  # a network may raise anything
            raise ModelError(
                f"{name} does not take {len(views)} view{'s' * (len(views) > 1)} of "
                f"{architecture.channels}×{seen} ({_said(error)}); {advice}"
            ) from error
    wanted = (len(views), architecture.classes)
    if not isinstance(logits, torch.Tensor):
        raise ModelError(
            f"{name} must return logits, a tensor of shape {wanted}, not a {type(logits).__name__}"
        )
    if tuple(logits.shape) != wanted or not logits.is_floating_point():
        told = f"{tuple(logits.shape)} of {logits.dtype}"
        raise ModelError(f"{name} must return logits {wanted} for {wanted[0]} views, not {told}")


def _said(error: Exception) -> str:
    return shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 200)


def _fault_of_state(body: nn.Module) -> str:
    """Why a network cannot be trained or saved in a checkpoint, as a clause; empty if it can."""
    if not any(parameter.requires_grad for parameter in body.parameters()):
        return "has nothing to train: no parameter requires a gradient"
    for tensor_name, value in body.state_dict().items():
        if not isinstance(value, torch.Tensor) or value.layout != torch.strided or value.is_quantized:
            return f"cannot be saved: {tensor_name} in its state dict is not a dense tensor"
        if nn.parameter.is_lazy(value):
            return f"has a lazy parameter, {tensor_name}: build it with its size"
    return ""
