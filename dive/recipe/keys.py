"""How a dataclass of the recipe states a key: its default, and what a value must be."""

from dataclasses import field
from typing import Any

from dive.recipe import bounds
from dive.recipe.bounds import Check, within

IMBALANCE = within(1.0, 1e9)
RATE = within(1e-12, 1e30)
SEED = within(*bounds.SEEDS)
SIDE = within(8, bounds.LARGEST_SIDE)


def key(default: Any, check: Check | None = None) -> Any:
    """A key by its default and its check."""
    return field(default=default, metadata={"check": check} if check else {})


def kind(name: str) -> Any:
    """The key `kind` of a part that comes in kinds; each dataclass has its own."""
    return field(default=name, init=False)
