"""A DiVE student in a training loop of your own: your network, your optimiser, torch's DataLoader.

    dive teacher --config digits_lt/bbn && dive export-logits --config digits_lt/bbn
    python examples/own_loop.py

Prints the accuracy on the test images. What is dive's: the cache, the views that its teacher saw, the loss.
"""

import argparse

import numpy as np
import torch
from torch import nn
from torch.utils.data import DataLoader

import dive


class Net(nn.Sequential):
    """A small convolutional network for grey pictures of 8×8: (B, 1, 8, 8) float32 to logits (B, 10)."""

    def __init__(self) -> None:
        widths = (1, 32, 32, 64, 64)
        layers: list[nn.Module] = []
        for inputs, outputs in zip(widths, widths[1:], strict=False):
            convolution = nn.Conv2d(inputs, outputs, 3, padding=1, stride=1 if inputs < 64 else 2, bias=False)
            layers += [convolution, nn.BatchNorm2d(outputs), nn.ReLU()]
        super().__init__(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(widths[-1], 10))


def normalised(pictures: torch.Tensor) -> torch.Tensor:
    """Pictures (…, 8, 8) uint8 as the network takes them."""
    return (pictures.float() / 255 - 0.3063) / 0.3753


def train(cache: str, data: str, seed: int, epochs: int) -> nn.Module:
    """The student of a cache, its pictures being those of `data`."""
    torch.manual_seed(seed)
    views = dive.CachedViews(dive.open_cache(cache), dive.open_images(data), seed, transform=normalised)
    loader = DataLoader(views, batch_size=32, shuffle=True)
    loss = dive.DiVELoss(views.cache.class_counts, tau=3, power=0.5, weight=0.5)
    model = Net()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=2e-4)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.1, epochs * len(loader))
    for epoch in range(1, epochs + 1):
        views.set_epoch(epoch)
        for pictures, labels, teacher_logits in loader:
            optimizer.zero_grad()
            loss(model(pictures), labels, teacher_logits).backward()
            optimizer.step()
            schedule.step()
    return model


@torch.inference_mode()
def accuracy(model: nn.Module, data: str) -> float:
    """Top-1 accuracy on the test images of `data`."""
    images = dive.open_images(data, "test")
    pictures = torch.from_numpy(np.stack([*images.values()])).permute(0, 3, 1, 2)
    predicted = model.eval()(normalised(pictures)).argmax(dim=1)
    return (predicted == torch.from_numpy(images.labels)).float().mean().item()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--cache", default="cache/digits_lt_bbn.h5")
    parser.add_argument("--data", default="digits_lt/bbn", help="a recipe of grey pictures of 8×8")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--epochs", type=int, default=60)
    options = parser.parse_args()
    student = train(options.cache, options.data, options.seed, options.epochs)
    print(f"{100 * accuracy(student, options.data):.2f} %")
