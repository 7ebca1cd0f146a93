"""The recipe that `dive init` writes for a set of images, with comments, for the user to edit."""

import json
import re
import shlex
from pathlib import Path

import numpy as np

from dive import files, outputs
from dive.data.longtail import shot_groups
from dive.errors import OutputError
from dive.printable import excerpt, printable
from dive.recipe import bounds
from dive.workflows.survey import Survey

SMALL = 64  # pixels a side up to which the ResNets for small images are suitable
STEPS = 20  # an epoch should have, for batch norm and the schedule
BATCHES = (8, 128)
LARGEST_PHOTOGRAPHS = 64  # the largest batch of photographs
MARK = "# Written by dive init"


def _is_own(path: Path) -> bool:
    with files.open_regular(path) as file:
        return MARK.encode() in file.read(4096)


KIND = outputs.Kind("a recipe", _is_own)


def default_name(root: Path) -> Path:
    """The default file for a recipe of the images at `root`, in the working directory.

    >>> default_name(Path("photos/my birds (2024).zip")).name
    'my_birds_2024.yaml'
    """
    whole = Path(root).expanduser().resolve()
    stem = whole.stem if whole.suffix.lower() == ".zip" else whole.name
    name = re.sub(r"[^\w.+-]+", "_", stem).strip("_.+-")[:60] or "images"
    return Path(f"{name}.yaml" if bounds.file_name(name) is None else "images.yaml")


def check_place(out: Path, inputs: list[Path], force: bool) -> None:
    """Raise OutputError if a recipe cannot be written to `out`, OptionError if its suffix is not .yaml."""
    outputs.require_suffix(out, (".yaml",))
    if fault := bounds.file_name(out.stem):
        raise OutputError(
            f"outputs are named after {out}, but without .yaml its name {fault}; give another --out"
        )
    outputs.refuse_existing(out, force, KIND, inputs)


def write_recipe(found: Survey, out: Path, inputs: list[Path], force: bool) -> None:
    """Write a recipe for the surveyed images to `out`; raises the errors of `check_place`."""
    with outputs.only_writer(out):
        check_place(out, inputs, force)
        files.write_bytes(out, recipe_text(found, out).encode())


def batch_size(found: Survey) -> int:
    """The largest power of two with at least `STEPS` batches per epoch, within the usual limits."""
    images = int(found.counts["train"].sum())
    least, most = BATCHES
    most = most if is_small(found) else LARGEST_PHOTOGRAPHS
    return int(np.clip(2 ** int(np.log2(max(images / STEPS, 1))), least, most))


def is_small(found: Survey) -> bool:
    """Whether the median image is small enough for the ResNets for small images."""
    return max(found.median) <= SMALL


def tunable(found: Survey) -> bool:
    """Whether at least two of the groups many, medium and few have classes, which tuning compares."""
    return sum(len(members) > 0 for members in shot_groups(found.counts["train"]).values()) >= 2


def commands(found: Survey, out: Path) -> list[str]:
    """The commands to run, in this order."""
    config = f"--config {shlex.quote(str(out))}"
    return [
        f"dive teacher {config}",
        f"dive export-logits {config}",
        f"dive student {config}" + " --tau auto" * tunable(found),
        f"dive eval {config}",
    ]


def recipe_text(found: Survey, out: Path) -> str:
    """The recipe as YAML, with comments."""
    train = found.counts["train"]
    first, last = found.order[0], found.order[-1]
    height, width = found.median
    head = [
        f"# {train.sum()} training images of {len(found.classes)} classes.",
        MARK + "; change what you like. Paths are relative to the folder where dive runs.",
        "#",
        *(f"#   {command}" for command in commands(found, out)),
        "#",
        f"# Largest class: {_shown(found.classes[first])} ({train[first]}); smallest: "
        f"{_shown(found.classes[last])} ({train[last]}).",
        f"# The median image has {width}×{height} pixels.",
    ]
    body = _small(found) if is_small(found) else _photographs(found)
    return "\n".join([*head, *_data(found), *body]) + "\n"


def _data(found: Survey) -> list[str]:
    lines = ["data:", f"  kind: {found.kind}"]
    lines += [f"  {key}: {_scalar(value)}" for key, value in found.place.items() if value is not None]
    if found.test_share is not None:
        lines.append(
            f"  test_share: {found.test_share:g}  # share of each class for the test set, chosen by file name"
        )
    if found.kind == "folder" and "val" not in found.counts:
        lines.append("  # val_share: 0.1  # a tenth of each class for validation, to choose between students")
    return [*lines, "  imbalance: null  # all images of each class; a number draws a long tail from them"]


def _small(found: Survey) -> list[str]:
    side = int(np.clip(-(-max(found.median) // 4) * 4, 8, SMALL))
    batch = batch_size(found)
    return [
        "views:",
        "  kind: crop_flip",
        f"  size: {side}  # of every image: its shorter side is resized, the centre cropped",
        f"  pad: {min(4, side // 8)}  # pixels by which a view may be shifted",
        "  flip: true  # false if a mirrored image may be of another class, such as digits or text",
        "model:",
        "  name: resnet32",
        "  input:  # mean and standard deviation of CIFAR's pixels; those of your own images work too",
        "    mean: [0.4914, 0.4822, 0.4465]",
        "    std: [0.2023, 0.1994, 0.2010]",
        "optimizer:",
        "  kind: sgd",
        f"  lr: {0.1 * batch / 128:g}  # 0.1 for batches of 128, in proportion to the batch size",
        "schedule:",
        "  epochs: 200",
        "  warmup_epochs: 5",
        "  milestones: [120, 160]",
        f"  batch_size: {batch}",
    ]


def _photographs(found: Survey) -> list[str]:
    batch = batch_size(found)
    return [
        "views:",
        "  kind: resized_crop",
        "  size: 224  # of a view, which is a random part of an image",
        "  flip: true  # false if a mirrored image may be of another class, such as signs or text",
        "model:",
        "  name: torchvision/resnet18",
        "  # weights: DEFAULT  # initial weights of ImageNet, downloaded by torchvision",
        "  input:  # ImageNet's mean and standard deviation, with which those weights were trained",
        "    mean: [0.485, 0.456, 0.406]",
        "    std: [0.229, 0.224, 0.225]",
        "optimizer:",
        "  kind: sgd",
        f"  lr: {0.1 * batch / 256:g}  # 0.1 for batches of 256, in proportion to the batch size",
        "  # body_factor: 0.1  # with weights: all but the new last layer is trained at a tenth of lr",
        "schedule:",
        "  epochs: 100",
        "  warmup_epochs: 5",
        "  decay: cosine",
        "  milestones: []",
        f"  batch_size: {batch}",
        "  # accumulate: 4  # processes a batch in four parts, if it does not fit in memory",
        "# student:  # what differs for the student, for example a smaller network",
        "#   model:",
        "#     name: torchvision/mobilenet_v3_small",
    ]


def _scalar(value: str | float) -> str:
    """A value in YAML; a string in quotes, so that no name is read as another type."""
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))


def _shown(name: str) -> str:
    return printable(name if len(name) <= 40 else excerpt(name))
