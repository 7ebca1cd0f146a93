"""`resnetN`: ResNets for small images, as the CIFAR-LT literature trains them."""

from typing import TYPE_CHECKING

from dive.models.families.family import Family
from dive.recipe.bounds import resnet_depth

if TYPE_CHECKING:
    from torch import nn

LARGEST_SIDE = 64  # pixels; nothing is halved before the second stage
_COMMON = (8, 14, 20, 32, 44, 56, 110)


class Cifar(Family):
    """`resnetN` with N = 6n+2 layers."""

    def belongs(self, name: str) -> bool:
        """Whether N is a depth of this family."""
        return resnet_depth(name) is not None

    def names(self) -> list[str]:
        """Those in use; every other depth can be built too."""
        return [f"resnet{depth}" for depth in _COMMON]

    def has(self, name: str) -> bool:
        """Every depth is there."""
        return True

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """The network of that depth."""
        from dive.models.resnet import CifarResNet

        depth = resnet_depth(name)
        assert depth is not None
        return CifarResNet(blocks=(depth - 2) // 6, classes=classes, channels=channels)

    def refusal(self, name: str, side: int) -> str:
        """These networks keep the full resolution for a third of their layers."""
        if side <= LARGEST_SIDE:
            return ""
        return (
            f"{name} is a network for pictures of at most {LARGEST_SIDE} pixels a side, these have {side}; "
            "did you mean torchvision/resnet50? Or let it see them smaller, by model.input.size"
        )
