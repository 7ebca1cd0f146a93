"""A network of one's own, written as a module into the folder of a test."""

import sys
from pathlib import Path

SOURCE = """\
from torch import nn


def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(2),
        nn.Flatten(),
        nn.Dropout(0.25),
        nn.Linear(32, classes),
    )


def grey(classes):
    return nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.LazyLinear(classes))


def reshaped(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes), nn.Softmax(dim=1))


def pair(classes):
    class Pair(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = nn.Linear(3, classes)

        def forward(self, x):
            y = self.linear(x.mean((2, 3)))
            return y, y

    return Pair()


def frozen(classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(192, classes)).requires_grad_(False)


def number(classes):
    return classes


def failing(classes):
    raise ValueError(f"cannot tell {classes} classes\\napart")


three = 3
"""


def write(name: str = "tiny", source: str = SOURCE) -> str:
    """Write the module, so that it is imported anew; returns the name of its network."""
    Path(f"{name}.py").write_text(source)
    sys.modules.pop(name, None)
    return f"{name}:build"
