"""`imagenet/…`: networks of the long-tailed literature that torchvision builds but has no name for."""

from typing import TYPE_CHECKING

from dive.errors import ModelError
from dive.models.families.library import Library

if TYPE_CHECKING:
    from torch import nn


class ImageNet(Library):
    """`imagenet/resnet10`: one basic block a stage, as BALMS trains on ImageNet-LT."""

    prefix = "imagenet/"

    def names(self) -> list[str]:
        """All."""
        return ["imagenet/resnet10"]

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """torchvision's ResNet of other depth, initialised as torchvision does."""
        if channels != 3:
            raise ModelError(f"{name} takes pictures of 3 channels, these have {channels}")
        from torchvision.models.resnet import BasicBlock, ResNet

        return ResNet(BasicBlock, [1, 1, 1, 1], num_classes=classes)
