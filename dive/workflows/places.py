"""Where the outputs of a recipe are written and looked for unless another place is given. No torch."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe


def checkpoint_of(recipe: "Recipe", kind: str) -> Path:
    """Where a recipe's teacher or student is. kind: which."""
    return Path("checkpoints") / recipe.name / f"{kind}.pt"


def cache_of(recipe: "Recipe") -> Path:
    """Where a recipe's logit cache is."""
    return Path("cache") / f"{recipe.name}.h5"


def index_of(root: str) -> Path:
    """Where the index of the pictures below a root is."""
    name = hashlib.sha256(os.path.abspath(os.path.expanduser(root)).encode()).hexdigest()[:16]
    return Path("cache") / "index" / f"{name}.npz"
