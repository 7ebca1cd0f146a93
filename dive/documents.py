"""Documents: nested plain values, as YAML files and `--set` give them, laid over each other and compared.

What their keys mean is the recipe's affair.
"""

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dive.errors import RecipeError


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each key in which two nested documents differ, as `key: old, now new`; hashes are shortened."""
    found = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key}: {_shown(before)}, now {_shown(after)}")
    return found


def _shown(value: Any) -> Any:
    return value[:12] if isinstance(value, str) and re.fullmatch("[0-9a-f]{64}", value) else value


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested documents laid over each other; `above` wins."""
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            value = merge(merged[key], value)
        merged[key] = value
    return merged


# Besides its own errors PyYAML lets through those of impossible dates, huge numbers and deep nesting.
_YAML_ERRORS = (yaml.YAMLError, ValueError, RecursionError)


class _StrictLoader(yaml.SafeLoader):
    """The safe loader, which also refuses a key given twice instead of taking the last."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        if repeated := sorted({str(key) for key in keys if keys.count(key) > 1}):
            raise ValueError(f"{', '.join(repeated)} is given twice")
        return super().construct_mapping(node, deep)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)


def read_config(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """A YAML file's document, laid over that of its `base` file (a path from its own folder) if it names one.

    It is called after the file unless it has a name of its own. above: the files that led here. Raises
    RecipeError where a file cannot be read, is no mapping, or is its own base.
    """
    document = _read_yaml(path)
    base = document.pop("base", None)
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"{path}: base must be the path of another config, not {base!r}")
        if path.resolve() in above:
            raise RecipeError(f"{path} is its own base")
        below = read_config(path.parent / base, (*above, path.resolve()))
        del below["name"]
        document = merge(below, document)
    return {"name": re.sub(r"[^\w.+-]+", "_", path.stem).lstrip("_.+-") or "recipe", **document}


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = _parse_yaml(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise RecipeError(f"cannot read the config {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file in UTF-8") from error
    except _YAML_ERRORS as error:
        detail = " ".join(str(error).split())
        raise RecipeError(f"{path} is not valid YAML: {detail}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, not a {type(document).__name__}")
    return document


def parse_assignment(assignment: str) -> dict[str, Any]:
    """The document of a `KEY=VALUE`, its key dotted and its value YAML; raises RecipeError."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {assignment!r}: give KEY=VALUE, for example --set optimizer.lr=0.05")
    try:
        value = _parse_yaml(text)
    except _YAML_ERRORS as error:
        raise RecipeError(f"--set {assignment!r}: the value is not valid YAML") from error
    return nest(key.strip(), value)


def nest(key: str, value: Any) -> dict[str, Any]:
    """The document that has `value` under a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def plain(value: Any) -> Any:
    """A document with its tuples as lists."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
