"""Documents: nested plain values, as in YAML files and `--set`, which are merged and compared.

The recipe defines what their keys mean.
"""

import re
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from dive import notation
from dive.errors import RecipeError
from dive.files import open_regular
from dive.printable import excerpt, shortened

# A recipe has some forty keys, three levels deep. Anything much larger is refused before it is read whole.
MOST_BYTES = 100_000
MOST_NODES = 10_000
MOST_DEPTH = 20
MOST_BASES = 10


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Each key in which two nested documents differ, as `key: old, now new`; hashes are shortened."""
    found = []
    for key in sorted({*old, *new}, key=str):
        before, after = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            found += differences(before, after, f"{prefix}{key}.")
        elif pairs := _entries(before, after):
            for number, (old_entry, new_entry) in enumerate(pairs, 1):
                found += differences(old_entry, new_entry, f"{prefix}{key}.{number}.")
        elif before != after:
            found.append(f"{prefix}{shortened(str(key))}: {_shown(before)}, now {_shown(after)}")
    return found


def _entries(before: Any, after: Any) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """Pairs of the entries of two lists of mappings of equal length; empty for any other values."""
    if not (isinstance(before, list) and isinstance(after, list) and len(before) == len(after)):
        return []
    entries = all(isinstance(entry, Mapping) for entry in (*before, *after))
    return list(zip(before, after, strict=True)) if entries else []


def _shown(value: Any) -> str:
    if isinstance(value, str):
        return value[:12] if re.fullmatch("[0-9a-f]{64}", value) else shortened(value)
    return excerpt(value)


def merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    """Nested documents merged; `above` overrides `below`.

    If both have a mapping that names a `kind`, and the kinds differ, the one below is dropped, because its
    keys belong to another kind.
    """
    merged = dict(below)
    for key, value in above.items():
        if isinstance(value, Mapping) and isinstance(under := merged.get(key), Mapping):
            other_kind = "kind" in value and "kind" in under and value["kind"] != under["kind"]
            value = dict(value) if other_kind else merge(under, value)
        merged[key] = value
    return merged


_INT, _FLOAT = "tag:yaml.org,2002:int", "tag:yaml.org,2002:float"
# Besides its own errors, PyYAML raises ValueError for impossible dates and for NUL characters.
_YAML_ERRORS = (yaml.YAMLError, ValueError)


class _StrictLoader(yaml.SafeLoader):
    """PyYAML's safe loader, without silent mistakes and unbounded work.

    A key that is given twice is refused; the safe loader would use the last one. Numbers are those of
    `dive.notation`. Anything else that YAML 1.1 would read as a number (octal, sexagesimal and so on) is a
    string. The depth and the number of nodes of a document are bounded; nodes repeated by an alias count each
    time.
    """

    yaml_implicit_resolvers = {
        first: [(tag, pattern) for tag, pattern in resolvers if tag not in (_INT, _FLOAT)]
        for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
    }

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self._depth = self._nodes = 0
        self._sizes: dict[int, int] = {}  # nodes under each finished node, by its id

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            return self._compose_alias(parent, index)
        self._depth += 1
        if self._depth > MOST_DEPTH:
            raise ValueError(f"it is nested more than {MOST_DEPTH} levels deep")
        before = self._nodes
        self._count(1)
        node = super().compose_node(parent, index)
        self._sizes[id(node)] = self._nodes - before
        self._depth -= 1
        return node

    def _compose_alias(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        node = super().compose_node(parent, index)
        if id(node) not in self._sizes:
            raise ValueError("an alias is within the value that it refers to")
        self._count(self._sizes[id(node)])
        return node

    def _count(self, nodes: int) -> None:
        self._nodes += nodes
        if self._nodes > MOST_NODES:
            raise ValueError(f"it has more than {MOST_NODES} values, with aliases expanded")

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        count = Counter(key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode))
        if repeated := sorted(key for key, times in count.items() if times > 1):
            raise ValueError(f"{shortened(', '.join(repeated))} is given twice")
        return node


_StrictLoader.add_implicit_resolver(_INT, re.compile(rf"{notation.WHOLE}\Z"), list("-+0123456789"))
_StrictLoader.add_implicit_resolver(
    _FLOAT, re.compile(rf"(?![-+]?[0-9]+\Z){notation.DECIMAL}\Z"), list("-+0123456789.")
)


def _whole(loader: _StrictLoader, node: yaml.ScalarNode) -> int:
    return notation.whole(loader.construct_scalar(node))


def _decimal(loader: _StrictLoader, node: yaml.ScalarNode) -> float:
    return notation.decimal(loader.construct_scalar(node))


_StrictLoader.add_constructor(_INT, _whole)
_StrictLoader.add_constructor(_FLOAT, _decimal)


def _parse_yaml(text: str) -> Any:
    return yaml.load(text, Loader=_StrictLoader)


def read_config(path: Path, above: tuple[Path, ...] = ()) -> list[dict[str, Any]]:
    """The documents of a YAML file: those of its `base` (relative to its folder) if it has one, and its own.

    They are to be merged in this order. The last one is named after the file unless it states a name. above:
    the files that led to this one by their `base`. Raises RecipeError if a file cannot be read, is not a
    mapping, or is its own base.
    """
    document = _read_yaml(path)
    base = document.pop("base", None)
    below: list[dict[str, Any]] = []
    if base is not None:
        if not isinstance(base, str):
            raise RecipeError(f"{path}: base must be the path of another config, not {excerpt(base)}")
        if path.resolve() in above:
            raise RecipeError(f"{path} is its own base")
        if len(above) >= MOST_BASES:
            raise RecipeError(f"{above[0]} has more than {MOST_BASES} bases in a chain")
        below = read_config(path.parent / base, (*above, path.resolve()))
    name = re.sub(r"[^\w.+-]+", "_", path.stem).lstrip("_.+-") or "recipe"
    return [*below, {"name": name, **document}]


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        document = _parse_yaml(_read(path).decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RecipeError(f"{path} is not a text file in UTF-8") from error
    except _YAML_ERRORS as error:
        raise RecipeError(f"{path} is not valid YAML: {_detail(error)}") from error
    if document is None:
        return {}
    if not isinstance(document, dict):
        raise RecipeError(f"{path} must hold a mapping of keys to values, not a {type(document).__name__}")
    return document


def _read(path: Path) -> bytes:
    try:
        with open_regular(path) as file:
            content = file.read(MOST_BYTES + 1)
    except OSError as error:
        raise RecipeError(f"cannot read the config {path}: {error.strerror}") from error
    except ValueError as error:  # NUL, or characters that cannot be encoded
        raise RecipeError(f"cannot read the config {path}: no file can have this name") from error
    if len(content) > MOST_BYTES:
        raise RecipeError(f"{path} is not a recipe: it has more than {MOST_BYTES // 1000} kB")
    return content


def _detail(error: Exception) -> str:
    return shortened(" ".join(str(error).split()), 300)


def parse_assignment(assignment: str) -> dict[str, Any]:
    """The document of one `KEY=VALUE`, with a dotted key and a YAML value; raises RecipeError."""
    key, equals, text = assignment.partition("=")
    if not equals or not key.strip():
        raise RecipeError(f"--set {excerpt(assignment)}: give KEY=VALUE, for example --set optimizer.lr=0.05")
    try:
        value = _parse_yaml(text)
    except _YAML_ERRORS as error:
        raise RecipeError(
            f"--set {excerpt(assignment)}: the value is not valid YAML: {_detail(error)}"
        ) from error
    return nest(key.strip(), value)


def nest(key: str, value: Any) -> dict[str, Any]:
    """The document that has `value` under a dotted key."""
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def plain(value: Any) -> Any:
    """A document with lists in place of its tuples."""
    if isinstance(value, Mapping):
        return {key: plain(item) for key, item in value.items()}
    return list(value) if isinstance(value, tuple) else value
