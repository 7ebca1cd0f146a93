"""A small image folder with a flipped view space, for tests that the digits' recipe cannot serve."""

from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"ant": 9, "bee": 5, "cat": 2}
RECIPE = """\
name: insects
data:
  kind: folder
  root: {images}
views:
  pad: 2
  flip: true
  size: 8
model:
  name: resnet8
  input:
    mean: [0.4, 0.5, 0.6]
    std: [0.2, 0.25, 0.3]
schedule:
  epochs: 3
  batch_size: 6
  warmup_epochs: 1
  milestones: [2]
"""


def write_images(folder: Path, counts: dict[str, int] = COUNTS, seed: int = 0) -> Path:
    """train/<class>/ and test/<class>/ with noise of 8×8, two test images of each class."""
    rng = np.random.default_rng(seed)
    for label, count in counts.items():
        for split, number in (("train", count), ("test", 2)):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(number):
                pixels = rng.integers(0, 256, (8, 8, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(place / f"{i:03d}.png")
    return folder


def write_recipe(path: Path, images: Path) -> Path:
    """The recipe of these images: 50 views, two batches of six and one of four an epoch."""
    path.write_text(RECIPE.format(images=images))
    return path
