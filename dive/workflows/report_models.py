"""A finished result on the page of `dive report`: its record, history, recipe and command."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dive import files
from dive import structure as s
from dive.errors import DiveError, RecipeError
from dive.printable import printable
from dive.recipe.commands import command
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.records import EPOCH, OF_SOME_EPOCHS, fault_of
from dive.recipe.shipped import recipes
from dive.report.page.content import ModelPart

_ZIP = b"PK\x03\x04"


def of_model(path: Path) -> ModelPart:
    """What the page shows of a finished result. path: its checkpoint, or its record (`NAME.json`).

    Raises CheckpointError if a checkpoint is not whole, DiveError if the file is neither.
    """
    record = _checkpoint(path) if _is_zip(path) else _record(path)
    recipe = build(record["recipe"]).as_dict()
    written = yaml.safe_dump(recipe, sort_keys=False, allow_unicode=True)
    return ModelPart(printable(str(path)), record, _history(path), written, _command(record))


def _is_zip(path: Path) -> bool:
    with files.open_regular(path) as file:
        return file.read(len(_ZIP)) == _ZIP


def _checkpoint(path: Path) -> dict[str, Any]:
    from dive.models import checkpoint

    document = checkpoint.load_finished(path)
    return {key: value for key, value in document.items() if key != "model"}


def _record(path: Path) -> dict[str, Any]:
    try:
        document = files.read_json(path)
        fault = fault_of(found := upgraded(document)) if isinstance(document, dict) else "it is no mapping"
    except (OSError, ValueError):
        fault = "it is no JSON"
    if fault:
        raise DiveError(
            f"{path} is neither a logit cache, nor a checkpoint, nor the record of one, as dive writes them: "
            f"{fault}"
        )
    return found


def _command(record: Mapping[str, Any]) -> str:
    try:
        return command(record, recipes())
    except RecipeError:  # a recipe of the user's own
        return f"dive {record['kind']} --config RECIPE.yaml  # the recipe below"


def _history(path: Path) -> list[dict[str, Any]] | None:
    """The epochs in the history file beside a checkpoint, None if it does not exist or is not valid."""
    try:
        entries = files.read_json_lines(path.with_name(f"{path.stem}.history.jsonl"))
    except (OSError, ValueError):
        return None
    sound = entries and not any(s.fault_of(entry, EPOCH, OF_SOME_EPOCHS) for entry in entries)
    return entries if sound else None
