"""The recipe: frozen dataclasses with all settings of an experiment.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. A part that has
several kinds (`data`, `views`, `optimizer`) has a dataclass for each kind, with the keys of that kind only.
`dive.recipe.reading` reads and checks a recipe. This module does not import torch, as `dive tune-tau` reads a
recipe too.
"""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any

from dive.recipe import bounds
from dive.recipe.bounds import one_of, within
from dive.recipe.data import Cifar10, Cifar100, Data, Digits, Folder, Listed
from dive.recipe.documents import plain
from dive.recipe.keys import SEED, SIDE, key
from dive.recipe.training import AdamW, Optimizer, Schedule, Sgd
from dive.recipe.views import AutoAugment, CropFlip, ResizedCrop, Views

_TEMPERATURES = within(*bounds.TEMPERATURES)


@dataclass(frozen=True)
class Input:
    """The input of the network: views, resized and normalised per channel."""

    size: int | None = key(None, SIDE, "side in pixels to which views are resized; null keeps their size")
    mean: tuple[float, ...] = key(
        (0.4914, 0.4822, 0.4465),
        within(0, 1),
        "mean, subtracted from each channel, for pixels in [0, 1]",
    )
    std: tuple[float, ...] = key(
        (0.2023, 0.1994, 0.2010),
        within(1e-6, 1e6),
        "standard deviation, by which each channel is then divided",
    )


@dataclass(frozen=True)
class Model:
    """The network, its initial weights and its input (docs/networks.md)."""

    name: str = key("resnet32", bounds.network, "name of the network")
    weights: str | None = key(
        None,
        replace(bounds.path, wanted="a path in UTF-8, or a name"),
        "initial weights: a file, or a name known to the network's library; null draws them from `seed`",
    )
    head: str | None = key(
        None,
        one_of("new", "keep"),
        "last linear layer of `weights`: `keep` keeps it, `new` or null creates one for the data's classes",
    )
    sync_batchnorm: bool = key(
        False,
        None,
        "whether batch norm computes its statistics over the batches of all processes; CUDA only",
    )
    input: Input = field(default_factory=Input)


@dataclass(frozen=True)
class Teacher:
    """The teacher's loss: a cross-entropy, with optional label smoothing."""

    loss: str = key("bsce", one_of("bsce", "ce"), "balanced softmax (`bsce`) or plain cross-entropy (`ce`)")
    label_smoothing: float = key(
        0.0, within(0, 0.9999), "share of each label that is spread evenly over all classes"
    )


@dataclass(frozen=True)
class Distillation:
    """The student's loss, (1−w)·BSCE + w·τ²·KL(t ‖ softmax(s/τ)), with the target t = softmax(p·z/τ).

    z are the teacher's logits of a view, s the student's. BSCE is balanced softmax against the label.
    """

    tau: float = key(3.0, _TEMPERATURES, "temperature τ of the teacher")
    power: float = key(0.5, within(*bounds.POWERS), "power normalisation p of the target")
    student_tau: float | None = key(
        None, _TEMPERATURES, "temperature of the student's softmax in the KL term; null is `tau`"
    )
    weight: float = key(0.5, within(0, 1), "weight w of the KL term; 1−w is the weight of BSCE")


@dataclass(frozen=True)
class Student:
    """How the student's training differs from the teacher's. A part that is null is the same.

    The keys of a part override the teacher's. A network with another name does not inherit `weights`, `head`
    and `input.size`, nor, without `weights`, `optimizer.body_factor`. It inherits `input.mean` and
    `input.std`.
    """

    model: Model | None = key(None, None, "the student's network and its input")
    optimizer: Optimizer | None = key(None, None, "the student's optimiser")
    schedule: Schedule | None = key(None, None, "the student's schedule")


@dataclass(frozen=True)
class Recipe:
    """All settings of an experiment. It is immutable; `dive.load_recipe` reads and checks one.

    `name` names the outputs, `seed` seeds training, and `precision` is that of training and export. `data`
    selects the images, `views` the augmentation, and `model` the network with its initial weights and input.
    `optimizer` and `schedule` define the training, `teacher` the teacher's loss, and `distillation` the
    student's loss with τ, p and its weight.

    `model`, `optimizer` and `schedule` are the teacher's. They are also the student's, except for what
    `student` overrides.
    """

    name: str = key(
        "cifar100_lt_bbn",
        bounds.file_name,
        "name of the outputs in `checkpoints/` and `cache/`; that of the YAML file if it states none",
    )
    seed: int = key(0, SEED, "seed of initialisation, sample order and the choice of views")
    precision: str = key(
        "auto",
        one_of("auto", "fp32", "tf32", "bf16"),
        "precision of training and export; `auto`: the fastest that agrees with fp32; `tf32` needs CUDA",
    )
    data: Data = field(default_factory=Cifar100)
    views: Views = field(default_factory=CropFlip)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Sgd)
    schedule: Schedule = field(default_factory=Schedule)
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)
    student: Student = field(default_factory=Student)

    def as_dict(self) -> dict[str, Any]:
        """The recipe as nested plain values for JSON or YAML, with lists for tuples.

        `student` is left out if it overrides nothing, and `sync_batchnorm` if it is false.
        """
        document = plain(dataclasses.asdict(self))
        for model in (document["model"], document["student"]["model"]):
            if model is not None and not model["sync_batchnorm"]:
                del model["sync_batchnorm"]
        if self.student == Student():
            del document["student"]
        return document

    @property
    def of_teacher(self) -> "Recipe":
        """The recipe of the teacher's training, without the part `student`."""
        return replace(self, student=Student())

    @property
    def of_student(self) -> "Recipe":
        """The recipe of the student's training: the parts given in `student` replace those of the teacher."""
        parts = {part: getattr(self.student, part) for part in STUDENT_PARTS}
        given = {part: value for part, value in parts.items() if value is not None}
        return replace(self, student=Student(), **given)


STUDENT_PARTS = tuple(part.name for part in dataclasses.fields(Student))


# The parts that come in kinds, and the classes of their kinds by name, the default first.
KINDS: dict[str, dict[str, type]] = {
    "data": {"cifar100": Cifar100, "cifar10": Cifar10, "folder": Folder, "list": Listed, "digits": Digits},
    "views": {"crop_flip": CropFlip, "autoaugment": AutoAugment, "resized_crop": ResizedCrop},
    "optimizer": {"sgd": Sgd, "adamw": AdamW},
}
