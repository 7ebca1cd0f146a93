"""The command that makes a run again, read off the recipe that it recorded."""

import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dive.errors import RecipeError
from dive.recipe.documents import plain
from dive.recipe.reading import build, load, with_epochs
from dive.recipe.recipe import KINDS, Recipe

_OPTIONS = {
    "distillation.tau": "--tau",
    "distillation.power": "--power",
    "distillation.student_tau": "--student-tau",
    "distillation.weight": "--weight",
    "teacher.loss": "--loss",
    "seed": "--seed",
    "precision": "--precision",
}


def command(record: Mapping[str, Any], recipes: Mapping[str, Path], cache: str | None = None) -> str:
    """The command that makes a run again, but for where the images are.

    recipes: what `--config` may be given, to files. cache: a student's, where it is not the recipe's own; one
    of free views is named after it. Raises RecipeError where no recipe has the record's name.
    """
    recipe = build(record["recipe"])
    words = ["dive", record["kind"]]
    base = Recipe()
    if recipe.name != base.name:
        config = config_of(recipe.name, recipes)
        base = load(recipes[config])
        base = base.of_student if record["kind"] == "student" else base.of_teacher
        words += ["--config", config]
    if recipe.schedule.epochs not in (None, base.schedule.epochs):
        base = with_epochs(base, recipe.schedule.epochs)
        words += ["--epochs", str(recipe.schedule.epochs)]
    below = dict(_leaves(_of_kinds(base, recipe)))
    for key, value in _leaves(recipe.as_dict()):
        if key == "data.root" or (key in below and value == below[key]):
            continue
        text = "null" if value is None else f"{value:g}" if isinstance(value, float) else str(value)
        words += [_OPTIONS[key], text] if key in _OPTIONS else ["--set", f"{key}={text}"]
    if cache is None and record.get("free_views"):
        cache = f"cache/{recipe.name}-clean.h5"
    words += [] if cache is None else ["--cache", cache]
    words += ["--free-views"] if record.get("free_views") else []
    return shlex.join(words)


def config_of(name: str, recipes: Mapping[str, Path]) -> str:
    """What `--config` is given for the recipe called `name`; raises RecipeError where there is none."""
    found = [config for config, path in recipes.items() if load(path).name == name]
    if not found:
        raise RecipeError(f"no recipe is named {name}")
    return found[0]


def _of_kinds(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    """A recipe as a document, but for parts of which another has another kind: that kind's defaults."""
    document = base.as_dict()
    for part, kinds in KINDS.items():
        if (kind := recipe.as_dict()[part]["kind"]) != document[part]["kind"]:
            document[part] = plain(asdict(kinds[kind]())) | {"kind": document[part]["kind"]}
    return document


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
