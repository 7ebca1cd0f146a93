"""HTML put together so that no text of a file can become part of it."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from dive.printable import printable


class Markup(str):
    """HTML as it is; every other text is escaped where it is put into some."""


def text(value: str) -> Markup:
    """A text as HTML shows it, line by line."""
    return Markup(html.escape("\n".join(map(printable, value.split("\n")))))


def label(value: str) -> str:
    """A text as plotly shows it, which takes a few tags and entities for its own."""
    return html.escape(printable(value), quote=False)


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Parts one after the other, those that are no `Markup` escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else text(part) for part in parts))


def element(tag: str, *children: str, **attributes: Any) -> Markup:
    """An element. Names of attributes: `class_`, `data_x` for data-x; True is bare, None and False none.

    >>> element("p", "1 < 2", class_="note", hidden=True)
    '<p class="note" hidden>1 &lt; 2</p>'
    """
    written = []
    for name, value in attributes.items():
        if value is None or value is False:
            continue
        name = name.rstrip("_").replace("_", "-")
        written.append(f" {name}" if value is True else f' {name}="{text(str(value))}"')
    opening = f"<{tag}{''.join(written)}>"
    return Markup(opening if tag in ("input", "img", "meta") else f"{opening}{join(children)}</{tag}>")


def table(head: Sequence[str], rows: Iterable[Sequence[str]], caption: str, words: int = 1) -> Markup:
    """A table that scrolls in itself where it is wider than the page. words: columns of text, not numbers."""
    heads = (element("th", name, scope="col") for name in head)
    body = (
        element(
            "tr",
            *(
                element("th", cell, scope="row") if place == 0 else element("td", cell)
                for place, cell in enumerate(row)
            ),
        )
        for row in rows
    )
    whole = element(
        "table",
        element("caption", caption),
        element("thead", element("tr", *heads)),
        element("tbody", *body),
        class_=f"words-{words}",
    )
    return element("div", whole, class_="scroll", tabindex=0, role="region", aria_label=caption)


def details(summary: str, *children: str) -> Markup:
    """What is shown when it is asked for."""
    return element("details", element("summary", summary), *children)


def embedded(value: Any) -> Markup:
    """A value as JSON that can stand in a <script> element: no tag can begin or end in it."""
    plain = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)


def number(value: float | None, digits: int = 1) -> str:
    """A number with so many digits; a dash where there is none."""
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage with two digits; a dash where there is none."""
    return "–" if value is None else f"{100 * value:.2f}"
