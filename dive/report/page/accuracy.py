"""Accuracy of models by groups of classes."""

import plotly.graph_objects as go

from dive.recipe.shots import SHOTS
from dive.report.page.content import ModelPart, Page
from dive.report.page.markup import element, join, percent, table
from dive.report.page.palette import light, of_model
from dive.report.page.plots import Plot, figure, labels, model_keys
from dive.report.page.section import Section, missing

NAME = "accuracy"
TITLE = "Accuracy"
LEAD = (
    "Top-1 accuracy in percent, as recorded when training ended. A group’s accuracy is the mean of its "
    "classes’; “all” is over test images."
)
WITHOUT = (
    "No checkpoint was given. To show some, run dive report CHECKPOINT …; dive teacher and dive student "
    "write them."
)
_COLUMNS = (*SHOTS, "all", "class_mean")


def section(page: Page) -> Section:
    """The section: a table, and bars beside it."""
    if not page.models:
        return Section(NAME, TITLE, LEAD, missing(WITHOUT))
    names = page.names()
    rows = [
        [name, *(percent(model.record["accuracy"][key]) for key in _COLUMNS), _gain(model)]
        for name, model in zip(names, page.models, strict=True)
    ]
    heads = ["model", *SHOTS, "all", "class mean", "over its teacher"]
    numbers = table(heads, rows, "Test accuracy (%)")
    plot = Plot(
        "groups-of-models",
        "By group",
        "Accuracy of each model in each group; the numbers are those of the table.",
        {"": _bars(page, names)},
        model_keys(names),
        size="side",
    )
    return Section(NAME, TITLE, LEAD, join([numbers, element("div", plot.html(), class_="alone")]), [plot])


def _gain(model: ModelPart) -> str:
    """The points by which a student exceeds its teacher; empty for an ensemble or an unknown teacher."""
    before = model.record.get("teacher", {}).get("accuracy", {}).get("all")
    return "" if before is None else f"{100 * (model.record['accuracy']['all'] - before):+.2f}"


def _bars(page: Page, names: list[str]) -> go.Figure:
    shown = [key for key in (*SHOTS, "all") if page.models[0].record["accuracy"][key] is not None]
    drawn = figure(
        {"fixedrange": True}, {"title": "top-1 accuracy (%)", "rangemode": "tozero", "fixedrange": True},
        barmode="group", bargap=0.25, bargroupgap=0.08, hovermode="closest",
        uniformtext={"minsize": 10, "mode": "hide"},  # on a narrow screen; the table has the numbers
    )  # fmt: skip
    for place, (name, model) in enumerate(zip(labels(names), page.models, strict=True)):
        accuracy = model.record["accuracy"]
        drawn.add_bar(
            x=shown, y=[None if accuracy[key] is None else 100 * accuracy[key] for key in shown],
            name=name, legendgroup=f"m{place}", marker={"color": light(of_model(place))},
            customdata=[name] * len(shown),
            hovertemplate="<b>%{customdata}</b><br>%{x}: %{y:.2f} %<extra></extra>",
            texttemplate="%{y:.1f}" if len(names) < 5 else None, textposition="outside", cliponaxis=False,
        )  # fmt: skip
    return drawn
