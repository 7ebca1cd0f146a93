"""How a dataclass of the recipe declares a key: its default, what a value must be, and what it means."""

from dataclasses import field, replace
from typing import Any

from dive.recipe import bounds
from dive.recipe.bounds import Check, within

RATE = within(1e-12, 1e30)
SEED = replace(within(*bounds.SEEDS), wanted="0 to 2⁶³ − 1")
SIDE = within(8, bounds.LARGEST_SIDE)


def key(default: Any, check: Check | None, about: str) -> Any:
    """Declare a key: its default, its check (None if every value of its type is valid) and its meaning.

    about: its meaning and unit for docs/recipe.md, as one line of Markdown without a capital and a full stop.

    >>> from dataclasses import dataclass, fields
    >>> @dataclass(frozen=True)
    ... class Part:
    ...     side: int = key(32, SIDE, "side of an image, in pixels")
    >>> fields(Part)[0].metadata["about"]
    'side of an image, in pixels'
    """
    return field(default=default, metadata={"check": check, "about": about})


def kind(name: str) -> Any:
    """Declare the key `kind` of a part that comes in kinds, each of which has its own dataclass."""
    return field(default=name, init=False)
