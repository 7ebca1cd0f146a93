"""Writes docs/recipe.md, the reference of a recipe's keys, from the dataclasses themselves: `make docs`.

A test compares the page with what would be written.
"""

import dataclasses
import inspect
import json
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from dive.recipe.recipe import KINDS, Recipe

PAGE = Path(__file__).resolve().parents[1] / "docs" / "recipe.md"
INTRODUCTION = """\
# The keys of a recipe

A recipe says what an experiment is: its data, views, network, optimiser, schedule and losses. It is a YAML
file that states only what differs from the defaults, which are the paper's experiment:

```yaml
base: other.yaml   # a recipe that this one differs from, as a path from its own folder; may be left out
data:
  kind: folder     # a part of another kind begins from the defaults of that kind
  root: my_images
views: {kind: resized_crop}
schedule: {epochs: 100, warmup_epochs: 3, milestones: [60, 80]}
```

`--config` takes such a file, or the name of a recipe that dive ships: `dive recipes` lists them. `--set`
changes one key:

    dive teacher --config my.yaml --set optimizer.lr=0.05 --set "schedule.milestones=[50, 75]"

The most used keys have options of their own ([cli.md](cli.md)). Option beats `--set` beats YAML beats
default. Unknown keys and bad values are all reported together.

`make docs` writes this page from the code.
"""
HEADING = ("key", "type", "default", "allowed", "meaning")
TYPES = {int: ("integer", "integers"), float: ("number", "numbers"), str: ("text", "texts")}


def page() -> str:
    """The text of docs/recipe.md."""
    sections = [("top level", list(_part("", Recipe, 2)))]
    sections += [(name, _section(name, made)) for name, made in _parts(Recipe)]
    contents = [f"- [{name}](#{_anchor(name)}){_kinds_listed(name)}" for name, _ in sections]
    lines = [line for name, body in sections for line in (f"## {name}", "", *body)]
    return "\n".join([INTRODUCTION, *contents, "", *lines]).rstrip() + "\n"


def _anchor(heading: str) -> str:
    """What a link to a heading ends in."""
    return re.sub(r"[^\w -]", "", heading).replace(" ", "-")


def _kinds_listed(part: str) -> str:
    names = [f"[{kind}](#{_anchor(_heading(part, kind))})" for kind in KINDS.get(part, ())]
    return f": {', '.join(names)}" if names else ""


def _heading(part: str, kind: str) -> str:
    default = " (default)" if kind == next(iter(KINDS[part])) else ""
    return f"kind: {kind}{default}"


def _parts(cls: type) -> Iterator[tuple[str, type]]:
    """The keys of a dataclass that hold another one of their own, and that."""
    for one in dataclasses.fields(cls):
        if isinstance(one.default_factory, type):
            yield one.name, one.default_factory


def _section(name: str, cls: type) -> list[str]:
    """The lines of a part: of each of its kinds, or of itself and the parts that it holds."""
    if name not in KINDS:
        return list(_part(name, cls, 2))
    kinds = KINDS[name]
    lines = [
        f"`{name}.kind` is one of {', '.join(f'`{kind}`' for kind in kinds)}. Each has its own keys.",
        "",
    ]
    for kind, of_kind in kinds.items():
        lines += [f"### {_heading(name, kind)}", "", *_part(name, of_kind, 3)]
    return lines


def _part(name: str, cls: type, level: int) -> Iterator[str]:
    """What a dataclass is and its table; then the dataclasses in it, but for those of the recipe itself."""
    for paragraph in inspect.cleandoc(cls.__doc__ or "").split("\n\n"):
        yield from (_linked(" ".join(paragraph.split())), "")
    yield from (_row(HEADING), _row(["---"] * len(HEADING)))
    hints = typing.get_type_hints(cls)
    for one in dataclasses.fields(cls):
        if one.default is not dataclasses.MISSING and one.name != "kind":
            yield _row(_cells(f"{name}.{one.name}".lstrip("."), hints[one.name], one))
    yield ""
    if cls is not Recipe:
        for inner, made in _parts(cls):
            yield from (f"{'#' * (level + 1)} {name}.{inner}", "", *_part(f"{name}.{inner}", made, level + 1))


def _row(cells: typing.Iterable[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _cells(name: str, hint: Any, one: "dataclasses.Field[Any]") -> list[str]:
    return [f"`{name}`", _type(hint), f"`{_yaml(one.default)}`", _allowed(hint, one), one.metadata["about"]]


def _allowed(hint: Any, one: "dataclasses.Field[Any]") -> str:
    """What a check allows, in words."""
    if check := one.metadata["check"]:
        return re.sub(r"([\\*_<>|])", r"\\\1", check.wanted)
    return "any" if hint is bool else "what is allowed there"


def _type(hint: Any) -> str:
    """A type in words."""
    if isinstance(hint, types.UnionType):
        (inner,) = (member for member in typing.get_args(hint) if member is not types.NoneType)
        return f"{_type(inner)} or null"
    if dataclasses.is_dataclass(hint):
        part = hint.__name__.lower()
        return f"keys of [{part}](#{part})"
    if typing.get_origin(hint) is tuple:
        return f"list of {TYPES[typing.get_args(hint)[0]][1]}"
    return "true/false" if hint is bool else TYPES[hint][0]


def _yaml(value: Any) -> str:
    """A default as a recipe states it."""
    if isinstance(value, tuple):
        return f"[{', '.join(map(_yaml, value))}]"
    if isinstance(value, float):
        short = f"{value:g}".replace("e-0", "e-")
        return short if float(short) == value else repr(value)
    return value if isinstance(value, str) else json.dumps(value)


def _linked(text: str) -> str:
    """A text whose mentions of other pages are links to them."""
    return re.sub(r"\bdocs/([\w-]+\.md)", r"[\1](\1)", text)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
