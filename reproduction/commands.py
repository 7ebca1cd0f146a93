"""The command that makes a recorded run again, in the project's own folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dive.recipe import commands
from reproduction.table import CACHE, Run


def command(record: Mapping[str, Any], configs: Path, run: Run | None = None) -> str:
    """The command that makes a run again, without the option that states where the images are.

    run: its entry in the table, which names its cache. If it states a precision, the command has this one,
    because the recorded recipe may still have `auto`.
    """
    root = configs.parent
    files = sorted([*configs.rglob("*.yaml"), *(root / "reproduction" / "recipes").glob("*.yaml")])
    recipes = {str(path.relative_to(root)): path for path in files}
    cache = None if run is None or run.cache is None else str(CACHE[run.cache].path)
    if run is not None and (option := "--precision") in run.words:
        asked = {"precision": run.words[run.words.index(option) + 1]}
        record = {**record, "recipe": {**record["recipe"], **asked}}
    return commands.command(record, recipes, cache)
