"""Networks by the name a recipe gives them."""

import torch

from dive.models.resnet import CifarResNet


def build_model(name: str, classes: int, channels: int = 3, seed: int = 0) -> CifarResNet:
    """The network `resnetN` (N = 6n+2) for `classes` classes, initialised from `seed` alone.

    The global random state is left as it was, on every device.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        return CifarResNet(
            blocks=(int(name.removeprefix("resnet")) - 2) // 6, classes=classes, channels=channels
        )


def parameter_count(model: torch.nn.Module) -> int:
    """Number of trained values."""
    return sum(parameter.numel() for parameter in model.parameters())
