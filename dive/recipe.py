"""The recipe: everything that defines an experiment, typed, frozen and checked once at the edge.

The defaults are the paper's experiment: CIFAR-100-LT at imbalance 100 with the BBN schedule. A
YAML file under configs/ states what differs; `--set` and the options go over it. Every fault of a
recipe is reported together, each with its key path. Imports no torch: `dive tune-tau` reads one too.
"""

import dataclasses
import math
import re
import types
import typing
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from dive.documents import merge, nest, parse_assignment, plain, read_config
from dive.errors import RecipeError

Check = Callable[[Any], str | None]


def _range(low: float | None = None, high: float | None = None, *, above: float | None = None) -> Check:
    """A check that a number (or each of several) lies in [low, high], or is greater than `above`."""
    wanted = " and ".join(
        text
        for text, bound in ((f"> {above}", above), (f">= {low}", low), (f"<= {high}", high))
        if bound is not None
    )

    def check(value: Any) -> str | None:
        for number in value if isinstance(value, tuple) else (value,):
            outside = (
                (isinstance(number, float) and not math.isfinite(number))
                or (low is not None and number < low)
                or (above is not None and number <= above)
                or (high is not None and number > high)
            )
            if outside:
                return f"must be {wanted}, not {value}"
        return None

    return check


def _one_of(*choices: str) -> Check:
    return lambda value: None if value in choices else f"must be one of {', '.join(choices)}, not {value!r}"


def _resnet(value: str) -> str | None:
    depth = value.removeprefix("resnet")
    if depth != value and depth.isascii() and depth.isdigit() and int(depth) >= 8 and int(depth) % 6 == 2:
        return None
    return f"must be resnetN with N = 6n+2 (resnet8, resnet20, resnet32, …), not {value!r}"


def _file_name(value: str) -> str | None:
    if re.fullmatch(r"\w[\w .+-]{0,99}", value):
        return None
    return f"must be usable as a file name (letters, digits, _ - + . and spaces, at most 100), not {value!r}"


def _key(default: Any, check: Check | None = None) -> Any:
    return field(default=default, metadata={"check": check} if check else {})


@dataclass(frozen=True)
class Data:
    """Which images, and how many of each class.

    `imbalance` is the ratio of the largest to the smallest class after the draw; null takes the
    classes as they are. `size` is the side in pixels to which a folder's images are brought (null:
    32); the other sources have sizes of their own. `mean` and `std` normalise pixels in [0, 1].
    """

    source: str = _key("cifar100", _one_of("cifar100", "cifar10", "folder", "digits"))
    path: str = _key("data")
    imbalance: float | None = _key(100.0, _range(1))
    seed: int = _key(0, _range(0, 2**63 - 1))
    size: int | None = _key(None, _range(8, 1024))
    mean: tuple[float, ...] = _key((0.4914, 0.4822, 0.4465), _range(0, 1))
    std: tuple[float, ...] = _key((0.2023, 0.1994, 0.2010), _range(above=0))

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

    kind: str = _key("crop_flip", _one_of("crop_flip", "autoaugment"))
    pad: int = _key(4, _range(0, 64))
    flip: bool = _key(True)
    seed: int = _key(0, _range(0, 2**63 - 1))


@dataclass(frozen=True)
class Model:
    """The network."""

    name: str = _key("resnet32", _resnet)


@dataclass(frozen=True)
class Optimizer:
    """SGD with momentum; weight decay on every parameter."""

    lr: float = _key(0.1, _range(above=0))
    momentum: float = _key(0.9, _range(0, 0.9999))
    weight_decay: float = _key(2e-4, _range(0, 1))


@dataclass(frozen=True)
class Schedule:
    """Linear warm-up from `warmup_from` of the learning rate to all of it, then decay.

    `decay` steps: times `gamma` at the start of each milestone epoch; cosine: to 0 at the end. The
    length is `epochs` with `warmup_epochs`, or `iterations` with `warmup_iterations`, which are steps
    (the rest of their last epoch goes at the last rate); the pair that is not used is null.
    """

    epochs: int | None = _key(200, _range(1, 1_000_000))
    iterations: int | None = _key(None, _range(1, 10**9))
    batch_size: int = _key(128, _range(1, 1_000_000))
    warmup_epochs: int | None = _key(5, _range(0, 1_000_000))
    warmup_iterations: int | None = _key(None, _range(0, 10**9))
    warmup_from: float = _key(0.0, _range(0, 1))
    decay: str = _key("steps", _one_of("steps", "cosine"))
    milestones: tuple[int, ...] = _key((120, 160), _range(1, 1_000_000))
    gamma: float = _key(0.01, _range(0, 1))


@dataclass(frozen=True)
class Teacher:
    """What the teacher minimises: balanced softmax (bsce) or plain cross-entropy (ce)."""

    loss: str = _key("bsce", _one_of("bsce", "ce"))


@dataclass(frozen=True)
class Distillation:
    """DiVE's target and loss: teacher temperature, power normalisation, weight of the KL term.

    `student_tau` is the student's own temperature; null is the teacher's.
    """

    tau: float = _key(3.0, _range(above=0))
    power: float = _key(0.5, _range(above=0, high=1))
    student_tau: float | None = _key(None, _range(above=0))
    weight: float = _key(0.5, _range(0, 1))


