"""The recipe: everything that defines an experiment, typed, frozen and checked once at the edge.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. A part that
comes in kinds (`data`, `views`, `optimizer`) is one dataclass a kind, with that kind's keys alone.
`dive.recipe.reading` reads and checks one. Imports no torch: `dive tune-tau` reads a recipe too.
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
    """What the network looks at: views, resized and normalised per channel."""

    size: int | None = key(
        None, SIDE, "side in pixels that views are resized to; null takes them as they are"
    )
    mean: tuple[float, ...] = key(
        (0.4914, 0.4822, 0.4465),
        within(0, 1),
        "what is subtracted from each channel, for pixels in [0, 1]",
    )
    std: tuple[float, ...] = key(
        (0.2023, 0.1994, 0.2010), within(1e-6, 1e6), "what each channel is divided by afterwards"
    )


@dataclass(frozen=True)
class Model:
    """The network, the weights it begins with, and its input (docs/networks.md)."""

    name: str = key("resnet32", bounds.network, "name of the network")
    weights: str | None = key(
        None,
        replace(bounds.path, wanted="a path in UTF-8, or a name"),
        "weights to begin with: a file, or a name that the network's library knows; null draws them",
    )
    head: str | None = key(
        None,
        one_of("new", "keep"),
        "last linear layer of `weights`: `keep` keeps it, `new` or null makes one for the data's classes",
    )
    sync_batchnorm: bool = key(
        False,
        None,
        "whether batch norm takes its statistics over the batches of all processes, on CUDA alone",
    )
    input: Input = field(default_factory=Input)


@dataclass(frozen=True)
class Teacher:
    """What the teacher minimises: a cross-entropy, of softened labels if wanted."""

    loss: str = key("bsce", one_of("bsce", "ce"), "balanced softmax (`bsce`) or plain cross-entropy (`ce`)")
    label_smoothing: float = key(
        0.0, within(0, 0.9999), "share of each label that is spread evenly over all classes"
    )


@dataclass(frozen=True)
class Distillation:
    """DiVE's loss, (1−w)·BSCE + w·τ²·KL(t ‖ softmax(s/τ)), and its target, t = softmax(p·z/τ).

    z are the teacher's logits of a view, s the student's; BSCE is balanced softmax against the label.
    """

    tau: float = key(3.0, _TEMPERATURES, "temperature τ of the teacher")
    power: float = key(0.5, within(*bounds.POWERS), "power normalisation p of the target")
    student_tau: float | None = key(
        None, _TEMPERATURES, "temperature of the student, in KL alone; null is the teacher's"
    )
    weight: float = key(0.5, within(0, 1), "weight w of the KL term against that of the labels")


@dataclass(frozen=True)
class Student:
    """In what the student's training differs from the teacher's; null is a part that is the same.

    A part is laid over the teacher's. A network of another name has its own weights, head and input size, not
    the teacher's, and without weights no body factor; mean and std are the teacher's unless they are given.
    """

    model: Model | None = key(None, None, "the student's network and its input")
    optimizer: Optimizer | None = key(None, None, "the student's optimiser")
    schedule: Schedule | None = key(None, None, "the student's schedule")


@dataclass(frozen=True)
class Recipe:
    """One experiment.

    `model`, `optimizer` and `schedule` are the teacher's, and the student's where `student` does not differ.
    """

    name: str = key(
        "cifar100_lt_bbn",
        bounds.file_name,
        "name of the outputs in `checkpoints/` and `cache/`; a YAML file without one goes by its own",
    )
    seed: int = key(0, SEED, "seed of initialisation, sample order and the choice of views")
    precision: str = key(
        "auto",
        one_of("auto", "fp32", "tf32", "bf16"),
        "precision of training and export; `auto` is the fastest that agrees with fp32, `tf32` needs CUDA",
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
        """The whole recipe as nested plain values, tuples as lists, fit for JSON and YAML.

        Without `student` where the student differs in nothing, and `sync_batchnorm` where it is false.
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
        """The recipe of the teacher's training alone."""
        return replace(self, student=Student())

    @property
    def of_student(self) -> "Recipe":
        """The recipe of the student's training alone: what `student` differs in is put in its place."""
        parts = {part: getattr(self.student, part) for part in STUDENT_PARTS}
        given = {part: value for part, value in parts.items() if value is not None}
        return replace(self, student=Student(), **given)


STUDENT_PARTS = tuple(part.name for part in dataclasses.fields(Student))


# The parts that come in kinds: what each kind is called, the default first.
KINDS: dict[str, dict[str, type]] = {
    "data": {"cifar100": Cifar100, "cifar10": Cifar10, "folder": Folder, "list": Listed, "digits": Digits},
    "views": {"crop_flip": CropFlip, "autoaugment": AutoAugment, "resized_crop": ResizedCrop},
    "optimizer": {"sgd": Sgd, "adamw": AdamW},
}
