"""The recipe: everything that defines an experiment, typed, frozen and checked once at the edge.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. A part that
comes in kinds (`data`, `views`, `optimizer`) is one dataclass a kind, with that kind's keys alone.
`dive.recipe.reading` reads and checks one. Imports no torch: `dive tune-tau` reads a recipe too.
"""

import dataclasses
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from dive.recipe import bounds
from dive.recipe.bounds import one_of, within
from dive.recipe.data import Cifar10, Cifar100, Data, Digits, Folder, Listed
from dive.recipe.documents import plain
from dive.recipe.keys import RATE as _RATE
from dive.recipe.keys import SEED as _SEED
from dive.recipe.keys import SIDE as _SIDE
from dive.recipe.keys import key as _key
from dive.recipe.keys import kind as _kind


@dataclass(frozen=True)
class Views:
    """What every space of augmented views has in common.

    colour: whether it needs pictures of three channels. one_size: whether it needs pictures of one size, to
    which `size` brings them; if not, `size` is the size of the views, and pictures keep their own. usual: the
    views that an export stores unless told otherwise.
    """

    colour: ClassVar[bool] = False
    one_size: ClassVar[bool] = True
    usual: ClassVar[str] = "all"

    kind: str
    size: int | None
    seed: int

    @property
    def picture_size(self) -> int | None:
        """The side in pixels that pictures are brought to, None for as they are."""
        return self.size if self.one_size else None

    def keys(self) -> dict[str, Any]:
        """The keys that say what a view is; not the size pictures are brought to, nor the seed of draws."""
        common = ("kind", "size", "seed") if self.one_size else ("kind", "seed")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in common}


@dataclass(frozen=True)
class CropFlip(Views):
    """Pad with zeros, crop back at random, perhaps flip.

    Pictures are first brought to `size` pixels a side; null leaves them as they are. `seed` draws the views
    that a cache stores where it does not store all.
    """

    kind: str = _kind("crop_flip")
    pad: int = _key(4, within(0, 64))
    flip: bool = _key(True)
    size: int | None = _key(None, _SIDE)
    seed: int = _key(0, _SEED)


@dataclass(frozen=True)
class AutoAugment(Views):
    """`crop_flip`, then AutoAugment (CIFAR-10 policy) and Cutout, a hole of half the side."""

    colour: ClassVar[bool] = True
    usual: ClassVar[str] = "50"

    kind: str = _kind("autoaugment")
    pad: int = _key(4, within(0, 64))
    flip: bool = _key(True)
    size: int | None = _key(None, _SIDE)
    seed: int = _key(0, _SEED)


@dataclass(frozen=True)
class ResizedCrop(Views):
    """For photographs: crop at random, resize to `size` pixels a side, perhaps flip, change colours.

    `scale` bounds the area of a crop as a share of the picture's, `ratio` its width as a multiple of its
    height. `jitter` is the strength of brightness, contrast, saturation and hue; 0 leaves one out. Pictures
    may have any size. `seed` draws the views that a cache stores.
    """

    one_size: ClassVar[bool] = False
    usual: ClassVar[str] = "50"

    kind: str = _kind("resized_crop")
    size: int = _key(224, _SIDE)
    scale: tuple[float, ...] = _key((0.08, 1.0), bounds.interval(*bounds.CROP_SCALES))
    ratio: tuple[float, ...] = _key((3 / 4, 4 / 3), bounds.interval(*bounds.CROP_RATIOS))
    flip: bool = _key(True)
    jitter: tuple[float, ...] = _key((0.4, 0.4, 0.4, 0.0), bounds.numbers(*bounds.JITTER))
    seed: int = _key(0, _SEED)


@dataclass(frozen=True)
class Input:
    """What the network looks at: views normalised by `mean` and `std` per channel, for pixels in [0, 1].

    They are resized to `size` pixels a side; null takes them as they are.
    """

    size: int | None = _key(None, _SIDE)
    mean: tuple[float, ...] = _key((0.4914, 0.4822, 0.4465), within(0, 1))
    std: tuple[float, ...] = _key((0.2023, 0.1994, 0.2010), within(1e-6, 1e6))


@dataclass(frozen=True)
class Model:
    """The network, the weights it begins with, and its input.

    `weights` is a file, or a name that the network's library knows; null draws them by `seed`. `head` says
    what becomes of their last linear layer: `new` (null is the same) replaces it by a new one for the data's
    classes, `keep` keeps it. `sync_batchnorm`: where several processes train it, batch norm takes its
    statistics over the batches of all, which torch has on CUDA alone.
    """

    name: str = _key("resnet32", bounds.network)
    weights: str | None = _key(None, bounds.path)
    head: str | None = _key(None, one_of("new", "keep"))
    sync_batchnorm: bool = _key(False)
    input: Input = field(default_factory=Input)


