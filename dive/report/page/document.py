"""The page as one HTML document: sections, their figures as JSON, plotly, a style sheet and a script."""

import base64
import hashlib
from importlib.resources import files as resources
from pathlib import Path

from plotly.offline import get_plotlyjs

from dive import files
from dive.outputs import Kind
from dive.report.page import palette
from dive.report.page.content import Page
from dive.report.page.markup import Markup, element, embedded, join, percent
from dive.report.page.registry import SECTIONS
from dive.report.page.section import Section

MARKER = b"<!doctype html>\n<!-- dive report, version 1 -->\n"


def is_own(path: Path) -> bool:
    """Whether a file is a page that dive wrote, by its first bytes."""
    try:
        with files.open_regular(path) as file:
            return file.read(len(MARKER)) == MARKER
    except OSError:
        return False


KIND = Kind("a page", is_own)
WITHOUT_SCRIPTS = (
    "This browser runs no scripts: the slider, the figures and the virtual examples of every class are "
    "missing. Means and accuracies are in the tables."
)


def document(page: Page) -> bytes:
    """The page as HTML. Its policy forbids the browser to load anything or to run other scripts."""
    sections = [make(page) for make in SECTIONS]
    scripts = [get_plotlyjs(), _asset("page.js")]
    data = {
        "figures": {plot.name: plot.document() for one in sections for plot in one.plots},
        "sections": {one.name: one.data for one in sections if one.data is not None},
        "dark": palette.to_dark(),
    }
    head = join(
        [
            element("meta", charset="utf-8"),
            element("meta", http_equiv="Content-Security-Policy", content=_policy(scripts)),
            element("meta", name="viewport", content="width=device-width, initial-scale=1"),
            element("meta", name="color-scheme", content="light dark"),
            element("title", f"{page.title} · dive report"),
            element("style", Markup(palette.variables() + _asset("page.css"))),
        ],
        "\n",
    )
    body = join(
        [
            _top(sections),
            element("noscript", element("p", WITHOUT_SCRIPTS, class_="missing")),
            element("main", _header(page), *(one.html() for one in sections)),
            element("script", embedded(data), type="application/json", id="data"),
            *(element("script", Markup(script)) for script in scripts),
        ],
        "\n",
    )
    html = element("html", element("head", head), "\n", element("body", body), lang="en", data_theme="light")
    return MARKER + html.encode("utf-8", "replace") + b"\n"


def _asset(name: str) -> str:
    return (resources("dive.report.page") / "assets" / name).read_text(encoding="utf-8")


def _policy(scripts: list[str]) -> str:
    """The content security policy: the page's own scripts by their hashes, its own images, no requests."""
    hashes = (base64.b64encode(hashlib.sha256(script.encode()).digest()).decode() for script in scripts)
    allowed = " ".join(f"'sha256-{one}'" for one in hashes)
    return (
        f"default-src 'none'; script-src {allowed}; style-src 'unsafe-inline'; img-src data: blob:; "
        "base-uri 'none'; form-action 'none'"
    )


def _top(sections: list[Section]) -> Markup:
    links = (element("a", one.title, href=f"#{one.name}") for one in sections)
    toggle = element("button", "Dark", type="button", id="theme", aria_pressed="false")
    return element("div", element("nav", *links, aria_label="Sections"), toggle, class_="top")


def _header(page: Page) -> Markup:
    """The title, and the most important figures."""
    counts = [
        f"{len(some)} {what}{'s' * (len(some) != 1)}"
        for some, what in ((page.models, "model"), (page.caches, "logit cache"))
        if some
    ]
    tiles = [
        _fact("Few-shot overtake many-shot", f"τ/p = {one.crossing.ratio:.3g}", one.model)
        for one in page.caches[:1]
        if one.crossing
    ]
    for title, key in (("Best over all", "all"), ("Best on few-shot", "few")):
        found = [
            (model.record["accuracy"][key], name)
            for name, model in zip(page.names(), page.models, strict=True)
            if model.record["accuracy"][key] is not None
        ]
        if found:
            best, name = max(found)
            tiles.append(_fact(title, f"{percent(best)} %", name))
    return element(
        "header",
        element("p", "dive report", class_="brand"),
        element("h1", page.title),
        element("p", " · ".join(counts), class_="counts"),
        element("div", *tiles, class_="facts"),
        class_="title",
    )


def _fact(what: str, value: str, of: str) -> Markup:
    return element(
        "div",
        element("span", what, class_="what"),
        element("span", value, class_="value"),
        element("span", of, class_="below"),
        class_="tile",
    )
