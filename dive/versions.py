"""The versions that a result was made with, and a warning if they differ now."""

import importlib.metadata
from collections.abc import Mapping
from typing import Any

from dive.progress import Progress
from dive.version import __version__

OTHERS = ("torch", "torchvision", "numpy", "h5py", "pillow")
_THAT_COMPUTE = ("torch", "torchvision")
_SOURCE = "sha256:"  # prefix of the version of a source file


def versions() -> dict[str, str]:
    """Versions of dive and of the packages that its numbers depend on."""
    return {"dive": __version__, **{name: importlib.metadata.version(name) for name in OTHERS}}


def warn_if_others(
    made_with: Mapping[str, Any], what: str, progress: Progress, more: Mapping[str, str] | None = None
) -> None:
    """Warn if `what` was made with another torch or torchvision than is installed here.

    Builds (the part after a +) are not compared, since one release comes in several. more: what else its
    network depends on, as it is here: the version of a package, or `sha256:` and the hash of a source file.
    """
    more = more or {}
    sources = {name: now for name, now in more.items() if now.startswith(_SOURCE)}
    here = versions() | {name: now for name, now in more.items() if name not in sources}
    compared = (*_THAT_COMPUTE, *(name for name in more if name not in sources))
    pairs = [(name, str(made_with.get(name)), here[name]) for name in compared]
    different = [
        f"{name} {before}, here {now}"
        for name, before, now in pairs
        if before.partition("+")[0] != now.partition("+")[0]
    ]
    if different:
        progress.warn(f"{what} was made with {'; '.join(different)}: numbers may differ by rounding")
    for name, now in sources.items():
        if (before := str(made_with.get(name))) != now:
            progress.warn(
                f"{what} was made with another source of {name} (SHA-256 "
                f"{before.removeprefix(_SOURCE)[:12]}, here {now.removeprefix(_SOURCE)[:12]}): its network "
                "may compute something else"
            )
