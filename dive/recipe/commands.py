"""The command that makes a run again, derived from the recipe in its record."""

import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dive.errors import RecipeError
from dive.recipe.documents import nest, parse_assignment, plain
from dive.recipe.reading import build, load, with_epochs
from dive.recipe.recipe import KINDS, STUDENT_PARTS, Recipe
from dive.recipe.teachers import teachers_in

USUAL_STORE = "float16"  # the default encoding of an export
_OF_BOTH = {"seed": "--seed", "precision": "--precision"}
_OPTIONS = {
    "teacher": {"teacher.loss": "--loss", **_OF_BOTH},
    "student": {
        "distillation.tau": "--tau",
        "distillation.power": "--power",
        "distillation.student_tau": "--student-tau",
        "distillation.weight": "--weight",
        **_OF_BOTH,
    },
}


def command(record: Mapping[str, Any], recipes: Mapping[str, Path], cache: str | None = None) -> str:
    """The command that makes a run again, without the option that states where the images are.

    recipes: files by the values that `--config` takes. cache: the file of a student's cache, if it is known;
    otherwise it is written as CACHE, unless it may be the recipe's default. Raises RecipeError if no recipe
    has the record's name.
    """
    kind, recipe, base = record["kind"], build(record["recipe"]), Recipe()
    words = ["dive", kind]
    if recipe.name != base.name:
        config = config_of(recipe.name, recipes)
        base = load(recipes[config])
        words += ["--config", config]
    own = [part for part in STUDENT_PARTS if kind == "student" and getattr(base.student, part) is not None]
    base = base.of_student if kind == "student" else base.of_teacher
    if (scaled := _at_length_of(recipe, base)) is not None:
        base = scaled
        words += ["--epochs", str(recipe.schedule.epochs)]
    below = dict(_leaves(_of_kinds(base, recipe)))
    for key, value in _leaves(_document(recipe)):
        if key == "data.root" or (key in below and value == below[key]):
            continue
        option = None if value is None else _OPTIONS[kind].get(key)
        place = f"student.{key}" if key.partition(".")[0] in own else key
        words += [option, written(value)] if option else ["--set", f"{place}={written(value)}"]
    if kind == "student":
        words += _cache_words(record, recipe, cache)
    return shlex.join(words)


def config_of(name: str, recipes: Mapping[str, Path]) -> str:
    """The value of `--config` for the recipe with this name; raises RecipeError if there is none."""
    found = [config for config, path in recipes.items() if load(path).name == name]
    if not found:
        raise RecipeError(f"no recipe is named {name}")
    return found[0]


def written(value: Any) -> str:
    """A value as `--set` and the options read it, in the shortest form that is read as the same value."""
    if value is None:
        return "null"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    if isinstance(value, str):
        try:
            if parse_assignment(f"key={value}") == nest("key", value):
                return value
        except RecipeError:
            pass
        return json.dumps(value, ensure_ascii=False)
    return str(value)


def _at_length_of(recipe: Recipe, base: Recipe) -> Recipe | None:
    """`base` with `--epochs` at the recipe's length; None if that does not give the recipe's schedule."""
    epochs = recipe.schedule.epochs
    if epochs is None or epochs == base.schedule.epochs:
        return None
    try:
        scaled = with_epochs(base, epochs)
    except RecipeError:
        return None
    keys = ("iterations", "warmup_epochs", "warmup_iterations", "milestones")
    same = all(getattr(scaled.schedule, key) == getattr(recipe.schedule, key) for key in keys)
    return scaled if same else None


def _cache_words(record: Mapping[str, Any], recipe: Recipe, cache: str | None) -> list[str]:
    """The options that state from which cache a student is trained, and how its views are used."""
    how = [option for option in ("free-views", "fixed-view") if record.get(option.replace("-", "_"))]
    if cache is None:
        stored, teachers = record.get("cache", {}), teachers_in(record)
        usual = {"views": recipe.views.usual, "view_seed": recipe.views.seed, "store": USUAL_STORE}
        other = any(key in stored and stored[key] != value for key, value in usual.items())
        trained = all(teacher is None or teacher["kind"] == "teacher" for teacher in teachers)
        cache = "CACHE" if how or other or len(teachers) > 1 or not trained else None
    named = cache is not None and cache != f"cache/{recipe.name}.h5"
    return [*(["--cache", str(cache)] if named else []), *(f"--{option}" for option in how)]


def _document(recipe: Recipe) -> dict[str, Any]:
    """The recipe of a teacher or of a student as a document, with all of its keys."""
    document: dict[str, Any] = plain(asdict(recipe))
    del document["student"]
    return document


def _of_kinds(base: Recipe, recipe: Recipe) -> dict[str, Any]:
    """`base` as a document. A part whose kind differs in `recipe` has the defaults of that other kind."""
    document, wanted = _document(base), _document(recipe)
    for part, kinds in KINDS.items():
        if (kind := wanted[part]["kind"]) != document[part]["kind"]:
            document[part] = plain(asdict(kinds[kind]())) | {"kind": document[part]["kind"]}
    return document


def _leaves(document: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in document.items():
        if isinstance(value, Mapping):
            yield from _leaves(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value