@dataclass(frozen=True)
class Recipe:
    """One experiment. `seed` seeds initialisation, sample order and the choice of views."""

    name: str = _key("cifar100_lt_bbn", _file_name)
    seed: int = _key(0, _range(0, 2**63 - 1))
    precision: str = _key("auto", _one_of("auto", "fp32", "tf32", "bf16"))
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
    problems = []
    for assignment in assignments:
        try:
            document = merge(document, parse_assignment(assignment))
        except RecipeError as error:
            problems.append(str(error))
    for key, value in (options or {}).items():
        if value is not None:
            document = merge(document, nest(key, value))
    return build(document, str(config) if isinstance(config, Path) else "the recipe", problems)


def build(document: Mapping[str, Any], where: str = "the recipe", problems: Sequence[str] = ()) -> Recipe:
    """A checked recipe of nested plain values; raises RecipeError naming every fault.

    problems: faults found before, to be reported with the rest.
    """
    found = list(problems)
    recipe = _build(Recipe, document, "", found)
    if not any(fault.startswith("data.source") for fault in found):
        found += _contradictions(recipe)
    if found:
        raise RecipeError(f"{where}: " + "; ".join(found))
    return recipe


def _build(cls: type, document: Any, prefix: str, problems: list[str]) -> Any:
    """An instance of dataclass `cls`; faults are added to `problems`."""
    if not isinstance(document, Mapping):
        problems.append(f"{prefix.rstrip('.')} must be a mapping of keys, not {document!r}")
        return cls()
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, given in document.items():
        if key not in fields:
            problems.append(f"{prefix}{key} is not a known key (known here: {', '.join(fields)})")
        elif dataclasses.is_dataclass(hints[key]):
            values[key] = _build(hints[key], given, f"{prefix}{key}.", problems)
        else:
            try:
                values[key] = _convert(given, hints[key])
            except ValueError as error:
                problems.append(f"{prefix}{key} {error}")
                continue
            check = fields[key].metadata.get("check")
            fault = check(values[key]) if check and values[key] is not None else None
            if fault:
                problems.append(f"{prefix}{key} {fault}")
                del values[key]
    return cls(**values)


def _convert(value: Any, hint: Any) -> Any:
    """`value` as type `hint`; ValueError says what it must be."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list, not {value!r}")
        return tuple(_convert(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return _convert_float(value)
    if type(value) is not hint:
        name = {int: "a whole number", str: "a text", bool: "true or false"}[hint]
        raise ValueError(f"must be {name}, not {value!r}")
    return value


def _convert_float(value: Any) -> float:
    """A number; YAML 1.1 reads 2e-4 as a text, people mean a number."""
    if not isinstance(value, bool):
        try:
            return float(value)
        except (TypeError, ValueError, OverflowError):
            pass
    raise ValueError(f"must be a number, not {value!r}")


def _contradictions(recipe: Recipe) -> Iterator[str]:
    """Faults that lie between keys."""
    data, schedule = recipe.data, recipe.schedule
    channels = 1 if data.source == "digits" else 3
    for key in ("mean", "std"):
        if len(getattr(data, key)) != channels:
            yield f"data.{key} must have {channels} value{'s' * (channels > 1)} for {data.source} images"
    if data.size is not None and data.source != "folder":
        yield f"data.size applies to source folder alone; {data.source} images keep their own size"
    yield from _contradictions_of_lengths(schedule)
    if recipe.views.kind == "autoaugment" and data.source == "digits":
        yield "views.kind autoaugment needs colour images, digits are grey"
    if recipe.views.flip and data.source == "digits":
        yield "views.flip must be false for digits: a mirrored digit is another sign"


def _contradictions_of_lengths(schedule: Schedule) -> Iterator[str]:
    used, other = ("epochs", "iterations") if schedule.iterations is None else ("iterations", "epochs")
    length, warmup = getattr(schedule, used), getattr(schedule, f"warmup_{used}")
    for key in (other, f"warmup_{other}"):
        if getattr(schedule, key) is not None:
            yield f"schedule.{key} must be null beside schedule.{used}; --epochs N gives a length in epochs"
    if length is None:
        yield "schedule.epochs must be given, or schedule.iterations"
    elif warmup is None:
        yield f"schedule.warmup_{used} must be given with schedule.{used}; it may be 0"
    elif warmup > length:
        yield f"schedule.warmup_{used} must not exceed schedule.{used}; --epochs scales both"
    milestones = list(schedule.milestones)
    if milestones and (schedule.decay == "cosine" or used == "iterations"):
        yield "schedule.milestones are epochs at which decay steps; without those they must be []"
    elif milestones != sorted(set(milestones)):
        yield f"schedule.milestones must increase, not {milestones}"
    elif milestones and length is not None and milestones[-1] > length:
        yield f"schedule.milestones {milestones} lie beyond schedule.epochs {length}; --epochs scales both"
