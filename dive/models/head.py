"""Where the last linear layer of a network is: what turns its features into logits."""

from typing import Any

import torch
from torch import nn


def last_linear(body: nn.Module, views: torch.Tensor) -> str | None:
    """The name of the `nn.Linear` within `body` whose output is the network's; None where there is none.

    views: (B, channels, H, W) float32, normalised, of a size that the network takes; it is run once on them,
    in eval mode, and left as it was. A network that ends in anything else than a Linear, be it an activation
    or a reshaping, has none. Its input is what the network knows of a picture: its features.

    >>> from dive.models.registry import build_model
    >>> last_linear(build_model("resnet8", 10), torch.zeros(1, 3, 8, 8))
    'linear'
    """
    outputs: list[tuple[str, Any]] = []
    hooks = [
        module.register_forward_hook(lambda _, __, output, name=name: outputs.append((name, output)))
        for name, module in body.named_modules()
        if isinstance(module, nn.Linear)
    ]
    modes = {module: module.training for module in body.modules()}
    try:
        with torch.no_grad():
            logits = body.eval()(views)
    finally:
        for hook in hooks:
            hook.remove()
        for module, training in modes.items():
            module.training = training
    return next((name for name, output in reversed(outputs) if output is logits), None)
