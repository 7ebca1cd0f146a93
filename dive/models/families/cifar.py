"""`resnetN`: ResNets for small images, as the CIFAR-LT literature trains them."""

from typing import TYPE_CHECKING

from dive.models.families.family import Family
from dive.recipe.bounds import resnet_depth

if TYPE_CHECKING:
    from torch import nn

LARGEST_SIDE = 64  # pixels; the first stage computes at the full resolution
_COMMON = (8, 14, 20, 32, 44, 56, 110)


class Cifar(Family):
    """`resnetN` with N = 6n+2 layers."""

    def belongs(self, name: str) -> bool:
        """Whether the name is `resnetN` with N = 6n+2."""
        return resnet_depth(name) is not None

    def names(self) -> list[str]:
        """The names of the usual depths; every other depth can be built too."""
        return [f"resnet{depth}" for depth in _COMMON]

    def has(self, name: str) -> bool:
        """Always true: a network of every depth can be built."""
        return True

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """The network of that depth."""
        from dive.models.resnet import CifarResNet

        depth = resnet_depth(name)
        assert depth is not None
        return CifarResNet(blocks=(depth - 2) // 6, classes=classes, channels=channels)

    def refusal(self, name: str, side: int) -> str:
        """Refuses sides above `LARGEST_SIDE`, since a third of the layers compute at the full resolution."""
        if side <= LARGEST_SIDE:
            return ""
        return (
            f"{name} is a network for images of at most {LARGEST_SIDE} pixels a side, these have {side}; "
            "did you mean torchvision/resnet50? Or resize them with model.input.size"
        )
