"""Checks of the structure of a document, made once when it is read from a file.

A file with a valid seal may still have been made by another program, or with malicious intent. Code that
reads a document states what it needs as a table of paths and checks. It gets all of it, or one line that
names the first fault. This module does not import torch, since caches are checked by it too.
"""

import math
from collections.abc import Callable, Mapping
from typing import Any

from dive.printable import excerpt, shortened

MOST_LEVELS = 12  # of nesting; documents of dive have five
LARGEST_WHOLE = 2**63 - 1
_SHOWN = 200  # characters of a faulty value in a message

# Takes a value and returns what it must be instead, or None if it is valid.
Check = Callable[[Any], str | None]


def fault_of(document: Any, needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> str:
    """The first fault of a document in a few words, or an empty string if it has none.

    needed: the check of the value at each path (`accuracy/all`), which must exist. optional: the same for
    paths that may be missing. Everything in the document must be plain: strings, finite numbers, true, false
    and null in lists and mappings with string keys, nested at most MOST_LEVELS deep.
    """
    if not isinstance(document, Mapping):
        return f"it is {excerpt(document)}, not a mapping"
    if fault := not_plain(document):
        return fault
    for table, required in ((needed, True), (optional or {}, False)):
        for path, check in table.items():
            found, value = look_up(document, path)
            if not found and not required:
                continue
            if not found:
                return f"it has no {path}"
            if wanted := check(value):
                return f"its {path} is {shortened(excerpt(value), _SHOWN)}, not {wanted}"
    return ""


def not_plain(value: Any, where: str = "", level: int = 0) -> str:
    """Why a value is not plain, in a few words; an empty string if it is plain."""
    place = f"its {where}" if where else "it"
    if level > MOST_LEVELS:
        return f"{place} is nested too deeply"
    if isinstance(value, Mapping):
        for key, item in value.items():
            if not isinstance(key, str):
                return f"{place} has the key {excerpt(key)}, which is not a string"
            if fault := not_plain(item, f"{where}/{shortened(key)}".lstrip("/"), level + 1):
                return fault
        return ""
    if isinstance(value, list):
        return next(filter(None, (not_plain(item, where, level + 1) for item in value)), "")
    if isinstance(value, int) and abs(value) > LARGEST_WHOLE:
        return f"{place} is too large a number"
    if isinstance(value, float) and not math.isfinite(value):
        return f"{place} is {value}"
    if value is None or isinstance(value, str | int | float):
        return ""
    return f"{place} is of type {type(value).__name__}, which dive does not write"


def look_up(document: Any, path: str) -> tuple[bool, Any]:
    """Whether a document has a path (`accuracy/all`), and the value there, None if it has not."""
    value: Any = document
    for key in path.split("/"):
        if not isinstance(value, Mapping) or key not in value:
            return False, None
        value = value[key]
    return True, value


def text(value: Any) -> str | None:
    """The check for a string."""
    return None if isinstance(value, str) else "a string"


def truth(value: Any) -> str | None:
    """The check for true or false."""
    return None if isinstance(value, bool) else "true or false"


def mapping(value: Any) -> str | None:
    """The check for a mapping."""
    return None if isinstance(value, Mapping) else "a mapping"


def whole(low: int = 0, high: int = LARGEST_WHOLE) -> Check:
    """A check for a whole number from `low` to `high`."""
    wanted = f"a whole number from {low} to {high}" if high < LARGEST_WHOLE else f"a whole number >= {low}"

    def check(value: Any) -> str | None:
        right = isinstance(value, int) and not isinstance(value, bool) and low <= value <= high
        return None if right else wanted

    return check


def number(low: float = -math.inf, high: float = math.inf) -> Check:
    """A check for a number from `low` to `high`."""
    bounded = math.isfinite(low) or math.isfinite(high)

    def check(value: Any) -> str | None:
        right = isinstance(value, int | float) and not isinstance(value, bool) and low <= value <= high
        return None if right else "a number" + (f" from {low:g} to {high:g}" if bounded else "")

    return check


share = number(0, 1)


def one_of(*choices: str) -> Check:
    """A check for one of several strings."""
    return lambda value: None if value in choices else f"one of {', '.join(choices)}"


def or_none(check: Check) -> Check:
    """A check for null, or for what `check` allows."""

    def either(value: Any) -> str | None:
        wanted = None if value is None else check(value)
        return wanted and f"{wanted} or null"

    return either


def list_of(check: Check) -> Check:
    """A check for a list whose items all pass `check`."""

    def each(value: Any) -> str | None:
        if not isinstance(value, list):
            return "a list"
        wanted = next(filter(None, map(check, value)), None)
        return wanted and f"a list in which each item is {wanted}"

    return each


def interval(low: float, high: float) -> Check:
    """A check for a list of two numbers from `low` to `high`, the smaller first."""
    ends = numbers((low, high), (low, high))

    def check(value: Any) -> str | None:
        right = ends(value) is None and value[0] <= value[1]
        return None if right else f"two numbers from {low:g} to {high:g}, the smaller first"

    return check


def numbers(*ranges: tuple[float, float]) -> Check:
    """A check for a list of one number for each range, each within its range."""
    wanted = ", ".join(f"{low:g} to {high:g}" for low, high in ranges)

    def check(value: Any) -> str | None:
        right = isinstance(value, list) and len(value) == len(ranges)
        right = right and not any(number(*ends)(one) for one, ends in zip(value, ranges, strict=True))
        return None if right else f"{len(ranges)} numbers ({wanted})"

    return check


def record_of(needed: Mapping[str, Check], optional: Mapping[str, Check] | None = None) -> Check:
    """A check for a mapping in which `fault_of` finds no fault."""

    def check(value: Any) -> str | None:
        fault = fault_of(value, needed, optional)
        return f"as it must be: {fault}" if fault else None

    return check
