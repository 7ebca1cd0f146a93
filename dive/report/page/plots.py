"""The figures of the page: plotly figures with a legend and a table in HTML."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dive.report.page.markup import Markup, details, element, label
from dive.report.page.palette import MARKS, SYMBOLS, light, of_model

FONT = '-apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif'


@dataclass(frozen=True)
class Key:
    """An entry of a legend: a button that shows and hides the traces of a group."""

    group: str
    text: str
    colour: str
    mark: str = "■"


@dataclass(frozen=True)
class Plot:
    """A figure with its title, buttons, legend and table.

    name: its id. title: what it shows. says: the description for readers who cannot see it. variants: the
    figures that buttons select from; the first is shown. keys: the entries of the legend. ranges: buttons
    that change the layout, from names to changes. table: the same numbers as a table.
    """

    name: str
    title: str
    says: str
    variants: Mapping[str, go.Figure]
    keys: Sequence[Key] = ()
    ranges: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    table: Markup = Markup()
    size: str = "wide"

    def html(self) -> Markup:
        """The HTML of the figure."""
        parts = [element("h3", self.title)]
        if bar := [*self._variants(), *self._ranges()]:
            parts.append(element("div", *bar, class_="bar"))
        if self.keys:
            parts.append(self._legend())
        parts.append(
            element("div", id=self.name, class_=f"figure {self.size}", role="img", aria_label=self.says)
        )
        if self.table:
            parts.append(details("The same as a table", self.table))
        return element("div", *parts, class_="plot")

    def _variants(self) -> list[Markup]:
        if len(self.variants) == 1:
            return []
        return [_choice([element("button", name, type="button", data_figure=self.name, data_variant=name,
                                 aria_pressed=str(place == 0).lower())
                         for place, name in enumerate(self.variants)])]  # fmt: skip

    def _ranges(self) -> list[Markup]:
        if not self.ranges:
            return []
        return [_choice([element("button", name, type="button", data_figure=self.name,
                                 data_relayout=json.dumps(change), aria_pressed=str(place == 0).lower())
                         for place, (name, change) in enumerate(self.ranges.items())])]  # fmt: skip

    def _legend(self) -> Markup:
        buttons = (
            element(
                "button",
                element("span", key.mark, class_="mark", style=f"color:var(--{key.colour})"),
                key.text,
                type="button",
                data_figure=self.name,
                data_group=key.group,
                aria_pressed="true",
            )
            for key in self.keys
        )
        return element("div", *buttons, class_="legend", role="group", aria_label="Legend: show or hide")

    def document(self) -> dict[str, Any]:
        """The figure in plain values, for the page's script."""
        return {name: json.loads(figure.to_json()) for name, figure in self.variants.items()}


def _choice(buttons: Sequence[Markup]) -> Markup:
    return element("div", *buttons, class_="choice", role="group")


def figure(x: Mapping[str, Any], y: Mapping[str, Any], **layout: Any) -> go.Figure:
    """An empty figure with two given axes and the layout that all figures of the page share."""
    axis = {
        "gridcolor": light("rule"),
        "linecolor": light("rule"),
        "tickcolor": light("rule"),
        "tickfont": {"color": light("muted"), "size": 12},
        "title": {"font": {"color": light("muted"), "size": 12}, "standoff": 8},
        "zeroline": False,
        "automargin": True,
        "fixedrange": False,
    }
    return go.Figure(
        layout={
            "template": "none",
            "autosize": True,
            "font": {"family": FONT, "color": light("ink"), "size": 12},
            "paper_bgcolor": "rgba(0,0,0,0)",
            "plot_bgcolor": "rgba(0,0,0,0)",
            "margin": {"l": 8, "r": 12, "t": 14, "b": 8},
            "showlegend": False,
            "hoverlabel": {
                "bgcolor": light("panel"),
                "bordercolor": light("rule"),
                "font": {"color": light("ink"), "family": FONT, "size": 12},
                "align": "left",
            },
            "dragmode": False,
            "xaxis": _laid(axis, x),
            "yaxis": _laid(axis, y),
            **layout,
        }
    )


def _laid(axis: Mapping[str, Any], own: Mapping[str, Any]) -> dict[str, Any]:
    title = {**axis["title"], "text": own["title"]} if "title" in own else axis["title"]
    return {**axis, **own, "title": title}


def model_keys(names: Sequence[str]) -> list[Key]:
    """The legend of the page's models, by their positions."""
    return [
        Key(f"m{place}", name, of_model(place), MARKS[place % len(MARKS)]) for place, name in enumerate(names)
    ]


def symbol(place: int) -> str:
    """The symbol of a model's points."""
    return SYMBOLS[place % len(SYMBOLS)]


def labels(values: Sequence[str]) -> np.ndarray:
    """Texts escaped for plotly."""
    return np.array([label(value) for value in values], dtype=object)
