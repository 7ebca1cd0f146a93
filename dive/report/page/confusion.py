"""The confusion of models between groups of classes."""

from collections.abc import Mapping

from dive.recipe.shots import SHOTS
from dive.report.page.accuracy import WITHOUT
from dive.report.page.content import Page
from dive.report.page.markup import Markup, element, join
from dive.report.page.section import Section, missing

NAME = "confusion"
TITLE = "Confusion between groups"
LEAD = (
    "Test images of a group’s classes (rows) by the group of the class that was predicted (columns), as a "
    "share of the row. An image predicted as another class of its own group is on the diagonal. A model that "
    "neglects the tail fills the first column."
)


def section(page: Page) -> Section:
    """The section: a small table for each model."""
    if not page.models:
        return Section(NAME, TITLE, LEAD, missing(WITHOUT))
    named = list(zip(page.names(), page.models, strict=True))
    grids = [
        _grid(name, counted) for name, model in named if (counted := model.record.get("group_confusion"))
    ]
    lacking = [model.file for _, model in named if not model.record.get("group_confusion")]
    notes = []
    if lacking:
        told = "records do not have it: they are" if len(lacking) > 1 else "record does not have it: it is"
        notes.append(
            missing(
                f"{len(lacking)} {told} of a version of dive that did not count it ({', '.join(lacking)}). "
                "dive eval --json counts it."
            )
        )
    body = [element("div", *grids, class_="grids"), *notes] if grids else notes
    return Section(NAME, TITLE, LEAD, join(body))


def _grid(name: str, counted: Mapping[str, Mapping[str, int]]) -> Markup:
    present = [shot for shot in SHOTS if sum(counted[shot].values())]
    columns = [shot for shot in SHOTS if shot in present or any(counted[row][shot] for row in present)]
    head = element(
        "tr", element("td", "true ╲ predicted"), *(element("th", shot, scope="col") for shot in columns)
    )
    rows = (
        element(
            "tr",
            element("th", shot, scope="row"),
            *(_cell(counted[shot][other], sum(counted[shot].values())) for other in columns),
        )
        for shot in present
    )
    caption = element("caption", f"Confusion between groups, {name}", class_="unseen")
    whole = element("table", caption, element("thead", head), element("tbody", *rows), class_="heat")
    return element("div", element("h3", name), whole, class_="grid")


def _cell(count: int, of: int) -> Markup:
    share = count / of
    return element(
        "td",
        element("b", f"{100 * share:.0f} %"),
        element("small", f"{count:,}"),
        style=f"--share:{share:.3f}",
        class_="dark" if share > 0.55 else None,
    )
