"""The default locations of a recipe's outputs. Does not import torch."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe


def checkpoint_of(recipe: "Recipe", kind: str) -> Path:
    """The checkpoint of a recipe. kind: `teacher` or `student`."""
    return Path("checkpoints") / recipe.name / f"{kind}.pt"


def cache_of(recipe: "Recipe") -> Path:
    """The logit cache of a recipe."""
    return Path("cache") / f"{recipe.name}.h5"


def index_of(root: str) -> Path:
    """The index of the images below a root."""
    name = hashlib.sha256(os.path.abspath(os.path.expanduser(root)).encode()).hexdigest()[:16]
    return Path("cache") / "index" / f"{name}.npz"
