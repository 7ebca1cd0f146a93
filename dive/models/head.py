"""Finds the last linear layer of a network, which computes the logits from the features."""

from typing import Any

import torch
from torch import nn


def last_linear(body: nn.Module, views: torch.Tensor) -> str | None:
    """The name of the `nn.Linear` within `body` whose output is the output of `body`; None if there is none.

    A network that ends in anything but a Linear, even an activation or a reshape, has no such layer. The
    input of the layer is called the features of an image. views: (B, channels, H, W) float32, normalised, of
    a size that the network takes. The network makes one pass over them in eval mode; its modes are restored.

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