@dataclass(frozen=True)
class Optimizer:
    """What every optimiser has in common.

    `lr` is the learning rate that the schedule begins from. Everything but the network's last linear layer
    learns at `body_factor` times it, which is for networks that begin with weights. Gradients whose L2 norm,
    over all parameters together, exceeds `clip_norm` are scaled down to it; null leaves them as they are.
    """

    kind: str
    lr: float
    weight_decay: float
    body_factor: float = _key(1.0, within(0, 1000))
    clip_norm: float | None = _key(None, within(1e-6, 1e6))


@dataclass(frozen=True)
class Sgd(Optimizer):
    """SGD with momentum; weight decay on every parameter."""

    kind: str = _kind("sgd")
    lr: float = _key(0.1, _RATE)
    weight_decay: float = _key(2e-4, within(0, 1))
    momentum: float = _key(0.9, within(0, 0.9999))


@dataclass(frozen=True)
class AdamW(Optimizer):
    """AdamW (Loshchilov and Hutter 2019); decoupled weight decay, on every parameter.

    A step takes `lr` times `weight_decay` of a weight away. `betas` are the decay rates of the means of
    gradients and of their squares, `eps` is added to the root of the latter.
    """

    kind: str = _kind("adamw")
    lr: float = _key(1e-3, _RATE)
    weight_decay: float = _key(0.05, within(0, 1))
    betas: tuple[float, ...] = _key((0.9, 0.999), bounds.numbers(*bounds.BETAS))
    eps: float = _key(1e-8, within(1e-12, 1))


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `warmup_from` of the learning rate to all of it, then decay.

    `decay` steps: times `gamma` at the start of each milestone epoch; cosine: to 0 at the end. The
    length is `epochs` with `warmup_epochs`, or `iterations` with `warmup_iterations`, which are steps;
    the pair that is not used is null. The epoch in which the iterations end is gone through to its end:
    with `steps` at the same rate, with a cosine at 0, which moves the statistics of batch norm alone.

    A step is one batch. The network goes through it in `accumulate` parts, one after the other, whose
    gradients are added up: a batch then takes the memory of a part. Batch norm sees the parts.
    """

    epochs: int | None = _key(200, within(*bounds.EPOCHS))
    iterations: int | None = _key(None, within(1, 10**9))
    batch_size: int = _key(128, within(1, 1_000_000))
    accumulate: int = _key(1, within(1, 1024))
    warmup_epochs: int | None = _key(5, within(0, 1_000_000))
    warmup_iterations: int | None = _key(None, within(0, 10**9))
    warmup_from: float = _key(0.0, within(0, 1))
    decay: str = _key("steps", one_of("steps", "cosine"))
    milestones: tuple[int, ...] = _key((120, 160), within(1, 1_000_000))
    gamma: float = _key(0.01, within(0, 1))

    @property
    def length(self) -> tuple[int, int]:
        """Length and warm-up, in iterations where those are given, else in epochs."""
        given = (self.epochs, self.warmup_epochs)
        if self.iterations is not None:
            given = (self.iterations, self.warmup_iterations)
        length, warmup = given
        if length is None or warmup is None:
            raise ValueError("a schedule has a length and a warm-up in one unit")
        return length, warmup


@dataclass(frozen=True)
class Teacher:
    """What the teacher minimises: balanced softmax (bsce) or plain cross-entropy (ce).

    `label_smoothing` spreads that share of each label evenly over all classes.
    """

    loss: str = _key("bsce", one_of("bsce", "ce"))
    label_smoothing: float = _key(0.0, within(0, 0.9999))


@dataclass(frozen=True)
class Distillation:
    """DiVE's target and loss: teacher temperature, power normalisation, weight of the KL term.

    `student_tau` is the student's own temperature; null is the teacher's.
    """

    tau: float = _key(3.0, within(*bounds.TEMPERATURES))
    power: float = _key(0.5, within(*bounds.POWERS))
    student_tau: float | None = _key(None, within(*bounds.TEMPERATURES))
    weight: float = _key(0.5, within(0, 1))


@dataclass(frozen=True)
class Student:
    """In what the student's training differs from the teacher's; null is a part that is the same.

    A part is laid over the teacher's. A network of another name has its own weights, head and input size, not
    the teacher's, and without weights no body factor; mean and std are the teacher's unless they are given.
    """

    model: Model | None = None
    optimizer: Optimizer | None = None
    schedule: Schedule | None = None


@dataclass(frozen=True)
class Recipe:
    """One experiment. `seed` seeds initialisation, sample order and the choice of views.

    `model`, `optimizer` and `schedule` are the teacher's, and the student's where `student` does not differ.
    """

    name: str = _key("cifar100_lt_bbn", bounds.file_name)
    seed: int = _key(0, _SEED)
    precision: str = _key("auto", one_of("auto", "fp32", "tf32", "bf16"))
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
