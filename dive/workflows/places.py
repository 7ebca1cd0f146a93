"""The default paths of the outputs of a recipe. Does not import torch."""

import hashlib
import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dive.recipe.recipe import Recipe


def checkpoint_of(recipe: "Recipe", kind: str) -> Path:
    """The default path of a recipe's checkpoint. kind: `teacher` or `student`."""
    return Path("checkpoints") / recipe.name / f"{kind}.pt"


def cache_of(recipe: "Recipe") -> Path:
    """The default path of a recipe's logit cache."""
    return Path("cache") / f"{recipe.name}.h5"


def index_of(root: str) -> Path:
    """The path of the index of the image files below the folder `root`."""
    name = hashlib.sha256(os.path.abspath(os.path.expanduser(root)).encode()).hexdigest()[:16]
    return Path("cache") / "index" / f"{name}.npz"
