"""Faults between the keys of a recipe: values that are valid one by one and contradict each other."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from dive.printable import excerpt

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe
    from dive.recipe.training import Schedule


def _values_per_channel(key: str) -> "Callable[[Recipe], str | None]":
    def check(recipe: "Recipe") -> str | None:
        channels = recipe.data.channels
        if len(getattr(recipe.model.input, key)) == channels:
            return None
        values = f"{channels} value{'s' * (channels > 1)}"
        return f"model.input.{key} must have {values} for {recipe.data.kind} images"

    return check


def _head(recipe: "Recipe") -> str | None:
    if recipe.model.head is None or recipe.model.weights is not None:
        return None
    return "model.head is for the head of model.weights; without model.weights it must be null"


def _body_factor(recipe: "Recipe") -> str | None:
    if recipe.optimizer.body_factor == 1 or recipe.model.weights is not None:
        return None
    return (
        "optimizer.body_factor is for a network that starts from model.weights; without model.weights it "
        "must be 1"
    )


def _colour(recipe: "Recipe") -> str | None:
    if not recipe.views.colour or recipe.data.channels == 3:
        return None
    return f"views.kind {recipe.views.kind} needs colour images, {recipe.data.kind} are grey"


def _flip(recipe: "Recipe") -> str | None:
    if recipe.data.mirrored or not recipe.views.keys().get("flip"):
        return None
    return f"views.flip must be false for {recipe.data.kind}: a mirrored image may be of another class"


def _units(schedule: "Schedule") -> tuple[str, str]:
    """The unit of the schedule's length, and the other unit."""
    return ("epochs", "iterations") if schedule.iterations is None else ("iterations", "epochs")


def _null_beside(key: str) -> "Callable[[Recipe], str | None]":
    def check(recipe: "Recipe") -> str | None:
        used, other = _units(recipe.schedule)
        if not key.endswith(other) or getattr(recipe.schedule, key) is None:
            return None
        return f"schedule.{key} must be null beside schedule.{used}; --epochs N gives a length in epochs"

    return check


def _length(recipe: "Recipe") -> str | None:
    if recipe.schedule.epochs is None and recipe.schedule.iterations is None:
        return "schedule.epochs must be given, or schedule.iterations"
    return None


def _warmup(recipe: "Recipe") -> str | None:
    used, _ = _units(recipe.schedule)
    length, warmup = getattr(recipe.schedule, used), getattr(recipe.schedule, f"warmup_{used}")
    if length is None:
        return None
    if warmup is None:
        return f"schedule.warmup_{used} must be given with schedule.{used}; it may be 0"
    if warmup > length:
        return f"schedule.warmup_{used} must not exceed schedule.{used}; --epochs scales both"
    return None


def _accumulate(recipe: "Recipe") -> str | None:
    if recipe.schedule.accumulate <= recipe.schedule.batch_size:
        return None
    return "schedule.accumulate must not exceed schedule.batch_size, which it divides into parts"


def _has_steps(schedule: "Schedule") -> bool:
    return schedule.decay == "steps" and schedule.iterations is None


def _milestones(recipe: "Recipe") -> str | None:
    if not recipe.schedule.milestones or _has_steps(recipe.schedule):
        return None
    return "schedule.milestones must be [] unless schedule.decay is steps and the length is in epochs"


def _increasing(recipe: "Recipe") -> str | None:
    milestones = list(recipe.schedule.milestones)
    if milestones == sorted(set(milestones)) or not _has_steps(recipe.schedule):
        return None
    return f"schedule.milestones must increase, not {excerpt(milestones)}"


def _last_milestone(recipe: "Recipe") -> str | None:
    schedule = recipe.schedule
    if not schedule.milestones or schedule.epochs is None or not _has_steps(schedule):
        return None
    if schedule.milestones[-1] <= schedule.epochs:
        return None
    milestones = excerpt(list(schedule.milestones))
    return (
        f"schedule.milestones {milestones} lie beyond schedule.epochs {schedule.epochs}; --epochs scales both"
    )


_LENGTHS = ("schedule.epochs", "schedule.iterations")
# The keys that each check compares, and the check, which returns what is wrong with them, or None.
CONTRADICTIONS: "tuple[tuple[tuple[str, ...], Callable[[Recipe], str | None]], ...]" = (
    (("model.input.mean", "data.kind"), _values_per_channel("mean")),
    (("model.input.std", "data.kind"), _values_per_channel("std")),
    (("model.head", "model.weights"), _head),
    (("optimizer.body_factor", "model.weights"), _body_factor),
    (("schedule.accumulate", "schedule.batch_size"), _accumulate),
    (_LENGTHS, _null_beside("epochs")),
    (("schedule.iterations", "schedule.warmup_iterations"), _null_beside("warmup_iterations")),
    (("schedule.iterations", "schedule.warmup_epochs"), _null_beside("warmup_epochs")),
    (_LENGTHS, _length),
    ((*_LENGTHS, "schedule.warmup_epochs", "schedule.warmup_iterations"), _warmup),
    (("schedule.milestones", "schedule.decay", "schedule.iterations"), _milestones),
    (("schedule.milestones",), _increasing),
    (("schedule.milestones", "schedule.decay", *_LENGTHS), _last_milestone),
    (("views.kind", "data.kind"), _colour),
    (("views.flip", "data.kind"), _flip),
)
