"""The versions a result was made with, and a word of warning where they are others now."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from dive.progress import Progress
from dive.version import __version__

OTHERS = ("torch", "torchvision", "numpy", "h5py", "pillow")
_THAT_COMPUTE = ("torch", "torchvision")


def versions() -> dict[str, str]:
    """Versions of dive and of what its numbers depend on."""
    return {"dive": __version__, **{name: importlib.metadata.version(name) for name in OTHERS}}


def warn_if_others(made_with: Mapping[str, Any], what: str, progress: Progress) -> None:
    """Warn in one line where `what` was made with another torch or torchvision than there is here.

    The build (what follows a +) does not count: the same release is packed in several.
    """
    here = versions()
    pairs = [(name, str(made_with.get(name)), here[name]) for name in _THAT_COMPUTE]
    different = [
        f"{name} {before}, here {now}"
        for name, before, now in pairs
        if before.partition("+")[0] != now.partition("+")[0]
    ]
    if different:
        progress.warn(f"{what} was made with {'; '.join(different)}: numbers may differ by rounding")
