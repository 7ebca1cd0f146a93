"""Reading a recipe: YAML, assignments and options are merged, and all faults are reported together.

A YAML file under configs/ states what differs from the paper's experiment; `--set` and the options override
it. Each fault is named with its key path.
"""

import dataclasses
import types
import typing
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from dive import notation
from dive.errors import RecipeError
from dive.printable import excerpt, shortened
from dive.recipe.bounds import Check
from dive.recipe.contradictions import CONTRADICTIONS
from dive.recipe.documents import merge, nest, parse_assignment, read_config
from dive.recipe.recipe import KINDS, STUDENT_PARTS, Recipe, Student

MOST_FAULTS = 20  # in one message
_STUDENT = "student"  # the part that is merged over others
# Keys of earlier versions, and their present names.
RENAMED = {
    "data.source": "data.kind",
    "data.path": "data.root",
    "data.size": "views.size",
    "data.mean": "model.input.mean",
    "data.std": "model.input.std",
}


def load(
    config: Path | Mapping[str, Any] | None = None,
    assignments: tuple[str, ...] = (),
    options: Mapping[str, Any] | None = None,
) -> Recipe:
    """The recipe of a YAML file or a document, overridden by `KEY=VALUE` assignments, and those by options.

    All assignments are one layer, whatever their order, and all options another. options: values by dotted
    keys; None means that the option was not given. Raises RecipeError with every fault found.
    """
    layers = read_config(config) if isinstance(config, Path) else [dict(config or {})]
    faults = _Faults()
    assigned: dict[str, Any] = {}
    for assignment in assignments:
        try:
            assigned = merge(assigned, parse_assignment(assignment))
        except RecipeError as error:
            faults.add(assignment.partition("=")[0].strip(), str(error))
    chosen: dict[str, Any] = {}
    for key, value in (options or {}).items():
        if value is not None:
            chosen = merge(chosen, nest(key, value))
    layers += [assigned, chosen]
    where = str(config) if isinstance(config, Path) else "the recipe"
    return _checked(laid_over(layers), where, faults)


