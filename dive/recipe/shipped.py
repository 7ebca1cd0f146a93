"""The recipes that dive ships, by name: `cifar100_lt/bbn` is `configs/cifar100_lt/bbn.yaml`.

In the source tree `dive/configs` is a link to `configs/`, where recipes are read and edited; a wheel has the
files themselves in that place. Both look in the same folder, and so does an editable install.
"""

import os
import re
import stat
from pathlib import Path

from dive.errors import RecipeError

FOLDER = Path(__file__).resolve().parents[1] / "configs"
SUFFIX = ".yaml"


def recipes(folder: Path = FOLDER) -> dict[str, Path]:
    """The files of the shipped recipes by name; a name is the path below the folder without its suffix.

    Names are sorted, numbers in them by value.
    """
    found = {path.relative_to(folder).with_suffix("").as_posix(): path for path in folder.rglob(f"*{SUFFIX}")}
    return {name: found[name] for name in sorted(found, key=_by_value)}


def _by_value(name: str) -> list[tuple[str, int]]:
    return [(text, int(digits or 0)) for text, digits in re.findall(r"(\D*)(\d*)", name)]


def locate(config: Path, folder: Path = FOLDER) -> Path:
    """The file that a `--config` refers to: the file at that path, or else the shipped recipe of that name.

    A name may end in `.yaml`. A name without it is found even if a folder of that name exists here. A path
    that exists but is not a readable recipe is returned too; whoever reads it reports what is wrong. Raises
    RecipeError if there is neither.
    """
    kind = _kind(config)
    if kind is not None and (kind != stat.S_IFDIR or config.suffix == SUFFIX):
        return config
    known = recipes(folder)
    name = config.with_suffix("") if config.suffix == SUFFIX else config
    if name.as_posix() in known:
        return known[name.as_posix()]
    if kind is not None:
        return config
    raise RecipeError(
        f"there is no config {config}: no file of that path, and no recipe of that name in {folder}; "
        "dive recipes lists the names"
    )


def summary(path: Path) -> str:
    """What a recipe is: the comment in the first line of its file; empty if there is none."""
    with path.open(encoding="utf-8") as file:
        line = file.readline()
    return line.removeprefix("#").strip() if line.startswith("#") else ""


def _kind(path: Path) -> int | None:
    """The kind of file at a path, as from `stat.S_IFMT`; None if nothing exists there, 0 if it is unknown."""
    try:
        return stat.S_IFMT(os.stat(path).st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError):  # in a folder that cannot be entered, or not a possible file name
        return 0
