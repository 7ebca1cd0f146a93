"""Folders and list files of JPEGs of mixed sizes, and recipes of them in resized crops."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from PIL import Image

COUNTS = {"ant": 9, "bee": 5, "cat": 2}
_REST = """\
views: {kind: resized_crop, size: 24, jitter: [0.4, 0.4, 0.4, 0.1]}
model: {name: resnet8, input: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}}
schedule: {epochs: 3, batch_size: 6, warmup_epochs: 1, milestones: [2]}
"""
RECIPE = "name: photographs\ndata: {kind: folder, root: pictures}\n" + _REST
HERE = ("--device", "cpu", "--precision", "fp32", "--quiet")
ORIENTATION, TURNED = 0x0112, 6  # an EXIF tag, and what it says of a picture to be turned clockwise


def write_photographs(folder: Path, counts: Mapping[str, int] = COUNTS) -> None:
    """train/<class>/ and test/<class>/ with smooth JPEGs, no two of a split of one size; at most 17 a class.

    The second of each class lies on its side, as its EXIF says.
    """
    rng = np.random.default_rng(0)
    for at, (label, count) in enumerate(counts.items()):
        for split, number in (("train", count), ("test", 2)):
            place = folder / split / label
            place.mkdir(parents=True)
            for i in range(number):
                small = Image.fromarray(rng.integers(0, 256, (4, 4, 3), dtype=np.uint8))
                size = (40 + 7 * i + 3 * at, 90 - 5 * i)
                exif = Image.Exif()
                if i == 1:
                    exif[ORIENTATION] = TURNED
                picture = small.resize(size, Image.Resampling.BICUBIC)
                picture.save(place / f"{i:03d}.jpg", quality=90, exif=exif)


def write_all(counts: Mapping[str, int] = COUNTS, folder: Path = Path()) -> None:
    """Into a folder: pictures/, train.txt and test.txt that list them, folder.yaml and listed.yaml."""
    write_photographs(folder / "pictures", counts)
    for split in ("train", "test"):
        names = sorted(folder.joinpath("pictures", split).glob("*/*.jpg"))
        labels = {label: number for number, label in enumerate(counts)}
        lines = (f"{name.relative_to(folder / 'pictures')} {labels[name.parent.name]}\n" for name in names)
        (folder / f"{split}.txt").write_text("".join(lines))
    (folder / "folder.yaml").write_text(RECIPE)
    place = {"root": "pictures", "train_list": "train.txt", "test_list": "test.txt"}
    keys = ", ".join(f"{key}: {folder / name}" for key, name in place.items())
    (folder / "listed.yaml").write_text(f"name: listed\ndata: {{kind: list, {keys}}}\n" + _REST)
