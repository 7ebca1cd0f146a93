"""Accuracy of every class against its training images, several models together."""

from typing import Any

import numpy as np
import plotly.graph_objects as go

from dive.report.page.accuracy import WITHOUT
from dive.report.page.content import ModelPart, Page
from dive.report.page.markup import Markup, number, table, text
from dive.report.page.palette import light, of_model
from dive.report.page.plots import Plot, figure, labels, model_keys, symbol
from dive.report.page.section import Section, missing

NAME = "classes"
TITLE = "Accuracy of every class"
LISTED = 2000  # the most classes in a table; more make the page slow
LEAD = (
    "Each point is a class: its training images against its test accuracy. The line is the mean over the "
    "nearest fifth of the classes. Point at one to see which class it is; the legend shows and hides models."
)


def section(page: Page) -> Section:
    """The section: accuracies, and the gains over the first model."""
    if not page.models:
        return Section(NAME, TITLE, LEAD, missing(WITHOUT))
    names = page.names()
    variants = {"accuracy": _points(page.models, names, None)}
    first = page.models[0].record
    others = [one for one in page.models[1:] if one.record["classes"] == first["classes"]]
    if others:
        variants["over the first model"] = _points(page.models, names, first)
    plot = Plot(
        "per-class",
        "By training images",
        "Test accuracy of every class against its training images, of each model.",
        variants,
        model_keys(names),
        table=_table(page.models, names),
    )
    return Section(NAME, TITLE, LEAD, plot.html(), [plot])


def _points(models: list[ModelPart], names: list[str], against: dict[str, Any] | None) -> go.Figure:
    gained = against is not None
    drawn = figure(
        {"title": "training images of the class", "type": "log", "dtick": "D2", "tickformat": ",~g"},
        {"title": "points over the first model" if gained else "test accuracy (%)", "zeroline": gained,
         "zerolinecolor": light("muted")},
        hovermode="closest",
    )  # fmt: skip
    for place, (name, model) in enumerate(zip(labels(names), models, strict=True)):
        record = model.record
        if against is not None and (record is against or record["classes"] != against["classes"]):
            continue
        counts, values = np.array(record["class_counts"]), _percents(record)
        if against is not None:
            values = values - _percents(against)
        tested = np.flatnonzero(np.isfinite(values) & (counts > 0))
        order = tested[np.argsort(-counts[tested], kind="stable")]
        called = labels(record["classes"])
        colour, x, y = light(of_model(place)), counts[order], values[order]
        drawn.add_scatter(
            x=x, y=y, mode="markers", name=name, legendgroup=f"m{place}",
            marker={"color": colour, "size": 7, "symbol": symbol(place), "opacity": 0.65},
            customdata=np.stack([called[order], np.full(len(order), name)], axis=1),
            hovertemplate="<b>%{customdata[0]}</b><br>%{customdata[1]}<br>%{y:.1f} %, %{x} images"
            "<extra></extra>",
        )  # fmt: skip
        drawn.add_scatter(
            x=x, y=smoothed(y), mode="lines", legendgroup=f"m{place}", hoverinfo="skip",
            line={"color": colour, "width": 2.5},
        )  # fmt: skip
    return drawn


def _percents(record: dict[str, Any]) -> np.ndarray:
    return np.array([np.nan if share is None else 100 * share for share in record["per_class"]])


def smoothed(values: np.ndarray) -> np.ndarray:
    """The mean over a fifth of the values, at least three, around each; fewer at the ends."""
    half = max(1, len(values) // 10)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - half, 0), np.minimum(places + half + 1, len(values))
    mean: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return mean


def _table(models: list[ModelPart], names: list[str]) -> Markup:
    first = models[0].record
    if len(first["classes"]) > LISTED:
        return text("Too many classes for a table; dive eval --per-class prints their accuracies.")
    same = [(name, one) for name, one in zip(names, models, strict=True)
            if one.record["classes"] == first["classes"]]  # fmt: skip
    order = np.argsort(-np.array(first["class_counts"]), kind="stable")
    rows = [
        [
            first["classes"][c],
            f"{first['class_counts'][c]:,}",
            *(
                number(None if (share := one.record["per_class"][c]) is None else 100 * share)
                for _, one in same
            ),
        ]
        for c in order
    ]
    return table(["class", "images", *(name for name, _ in same)], rows, "Test accuracy by class (%)")
