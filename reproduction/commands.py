"""The command that makes a recorded run again, in the project's own folders."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dive.recipe import commands
from reproduction.table import CACHE, Run


def command(record: Mapping[str, Any], configs: Path, run: Run | None = None) -> str:
    """The command that makes a run again, but for where the images are.

    run: its line of the table, which names its cache where that is not the recipe's own, and its precision
    where it is not left to dive.
    """
    root = configs.parent
    files = sorted([*configs.rglob("*.yaml"), *(root / "reproduction" / "recipes").glob("*.yaml")])
    recipes = {str(path.relative_to(root)): path for path in files}
    cache = None
    if run is not None and run.cache is not None:
        path = CACHE[run.cache].path
        cache = None if path.stem == record["recipe"]["name"] else str(path)
    precision = ""
    if run is not None and (option := "--precision") in run.words:
        precision = f" {option} {run.words[run.words.index(option) + 1]}"
    return commands.command(record, recipes, cache) + precision
