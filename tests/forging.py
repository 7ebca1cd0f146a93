"""Documents of which one value is not what its reader expects, for files that somebody else sealed."""

import math
import random
from collections.abc import Iterator
from typing import Any


def deep() -> list:
    """Lists within lists, as deep as they can be pickled."""
    value: list = []
    for _ in range(150):
        value = [value]
    return value


MISSING = object()
WRONG: dict[type, list[Any]] = {
    str: [7, None, ["x"], {"x": 1}, 10**4000, MISSING],
    bool: ["yes", None, 3, [], MISSING],
    int: ["x", None, -7, 1.5, 10**30, 10**4000, [3], MISSING],
    float: ["x", None, math.nan, -math.inf, -0.5, [0.5], 10**4000, MISSING],
    list: ["x", {}, 3, [None], [[]], [10**30], MISSING],
    dict: ["x", [], 3, None, {}, MISSING],
}
# What may be absent or anything plain: a reader does not depend on it.
FREE = ("producer", "trained_together", "fixed_view", "cache", "versions", "recipe/distillation")
FREE += tuple(f"teacher/recipe/{part}" for part in ("data", "model", "optimizer", "teacher", "views"))
FREE += ("teacher/recipe/schedule", "identity/recipe/", "replaces", "device", "format", "version")


def leaves(document: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Every path of a document with its value, mappings themselves too."""
    for key, value in document.items():
        path = f"{prefix}{key}"
        if path in ("model", "optimizer", "cache") or path.startswith(FREE):
            continue
        yield path, value
        if isinstance(value, dict):
            yield from leaves(value, f"{path}/")


def changed(document: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """The document with another value at a path, or without it."""
    copy = dict(document)
    key, _, rest = path.partition("/")
    if rest:
        copy[key] = changed(document[key], rest, value)
    elif value is MISSING:
        del copy[key]
    else:
        copy[key] = value
    return copy


def forgeries(document: dict[str, Any], count: int, seed: int) -> list[tuple[str, dict[str, Any]]]:
    """Documents of which one value is of a wrong type, too large, too deep or missing, with its path."""
    generator = random.Random(seed)
    places = [(path, value) for path, value in leaves(document) if type(value) in WRONG]
    made = []
    for number in range(count):
        path, value = generator.choice(places)
        wrong = deep() if number % 10 == 9 else generator.choice(WRONG[type(value)])
        if path.split("/")[-1] in ("many", "medium", "few", "student_tau") and wrong is None:
            wrong = "x"  # null is right there
        made.append((path, changed(document, path, wrong)))
    return made
