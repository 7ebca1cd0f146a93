"""How a dataclass of the recipe states a key: its default, what a value must be, and what it means."""

from dataclasses import field, replace
from typing import Any

from dive.recipe import bounds
from dive.recipe.bounds import Check, within

RATE = within(1e-12, 1e30)
SEED = replace(within(*bounds.SEEDS), wanted="0 to 2⁶³ − 1")
SIDE = within(8, bounds.LARGEST_SIDE)


def key(default: Any, check: Check | None, about: str) -> Any:
    """A key by its default, its check (None where every value of its type will do) and its meaning.

    about: what it means, a sentence of one line of Markdown without capital and full stop, with its unit;
    docs/recipe.md has it.

    >>> from dataclasses import dataclass, fields
    >>> @dataclass(frozen=True)
    ... class Part:
    ...     side: int = key(32, SIDE, "side of a picture, in pixels")
    >>> fields(Part)[0].metadata["about"]
    'side of a picture, in pixels'
    """
    return field(default=default, metadata={"check": check, "about": about})


def kind(name: str) -> Any:
    """The key `kind` of a part that comes in kinds; each dataclass has its own."""
    return field(default=name, init=False)
