"""The recipe: everything that defines an experiment, typed, frozen and checked once at the edge.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. A
YAML file under configs/ states what differs; `--set` and the options go over it. Every fault of a
recipe is reported together, each with its key path. Imports no torch: `dive tune-tau` reads one too.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dive import bounds, notation
from dive.bounds import Check, one_of, within
from dive.contradictions import CONTRADICTIONS
from dive.documents import merge, nest, parse_assignment, plain, read_config
from dive.errors import RecipeError
from dive.printable import excerpt, shortened

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

    def with_epochs(self, epochs: int) -> "Recipe":
        """The recipe at another length: warm-up and milestones keep their share of it.

        Raises RecipeError if `epochs` is out of range.
        """
        old = self.schedule
        if old.iterations is None:
            warmup, milestones = old.warmup_epochs / old.epochs, [m / old.epochs for m in old.milestones]
        else:
            warmup, milestones = old.warmup_iterations / old.iterations, []
        document = {
            "epochs": epochs,
            "iterations": None,
            "warmup_epochs": round(epochs * warmup),
            "warmup_iterations": None,
            "milestones": sorted({max(1, round(epochs * share)) for share in milestones}),
        }
        return build(merge(self.as_dict(), {"schedule": document}), where="--epochs")


def load(
    config: Path | Mapping[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a YAML file or a document, `KEY=VALUE` assignments over it, dotted options over both.

    `options` maps dotted keys to values; None means the option was not given. Raises RecipeError
    with every fault found.
    """
    document = read_config(config) if isinstance(config, Path) else dict(config or {})
    faults = _Faults()
    for assignment in assignments:
        try:
            document = merge(document, parse_assignment(assignment))
        except RecipeError as error:
            faults.add(assignment.partition("=")[0].strip(), str(error))
    for key, value in (options or {}).items():
        if value is not None:
            document = merge(document, nest(key, value))
    return _checked(document, str(config) if isinstance(config, Path) else "the recipe", faults)


def build(document: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """A checked recipe of nested plain values; raises RecipeError naming every fault."""
    return _checked(document, where, _Faults())


class _Faults:
    """The faults of a recipe as messages, and the keys that are not sound for them."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._unsound: set[str] = set()

    def add(self, key: str, message: str, unsound: Collection[str] = ()) -> None:
        """A fault of a dotted key, or of a section: what is not sound for it, if not the key itself."""
        self.messages.append(message)
        self._unsound.update(unsound or [key])

    def spoil(self, *keys: str) -> bool:
        """Whether one of these keys is not sound, or a section that it is in."""
        return any(key in self._unsound or key.partition(".")[0] in self._unsound for key in keys)


def _checked(document: Mapping[str, Any], where: str, faults: _Faults) -> Recipe:
    recipe = _build(Recipe, document, "", faults)
    for keys, check in CONTRADICTIONS:
        # Beside a key at fault stands its default, which nobody chose and nothing contradicts.
        if not faults.spoil(*keys) and (message := check(recipe)):
            faults.messages.append(message)
    if told := faults.messages[:MOST_FAULTS]:
        if more := len(faults.messages) - len(told):
            told.append(f"and {more} more")
        raise RecipeError(f"{where}: " + "; ".join(told))
    return recipe


def _build(cls: type, document: Any, prefix: str, faults: _Faults) -> Any:
    """An instance of dataclass `cls`; what is wrong goes to `faults`."""
    if not isinstance(document, Mapping):
        section = prefix.rstrip(".")
        faults.add(section, f"{section} must be a mapping of keys, not {excerpt(document)}")
        return cls()
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, given in document.items():
        name = f"{prefix}{key}"
        if key not in fields:
            known = ", ".join(fields)
            # Perhaps one that is left out was meant.
            left_out = [f"{prefix}{field}" for field in fields if field not in document]
            faults.add(name, f"{shortened(name)} is not a known key (known here: {known})", left_out)
        elif dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], given, f"{name}.", faults)
        else:
            try:
                values[key] = _value(given, hints[key], fields[key].metadata.get("check"))
            except ValueError as error:
                faults.add(name, f"{name} {error}")
    return cls(**values)


def _value(given: Any, hint: Any, check: Check | None) -> Any:
    """`given` as type `hint`, its range checked; ValueError says what it must be."""
    value = _convert(given, hint)
    if check and value is not None and (fault := check(value)):
        raise ValueError(fault)
    return value


def _convert(value: Any, hint: Any) -> Any:
    """`value` as type `hint`; ValueError says what it must be."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list, not {excerpt(value)}")
        return tuple(_convert(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return _convert_float(value)
    if type(value) is not hint:
        name = {int: "a whole number", str: "a text", bool: "true or false"}[hint]
        advice = notation.advice(value) if hint is int and isinstance(value, str) else ""
        raise ValueError(f"must be {name}, not {excerpt(value)}{advice}")
    return value


def _convert_float(value: Any) -> float:
    """A number; one in quotes will do."""
    advice = ""
    if isinstance(value, str):
        try:
            return notation.decimal(value)
        except ValueError:
            advice = notation.advice(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError(f"must be a number, not {excerpt(value)}{advice}")
