"""What is missing of the table of runs, in the order in which it is made, and how long it would take.

Times are estimated from recorded runs of the same network and view space. A training run takes the time per
image and epoch of the fastest of them, times its images and epochs. An export has only forward passes, each
about a third of a training step: V views of T teachers take the time of T·V/3 epochs.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

from dive.data.longtail import class_counts
from dive.progress import duration
from dive.recipe.reading import load, with_epochs
from dive.recipe.recipe import Recipe
from dive.recipe.shipped import locate
from reproduction.table import CACHE, RUN, Cache, Run

FORWARD = 1 / 3  # of a training step, which also has a backward pass
ALL_VIEWS = {"crop_flip": 162}  # with padding 4 and flips
IMAGES_PER_CLASS, CLASSES = 500, 100  # of CIFAR-100


@dataclass(frozen=True)
class Step:
    """One thing to make. seconds: estimated from the recorded run `like`; None if there is no such run."""

    what: Run | Cache
    seconds: float | None
    like: str | None


@dataclass(frozen=True)
class There:
    """What exists already: whether a run is recorded, its weights exist, and a cache exists."""

    recorded: Callable[[Run], bool]
    weights: Callable[[Run], bool]
    cache: Callable[[Cache], bool]


def plan(runs: Iterable[Run], there: There, records: Mapping[str, Mapping[str, Any]]) -> Iterator[Step]:
    """The steps for the missing ones of these runs, each once, and after the steps that it needs.

    A student needs its cache, and a cache those of its teachers whose weights do not exist. records: the
    records of runs by name.
    """
    made: set[str] = set()

    def run_steps(run: Run) -> Iterator[Step]:
        if run.name in made:
            return
        if run.cache is not None:
            yield from cache_steps(CACHE[run.cache])
        made.add(run.name)
        yield Step(run, *estimate(run, records))

    def cache_steps(store: Cache) -> Iterator[Step]:
        if store.path.name in made or there.cache(store):
            return
        for teacher in store.teachers:
            if not there.weights(RUN[teacher]):
                yield from run_steps(RUN[teacher])
        made.add(store.path.name)
        yield Step(store, *estimate_export(store, records))

    for run in runs:
        if not there.recorded(run):
            yield from run_steps(run)


def estimate(run: Run, records: Mapping[str, Mapping[str, Any]]) -> tuple[float | None, str | None]:
    """Seconds that a run would take, and the name of the recorded run that the estimate is based on."""
    recipe = recipe_of(run)
    name, rate = _rate(recipe, records)
    if rate is None or recipe.schedule.epochs is None:
        return None, None
    return rate * images(recipe) * recipe.schedule.epochs, name


def estimate_export(
    store: Cache, records: Mapping[str, Mapping[str, Any]]
) -> tuple[float | None, str | None]:
    """Seconds that an export would take, and the name of the recorded run that the estimate is based on."""
    recipe = load(locate(Path(store.config))).of_teacher
    name, rate = _rate(recipe, records)
    if rate is None:
        return None, None
    views = {"all": ALL_VIEWS.get(recipe.views.kind), "clean": 1}.get(store.views) or int(store.views)
    return FORWARD * rate * images(recipe) * views * len(store.teachers), name


def _rate(recipe: Recipe, records: Mapping[str, Mapping[str, Any]]) -> tuple[str | None, float | None]:
    """The fastest recorded run of the same network and views, and its seconds per image and epoch."""
    wanted = (recipe.model.name, recipe.views.kind)
    like = {}
    for name, record in records.items():
        made = (record["architecture"]["name"], record["recipe"]["views"]["kind"])
        if made == wanted:
            like[name] = record["seconds"] / (sum(record["class_counts"]) * record["epochs"])
    if not like:
        return None, None
    name = min(like, key=lambda name: (like[name], name))
    return name, like[name]


@cache
def recipe_of(run: Run) -> Recipe:
    """A run's recipe, for the kind and the epochs that its words state."""
    recipe = load(locate(Path(run.config)))
    recipe = recipe.of_student if run.kind == "student" else recipe.of_teacher
    if "--epochs" in run.words:
        recipe = with_epochs(recipe, int(run.words[run.words.index("--epochs") + 1]))
    return recipe


def images(recipe: Recipe) -> int:
    """Training images of a recipe on CIFAR-100, by arithmetic."""
    if recipe.data.imbalance is None:
        return IMAGES_PER_CLASS * CLASSES
    return sum(class_counts(IMAGES_PER_CLASS, recipe.data.imbalance, CLASSES))


def named(step: Step) -> str:
    """What a step makes, in a few words."""
    return step.what.name if isinstance(step.what, Run) else f"cache {step.what.path.name}"


def lasts(seconds: float | None) -> str:
    """An estimated time."""
    return "unknown" if seconds is None else duration(seconds)


def total(steps: Iterable[Step]) -> str:
    """How long steps take together."""
    seconds = [step.seconds for step in steps]
    about = f"about {duration(sum(filter(None, seconds)))}"
    return about if None not in seconds else f"{about}, and what is unknown"


def basis(steps: Iterable[Step]) -> str:
    """From which recorded runs the times of steps are estimated."""
    like = sorted({step.like for step in steps if step.like is not None})
    return (
        f"Estimated from the recorded times of {', '.join(like)}, the fastest comparable runs, by images "
        "and epochs; a view of an export counts as a third of one in training."
    )
