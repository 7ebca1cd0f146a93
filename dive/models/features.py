"""The features of a network, which are the input of its last linear layer, and those of an ensemble."""

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from dive.errors import ModelError
from dive.models.ensemble import AnyNetwork, Ensemble
from dive.models.head import last_linear
from dive.models.network import Network
from dive.models.prior import WithoutPrior

# How far W·h + b may differ from the network's own logits, relative to their norm: float32 rounding.
_TOLERANCE = 1e-4


class FeatureNetwork:
    """A network that returns its features, the input of its last Linear, instead of its logits.

    A call with views (B, channels, H, W) uint8 returns features (B, D). weight: (C, D) and bias: (C,), both
    float32, are those of that Linear: weight · features + bias are the logits.

    Raises:
        ModelError: the network does not end in one Linear.
    """

    def __init__(self, network: Network, views: torch.Tensor) -> None:
        """views: (B, channels, H, W) uint8 for trial passes, on the network's device, of a fitting size."""
        self._network = network
        name = last_linear(network.body, network.normalised(views))
        if name is None:
            raise ModelError("it does not end in one torch.nn.Linear, so it has no features to store")
        linear = network.body.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        self._linear = linear
        with torch.no_grad():
            self.weight = linear.weight.detach().float()
            self.bias = torch.zeros(len(self.weight)) if linear.bias is None else linear.bias.detach().float()
            self.bias = self.bias.to(self.weight.device)
            self._require_product(views)

    @property
    def count(self) -> int:
        """D, the number of features."""
        return self.weight.shape[1]

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The (H, W) at which the network sees views of (H, W)."""
        return self._network.sees(shape)

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of views (B, channels, H, W) uint8."""
        return self._both(views)[0]

    def _both(self, views: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Features (B, D) and logits (B, C) of views."""
        taken: list[torch.Tensor] = []

        def take(_: nn.Module, args: tuple[Any, ...], named: dict[str, Any]) -> None:
            taken.append(args[0] if args else named["input"])

        hook = self._linear.register_forward_pre_hook(take, with_kwargs=True)
        try:
            logits = self._network(views)
        finally:
            hook.remove()
        return taken[-1], logits

    def _require_product(self, views: torch.Tensor) -> None:
        """Raise ModelError unless logits are weight · features + bias; a subclass of Linear may differ."""
        modes = {module: module.training for module in self._network.modules()}
        self._network.eval()
        try:
            features, logits = self._both(views)
        finally:
            for module, training in modes.items():
                module.training = training
        sound = features.ndim == 2 and features.shape[1] == self.count
        if sound:
            made = features.double() @ self.weight.double().T + self.bias.double()
            sound = bool((made - logits.double()).norm() <= _TOLERANCE * logits.double().norm() + 1e-12)
        if not sound:
            raise ModelError(
                f"its last layer, a {type(self._linear).__name__}, does not give weight · input + bias, so "
                "its features cannot be stored"
            )


class EnsembleFeatures:
    """The concatenated features of an ensemble's networks, with a head that gives the mean of their logits.

    A call with views (B, channels, H, W) uint8 returns features (B, D), with D = Σ Dₑ over the networks.
    weight: (C, D), the concatenated weights of the networks, each times its share. bias: (C,), the mean of
    their biases, weighted by the shares.
    """

    def __init__(self, members: Sequence[FeatureNetwork], shares: Sequence[float]) -> None:
        self._members = tuple(members)
        both = list(zip(members, shares, strict=True))
        self.weight = torch.cat([member.weight * share for member, share in both], dim=1)
        self.bias = torch.stack([member.bias * share for member, share in both]).sum(dim=0)

    @property
    def count(self) -> int:
        """D, the number of features of all networks."""
        return self.weight.shape[1]

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        """The largest (H, W), by area, at which one of the networks sees views of (H, W)."""
        return max((member.sees(shape) for member in self._members), key=math.prod)

    def __call__(self, views: torch.Tensor) -> torch.Tensor:
        """Features (B, D) of views (B, channels, H, W) uint8."""
        return torch.cat([member(views).float() for member in self._members], dim=1)


def features_of(network: AnyNetwork, views: torch.Tensor) -> FeatureNetwork | EnsembleFeatures:
    """A callable that returns the features of a network, or of all networks of an ensemble.

    The features of a network without its prior are those of the network itself; log n is subtracted from the
    bias. views: (B, channels, H, W) uint8, of a size that the networks take, on their device; for trial
    passes. Raises ModelError if a network does not end in one Linear.
    """
    if isinstance(network, Ensemble):
        return EnsembleFeatures([_of_one(one, views) for one in network.networks], network.shares)
    return _of_one(network, views)


def _of_one(network: Network | WithoutPrior, views: torch.Tensor) -> FeatureNetwork:
    if isinstance(network, Network):
        return FeatureNetwork(network, views)
    found = FeatureNetwork(network.network, views)
    found.bias = found.bias - network.log_prior
    return found
