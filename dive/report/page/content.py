"""The content of a page in plain values: `dive.workflows.report` gathers it, the sections show it."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dive.recipe.teachers import model_name


@dataclass(frozen=True)
class Position:
    """Virtual examples at one τ/p.

    per_class: C numbers, in the order of the labels. shots: the means of the groups; None for a group without
    classes. information: in nats. errors: the standard errors of the groups and of `information`, for a
    sample.
    """

    ratio: float
    per_class: list[float]
    shots: dict[str, float | None]
    information: float
    errors: dict[str, float | None] | None


@dataclass(frozen=True)
class Crossing:
    """The τ/p at which few-shot classes overtake many-shot ones, and the means of both there."""

    ratio: float
    few: float
    many: float


@dataclass(frozen=True)
class View:
    """A stored view of an image as a data URI, and the teacher's logits of it (C)."""

    column: int
    view_id: int
    clean: bool
    uri: str
    logits: list[float]


@dataclass(frozen=True)
class Picture:
    """A training image in some of its stored views. label: its class. shot: that class's group."""

    key: str
    label: int
    shot: str
    views: list[View]


@dataclass(frozen=True)
class CachePart:
    """What a page shows of a cache.

    images: the mean number of training images per class in many, medium and few. clean: whether virtual
    examples are of the clean view only. sample: the number of images they are estimated from; None for all.
    figure: the paper's figure as SVG. figure_says: its description. pictures: None if there are no images;
    `without` then says why. origin: names and values to list. command: the command that makes it again; empty
    if unknown.
    """

    file: str
    model: str
    shape: tuple[int, int, int]
    classes: list[str]
    class_counts: list[int]
    images: dict[str, float | None]
    clean: bool
    sample: int | None
    positions: list[Position]
    crossing: Crossing | None
    advice: str
    figure: bytes
    figure_says: str
    origin: list[tuple[str, str]]
    command: str
    pictures: list[Picture] | None = None
    without: str = ""


@dataclass(frozen=True)
class ModelPart:
    """What a page shows of a finished result.

    record: its record, see `dive.recipe.records`. history: a mapping for each epoch; None without a valid
    history file. recipe: as YAML. command: the command that makes it again.
    """

    file: str
    record: dict[str, Any]
    history: list[dict[str, Any]] | None
    recipe: str
    command: str

    @property
    def called(self) -> str:
        """Its name in a few words."""
        return model_name(self.record["kind"], self.record)


@dataclass(frozen=True)
class Page:
    """Everything of a page. producer: the version of dive that made it, with its libraries."""

    title: str
    models: list[ModelPart] = field(default_factory=list)
    caches: list[CachePart] = field(default_factory=list)
    producer: str = ""

    def names(self) -> list[str]:
        """A unique name for each model on the page, with its recipe, seed and file if needed."""
        names = [model.called for model in self.models]
        for more in (
            [model.record["recipe"]["name"] for model in self.models],
            [f"seed {model.record['seed']}" for model in self.models],
            [model.file for model in self.models],
        ):
            names = _told_apart(names, more)
        return names


def _told_apart(names: Sequence[str], more: Sequence[str]) -> list[str]:
    """The names, with `more` appended to equal names for which it differs."""
    among: dict[str, set[str]] = {}
    for name, told in zip(names, more, strict=True):
        among.setdefault(name, set()).add(told)
    return [
        f"{name}, {told}" if len(among[name]) > 1 else name for name, told in zip(names, more, strict=True)
    ]