def laid_over(layers: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """Documents merged; later ones override earlier ones.

    A layer that names another `kind` of a part than the layers below replaces that part, which then starts
    from the defaults of the new kind. A layer that names the same kind, or none, overrides single keys.
    """
    merged: dict[str, Any] = {}
    for layer in layers:
        of_student, above = merged.get(_STUDENT), layer.get(_STUDENT)
        for part, kinds in KINDS.items():
            kind = next(iter(kinds))
            _state_kind(merged, layer, part, kind)
            if isinstance(of_student, Mapping) and isinstance(above, Mapping):
                teacher = merged.get(part)
                kind = teacher.get("kind", kind) if isinstance(teacher, Mapping) else kind
                of_student = dict(of_student)
                _state_kind(of_student, above, part, kind)
                merged[_STUDENT] = of_student
        merged = merge(merged, layer)
    return merged


def _state_kind(below: dict[str, Any], above: Mapping[str, Any], part: str, kind: str) -> None:
    """Write `kind` into a part of `below` that names no kind, if `above` names one for this part."""
    unsaid, named = below.get(part), above.get(part)
    if not (isinstance(unsaid, Mapping) and isinstance(named, Mapping)):
        return
    if "kind" in named and "kind" not in unsaid:
        below[part] = {"kind": kind, **unsaid}


def build(document: Mapping[str, Any], where: str = "the recipe") -> Recipe:
    """A checked recipe from nested plain values; raises RecipeError, which names every fault."""
    return _checked(document, where, _Faults())


def with_epochs(recipe: Recipe, epochs: int) -> Recipe:
    """A recipe with another number of epochs; warm-up and milestones keep their share of the length.

    Raises RecipeError if `epochs` is out of range.
    """
    old = recipe.schedule
    length, of_warmup = old.length
    warmup, milestones = of_warmup / length, [m / length for m in old.milestones]  # none with iterations
    document = {
        "epochs": epochs,
        "iterations": None,
        "warmup_epochs": round(epochs * warmup),
        "warmup_iterations": None,
        "milestones": sorted({max(1, round(epochs * share)) for share in milestones}),
    }
    return build(merge(recipe.as_dict(), {"schedule": document}), where="--epochs")


class _Faults:
    """The faults of a recipe as messages, and the keys whose values are unsound because of them."""

    def __init__(self) -> None:
        self.messages: list[str] = []
        self._unsound: set[str] = set()

    def add(self, key: str, message: str, unsound: Collection[str] = ()) -> None:
        """Add a fault of a dotted key or section. unsound: the keys that it spoils, if not the key itself."""
        self.messages.append(message)
        self._unsound.update(unsound or [key])

    def spoil(self, *keys: str) -> bool:
        """Whether one of these keys, or a section that contains it, is unsound."""
        sections = (key.split(".")[:depth] for key in keys for depth in range(1, key.count(".") + 2))
        return any(".".join(section) in self._unsound for section in sections)


def _checked(document: Mapping[str, Any], where: str, faults: _Faults) -> Recipe:
    given = document.get(_STUDENT, {})
    rest = {key: value for key, value in document.items() if key != _STUDENT}
    recipe: Recipe = _build(Recipe, rest, "", faults)
    recipe = dataclasses.replace(recipe, student=_student(given, recipe, faults))
    as_student = recipe.of_student
    for keys, check in CONTRADICTIONS:
        # A key at fault now has its default, which nobody chose: it is not compared with other keys.
        if faults.spoil(*keys):
            continue
        message = check(recipe)
        if message:
            faults.messages.append(message)
        own = [f"{_STUDENT}.{key}" for key in keys if key.partition(".")[0] in STUDENT_PARTS]
        if not faults.spoil(*own) and (of_student := check(as_student)) and of_student != message:
            faults.messages.append(f"{_STUDENT}.{of_student}")
    if told := faults.messages[:MOST_FAULTS]:
        if more := len(faults.messages) - len(told):
            told.append(f"and {more} more")
        raise RecipeError(f"{where}: " + "; ".join(told))
    return recipe


def _student(given: Any, recipe: Recipe, faults: _Faults) -> Student:
    """The recipe's part `student`: each part that it states is merged over the teacher's."""
    if not isinstance(given, Mapping):
        return _build(Student, given, f"{_STUDENT}.", faults)
    document, teacher = dict(given), recipe.as_dict()
    model, optimizer = given.get("model"), teacher["optimizer"]
    if isinstance(model, Mapping) and model.get("name", recipe.model.name) != recipe.model.name:
        teacher["model"] = {"input": {key: teacher["model"]["input"][key] for key in ("mean", "std")}}
        if model.get("weights") is None and optimizer["body_factor"] != 1:
            optimizer["body_factor"] = 1.0  # every layer is new
            document["optimizer"] = given.get("optimizer") or {}
    for part in STUDENT_PARTS:
        if isinstance(document.get(part), Mapping):
            # An optimiser of another kind starts from its own defaults here.
            document |= merge({part: teacher[part]}, {part: document[part]})
    return _build(Student, document, f"{_STUDENT}.", faults)


def _build(cls: type, document: Any, prefix: str, faults: _Faults) -> Any:
    """An instance of dataclass `cls`; faults are added to `faults`."""
    section = prefix.rstrip(".")
    if not isinstance(document, Mapping):
        faults.add(section, f"{section} must be a mapping of keys, not {excerpt(document)}")
        return cls()
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    values = {}
    for key, given in document.items():
        name = f"{prefix}{key}"
        if key == "kind" and _kinds_of(section):
            continue  # it was used to choose the class
        if key not in fields:
            # It may be a misspelling of any key that is left out, so those are unsound.
            left_out = [f"{prefix}{field}" for field in fields if field not in document]
            faults.add(name, _unknown(name, fields), left_out)
        elif part := _dataclass_of(hints[key]):
            optional = hints[key] is not part
            values[key] = None if optional and given is None else _section(part, given, name, faults)
        else:
            try:
                values[key] = _value(given, hints[key], fields[key].metadata.get("check"))
            except ValueError as error:
                faults.add(name, f"{name} {error}")
    return cls(**values)


def _section(cls: type, document: Any, name: str, faults: _Faults) -> Any:
    """An instance of a part of the recipe; if it comes in kinds, of the class of the kind that it names."""
    if kinds := _kinds_of(name):
        wanted = document.get("kind", next(iter(kinds))) if isinstance(document, Mapping) else None
        cls = kinds[next(iter(kinds))]
        if isinstance(wanted, str) and wanted in kinds:
            cls = kinds[wanted]
        elif wanted is not None or (isinstance(document, Mapping) and "kind" in document):
            message = f"{name}.kind must be one of {', '.join(kinds)}, not {excerpt(wanted)}"
            faults.add(name, message)
            return cls()
    return _build(cls, document, f"{name}.", faults)


def _kinds_of(section: str) -> dict[str, type]:
    """The kinds of a part of the recipe by their names; empty if it does not come in kinds."""
    return KINDS.get(section.removeprefix(f"{_STUDENT}."), {})


def _dataclass_of(hint: Any) -> type | None:
    """The dataclass of a key that holds one (or one or null); None if it holds a plain value."""
    members = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next((one for one in members if isinstance(one, type) and dataclasses.is_dataclass(one)), None)


def _unknown(name: str, fields: Iterable[str]) -> str:
    if name in RENAMED:
        return f"{name} is called {RENAMED[name]} now"
    return f"{shortened(name)} is not a known key (known here: {', '.join(fields)})"


def _value(given: Any, hint: Any, check: Check | None) -> Any:
    """`given` as type `hint`, checked; raises ValueError, which says what it must be."""
    value = _convert(given, hint)
    if check and value is not None and (fault := check(value)):
        raise ValueError(fault)
    return value


def _convert(value: Any, hint: Any) -> Any:
    """`value` as type `hint`; raises ValueError, which says what it must be."""
    if isinstance(hint, types.UnionType):
        if value is None:
            return None
        (hint,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
    if typing.get_origin(hint) is tuple:
        if not isinstance(value, list | tuple):
            raise ValueError(f"must be a list, not {excerpt(value)}")
        return tuple(_convert(item, typing.get_args(hint)[0]) for item in value)
    if hint is float:
        return _convert_float(value)
    if type(value) is not hint:
        name = {int: "a whole number", str: "a string", bool: "true or false"}[hint]
        advice = notation.advice(value) if hint is int and isinstance(value, str) else ""
        raise ValueError(f"must be {name}, not {excerpt(value)}{advice}")
    return value


def _convert_float(value: Any) -> float:
    """A float; a number in quotes is accepted too."""
    advice = ""
    if isinstance(value, str):
        try:
            return notation.decimal(value)
        except ValueError:
            advice = notation.advice(value)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            pass
    raise ValueError(f"must be a number, not {excerpt(value)}{advice}")
