"""`imagenet/…`: networks of the long-tailed literature, built of torchvision's blocks but not named by it."""

from typing import TYPE_CHECKING

from dive.errors import ModelError
from dive.models.families.library import Library

if TYPE_CHECKING:
    from torch import nn


class ImageNet(Library):
    """`imagenet/resnet10`: a ResNet with one basic block per stage, as BALMS trains on ImageNet-LT."""

    prefix = "imagenet/"

    def names(self) -> list[str]:
        """All names."""
        return ["imagenet/resnet10"]

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """torchvision's ResNet with 10 layers, initialised as torchvision does."""
        if channels != 3:
            raise ModelError(f"{name} takes images of 3 channels, these have {channels}")
        from torchvision.models.resnet import BasicBlock, ResNet

        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)
