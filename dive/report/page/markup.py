"""Building HTML in which every text from a file is escaped."""

import html
import json
from collections.abc import Iterable, Sequence
from typing import Any

from dive.printable import printable


class Markup(str):
    """A string that is HTML already; every other string is escaped when it is inserted into HTML."""


def text(value: str) -> Markup:
    """Escape a text for HTML, with its line breaks."""
    return Markup(html.escape("\n".join(map(printable, value.split("\n")))))


def label(value: str) -> str:
    """Escape a text for plotly, which interprets some tags and entities."""
    return html.escape(printable(value), quote=False)


def join(parts: Iterable[str], between: str = "") -> Markup:
    """Concatenate parts; those that are not `Markup` are escaped."""
    return Markup(between.join(part if isinstance(part, Markup) else text(part) for part in parts))


def element(tag: str, *children: str, **attributes: Any) -> Markup:
    """An element. Attributes are named `class_`, or `data_x` for data-x; True has no value, None is left out.

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
    """A table that scrolls if it is wider than the page. words: how many columns are text, the first ones."""
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
    """A block that opens on a click on its summary."""
    return element("details", element("summary", summary), *children)


def embedded(value: Any) -> Markup:
    """A value as JSON for a <script> element, without characters that could begin or end a tag."""
    plain = json.dumps(value, ensure_ascii=True, separators=(",", ":"), allow_nan=False)
    for character in "<>&":
        plain = plain.replace(character, f"\\u{ord(character):04x}")
    return Markup(plain)


def number(value: float | None, digits: int = 1) -> str:
    """A number with `digits` decimals; a dash for None."""
    return "–" if value is None else f"{value:,.{digits}f}"


def percent(value: float | None) -> str:
    """A share as a percentage with two decimals; a dash for None."""
    return "–" if value is None else f"{100 * value:.2f}"
