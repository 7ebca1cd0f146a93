"""The recipe: everything that defines an experiment, typed, frozen and checked once at the edge.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. How one is
read and checked is `dive.recipe.reading`'s. Imports no torch: `dive tune-tau` reads a recipe too.
"""

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from dive.recipe import bounds
from dive.recipe.bounds import Check, one_of, within
from dive.recipe.documents import plain

MOST_FAULTS = 20  # told in one message


def _key(default: Any, check: Check | None = None) -> Any:
    return field(default=default, metadata={"check": check} if check else {})


@dataclass(frozen=True)
class Data:
    """Which images, and how many of each class.

    `imbalance` is the ratio of the largest to the smallest class after the draw; null takes the
    classes as they are. `size` is the side in pixels to which a folder's images are brought (null:
    32); the other sources have sizes of their own. `mean` and `std` normalise pixels in [0, 1].
    """

    source: str = _key("cifar100", one_of("cifar100", "cifar10", "folder", "digits"))
    path: str = _key("data", bounds.path)
    imbalance: float | None = _key(100.0, within(1.0, 1e9))
    seed: int = _key(0, within(*bounds.SEEDS))
    size: int | None = _key(None, within(8, 1024))
    mean: tuple[float, ...] = _key((0.4914, 0.4822, 0.4465), within(0, 1))
    std: tuple[float, ...] = _key((0.2023, 0.1994, 0.2010), within(1e-6, 1e6))

    def identity(self) -> dict[str, Any]:
        """What the images are, as plain values; where they lie does not matter."""
        document = plain(dataclasses.asdict(self))
        del document["path"]
        return document


@dataclass(frozen=True)
class Views:
    """The space of augmented views: pad with zeros, crop back, perhaps flip (`crop_flip`).

    `autoaugment` goes on with AutoAugment (CIFAR-10 policy) and Cutout, a hole of half the side.
    """

    kind: str = _key("crop_flip", one_of("crop_flip", "autoaugment"))
    pad: int = _key(4, within(0, 64))
    flip: bool = _key(True)
    seed: int = _key(0, within(*bounds.SEEDS))


@dataclass(frozen=True)
class Model:
    """The network."""

    name: str = _key("resnet32", bounds.resnet)


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum; weight decay on every parameter."""

    lr: float = _key(0.1, within(1e-12, 1e30))
    momentum: float = _key(0.9, within(0, 0.9999))
    weight_decay: float = _key(2e-4, within(0, 1))


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `warmup_from` of the learning rate to all of it, then decay.

    `decay` steps: times `gamma` at the start of each milestone epoch; cosine: to 0 at the end. The
    length is `epochs` with `warmup_epochs`, or `iterations` with `warmup_iterations`, which are steps
    (the rest of their last epoch goes at the last rate); the pair that is not used is null.
    """

    epochs: int | None = _key(200, within(*bounds.EPOCHS))
    iterations: int | None = _key(None, within(1, 10**9))
    batch_size: int = _key(128, within(1, 1_000_000))
    warmup_epochs: int | None = _key(5, within(0, 1_000_000))
    warmup_iterations: int | None = _key(None, within(0, 10**9))
    warmup_from: float = _key(0.0, within(0, 1))
    decay: str = _key("steps", one_of("steps", "cosine"))
    milestones: tuple[int, ...] = _key((120, 160), within(1, 1_000_000))
    gamma: float = _key(0.01, within(0, 1))


@dataclass(frozen=True)
class Teacher:
    """What the teacher minimises: balanced softmax (bsce) or plain cross-entropy (ce)."""

    loss: str = _key("bsce", one_of("bsce", "ce"))


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
class Recipe:
    """One experiment. `seed` seeds initialisation, sample order and the choice of views."""

    name: str = _key("cifar100_lt_bbn", bounds.file_name)
    seed: int = _key(0, within(*bounds.SEEDS))
    precision: str = _key("auto", one_of("auto", "fp32", "tf32", "bf16"))
    data: Data = field(default_factory=Data)
    views: Views = field(default_factory=Views)
    model: Model = field(default_factory=Model)
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    teacher: Teacher = field(default_factory=Teacher)
    distillation: Distillation = field(default_factory=Distillation)

    def as_dict(self) -> dict[str, Any]:
        """The whole recipe as nested plain values, tuples as lists, fit for JSON and YAML."""
        return plain(dataclasses.asdict(self))
