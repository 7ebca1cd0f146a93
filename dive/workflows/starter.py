"""The recipe that `dive init` writes for some pictures: commented, and to be changed by its owner."""

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

SMALL = 64  # pixels: what the ResNets for small images are made for
STEPS = 20  # an epoch should have, so that batch norm and the schedule have something to work with
BATCHES = (8, 128)
LARGEST_PHOTOGRAPHS = 64  # photographs in a batch
MARK = "# Written by dive init"


def _is_own(path: Path) -> bool:
    with files.open_regular(path) as file:
        return MARK.encode() in file.read(4096)


KIND = outputs.Kind("a recipe", _is_own)


def default_name(root: Path) -> Path:
    """The file that a recipe of the pictures at `root` is written to, in the working directory.

    >>> default_name(Path("photos/my birds (2024).zip")).name
    'my_birds_2024.yaml'
    """
    whole = Path(root).expanduser().resolve()
    stem = whole.stem if whole.suffix.lower() == ".zip" else whole.name
    name = re.sub(r"[^\w.+-]+", "_", stem).strip("_.+-")[:60] or "images"
    return Path(f"{name}.yaml" if bounds.file_name(name) is None else "images.yaml")


def check_place(out: Path, inputs: list[Path], force: bool) -> None:
    """Raise OutputError where a recipe cannot be written to `out`, OptionError where that is no .yaml."""
    outputs.require_suffix(out, (".yaml",))
    if fault := bounds.file_name(out.stem):
        raise OutputError(
            f"the name of {out} names the outputs: without .yaml it {fault}; give another --out"
        )
    outputs.refuse_existing(out, force, KIND, inputs)


def write_recipe(found: Survey, out: Path, inputs: list[Path], force: bool) -> None:
    """Write the recipe that suits what was found to `out`; raises OutputError as `check_place` does."""
    with outputs.only_writer(out):
        check_place(out, inputs, force)
        files.write_bytes(out, recipe_text(found, out).encode())


def batch_size(found: Survey) -> int:
    """A power of two that gives an epoch some twenty batches, within what is usual."""
    images = int(found.counts["train"].sum())
    least, most = BATCHES
    most = most if is_small(found) else LARGEST_PHOTOGRAPHS
    return int(np.clip(2 ** int(np.log2(max(images / STEPS, 1))), least, most))


def is_small(found: Survey) -> bool:
    """Whether the median picture is one for the networks of small images."""
    return max(found.median) <= SMALL


def tunable(found: Survey) -> bool:
    """Whether two groups of classes have members, which is what the tune step compares."""
    return sum(len(members) > 0 for members in shot_groups(found.counts["train"]).values()) >= 2


def commands(found: Survey, out: Path) -> list[str]:
    """What to run, in its order."""
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
        f"# Pictures of {len(found.classes)} classes, {train.sum()} for training.",
        MARK + "; change what you like. Relative paths begin in the folder where dive runs.",
        "#",
        *(f"#   {command}" for command in commands(found, out)),
        "#",
        f"# Largest class: {_shown(found.classes[first])} ({train[first]}); smallest: "
        f"{_shown(found.classes[last])} ({train[last]}).",
        f"# The median picture has {width}×{height} pixels.",
    ]
    body = _small(found) if is_small(found) else _photographs(found)
    return "\n".join([*head, *_data(found), *body]) + "\n"


def _data(found: Survey) -> list[str]:
    lines = ["data:", f"  kind: {found.kind}"]
    lines += [f"  {key}: {_scalar(value)}" for key, value in found.place.items() if value is not None]
    if found.test_share is not None:
        lines.append(
            f"  test_share: {found.test_share:g}  # of each class, chosen by file name, for the test"
        )
    if found.kind == "folder" and "val" not in found.counts:
        lines.append("  # val_share: 0.1  # sets a tenth of each class aside, to choose between students by")
    return [*lines, "  imbalance: null  # the classes as they are; a number draws a long tail from them"]


def _small(found: Survey) -> list[str]:
    side = int(np.clip(-(-max(found.median) // 4) * 4, 8, SMALL))
    batch = batch_size(found)
    return [
        "views:",
        "  kind: crop_flip",
        f"  size: {side}  # every picture is brought to it: shorter side resized, centre cropped",
        f"  pad: {min(4, side // 8)}  # pixels that a view may be shifted by",
        "  flip: true  # false where a mirrored picture is of another class, as of digits or text",
        "model:",
        "  name: resnet32",
        "  input:  # of the pixels of CIFAR; the mean and standard deviation of your own are as good",
        "    mean: [0.4914, 0.4822, 0.4465]",
        "    std: [0.2023, 0.1994, 0.2010]",
        "optimizer:",
        "  kind: sgd",
        f"  lr: {0.1 * batch / 128:g}  # 0.1 for batches of 128, in proportion for others",
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
        "  size: 224  # of a view, which is a random part of a picture",
        "  flip: true  # false where a mirrored picture is of another class, as of signs or text",
        "model:",
        "  name: torchvision/resnet18",
        "  # weights: DEFAULT  # ImageNet's, downloaded by torchvision, to begin with",
        "  input:  # ImageNet's mean and standard deviation, which those weights were trained with",
        "    mean: [0.485, 0.456, 0.406]",
        "    std: [0.229, 0.224, 0.225]",
        "optimizer:",
        "  kind: sgd",
        f"  lr: {0.1 * batch / 256:g}  # 0.1 for batches of 256, in proportion for others",
        "  # body_factor: 0.1  # with weights: everything but the new last layer learns at a tenth of lr",
        "schedule:",
        "  epochs: 100",
        "  warmup_epochs: 5",
        "  decay: cosine",
        "  milestones: []",
        f"  batch_size: {batch}",
        "  # accumulate: 4  # goes through a batch in four parts, where it does not fit in memory",
        "# student:  # what the student differs in: a smaller network than the teacher, for example",
        "#   model:",
        "#     name: torchvision/mobilenet_v3_small",
    ]


def _scalar(value: str | float) -> str:
    """A value as YAML writes it; a text in quotes, so that no name is taken for something else."""
    return json.dumps(value, ensure_ascii=not (isinstance(value, str) and value.isprintable()))


def _shown(name: str) -> str:
    return printable(name if len(name) <= 40 else excerpt(name))
