"""Figures of virtual examples, at the initial position of the slider."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dive.data.longtail import shot_groups
from dive.report.page.content import CachePart
from dive.report.page.palette import light
from dive.report.page.plots import figure, labels

DOTS = 600  # the most classes drawn as points; more are drawn as an outline, one path for each group
_TICKS = {"dtick": 1, "minor": {"ticks": "", "showgrid": False}, "tickformat": ",~g"}
_DASHES = {"many": "solid", "medium": "dash", "few": "solid"}


def order_of(cache: CachePart) -> np.ndarray:
    """Classes (C,) by training images, most first; those of a group are adjacent."""
    return np.argsort(-np.array(cache.class_counts), kind="stable")


def first_shown(cache: CachePart) -> int:
    """The initial position of the slider: the nearest to the crossing, or else to τ/p = 1."""
    wanted = cache.crossing.ratio if cache.crossing else 1.0
    return min(range(len(cache.positions)), key=lambda i: abs(math.log(cache.positions[i].ratio / wanted)))


def scales(cache: CachePart) -> dict[str, dict[str, Any]]:
    """Logarithmic and linear axes with the same range for every position, so that movement is visible."""
    top = max(max(cache.class_counts), max(max(one.per_class) for one in cache.positions))
    least = min(min(cache.class_counts), min(min(one.per_class) for one in cache.positions))
    low = max(0.7 * least, top / 1e4)  # far below, a class has nothing
    logarithmic = {"yaxis.type": "log", "yaxis.range": [math.log10(low), math.log10(1.3 * top)]}
    return {"log": logarithmic, "linear": {"yaxis.type": "linear", "yaxis.range": [0, 1.05 * top]}}


def of_classes(cache: CachePart, by_images: bool) -> go.Figure:
    """Virtual examples of every class, and the images. The script changes all traces but the first."""
    order = order_of(cache)
    counts = np.array(cache.class_counts)[order]
    x = counts if by_images else np.arange(1, len(order) + 1)
    shown = cache.positions[first_shown(cache)]
    values = np.array(shown.per_class)[order]
    names = labels([cache.classes[c] for c in order])
    scale = scales(cache)["log"]
    x_axis: dict[str, Any] = {"title": "classes, most images first", "range": [0, len(order) + 1]}
    if by_images:
        ends = math.log10(max(counts[-1], 0.7)) - 0.05, math.log10(counts[0]) + 0.05
        x_axis = {"title": "training images of the class", "type": "log", "range": ends[::-1], **_TICKS}
    drawn = figure(
        x_axis,
        {"title": "virtual examples", "type": "log", "range": scale["yaxis.range"], **_TICKS},
        hovermode="closest",
    )
    drawn.add_scatter(
        x=x, y=counts, mode="lines", name="training images", legendgroup="images", hoverinfo="skip",
        zorder=int(len(order) > DOTS),  # seen before an outline, behind marks
        line={"color": light("images"), "width": 2, "shape": "linear" if by_images else "hvh"},
    )  # fmt: skip
    start = 0
    for shot, members in shot_groups(np.array(cache.class_counts)).items():
        part = slice(start, start := start + len(members))
        style: dict[str, Any] = {"mode": "markers", "marker": {"color": light(shot), "size": 7}}
        if len(order) > DOTS:
            style = {"mode": "lines", "line": {"color": light(shot), "width": 1}}
        drawn.add_scatter(
            x=x[part], y=values[part], name=shot, legendgroup=shot,
            customdata=np.stack([names[part], counts[part].astype(object)], axis=1),
            hovertemplate="<b>%{customdata[0]}</b><br>%{y:.1f} virtual examples"
            "<br>%{customdata[1]} images<extra></extra>",
            **style,
        )  # fmt: skip
    return drawn


def of_groups(cache: CachePart, present: list[str]) -> go.Figure:
    """The means of images and of virtual examples; the latter are the second trace."""
    shown = cache.positions[first_shown(cache)]
    top = max(
        *(cache.images[shot] or 0 for shot in present),
        *(one.shots[shot] or 0 for one in cache.positions for shot in present),
    )
    drawn = figure(
        {"fixedrange": True}, {"title": "mean per class", "rangemode": "tozero", "range": [0, 1.12 * top]},
        bargap=0.28, bargroupgap=0.06, barmode="group", hovermode="closest",
    )  # fmt: skip
    common: Mapping[str, Any] = {
        "x": [f"{shot}-shot" for shot in present],
        "texttemplate": "%{y:.0f}",
        "textposition": "outside",
        "cliponaxis": False,
    }
    drawn.add_bar(
        y=[cache.images[shot] for shot in present], name="images", marker={"color": light("images")},
        hovertemplate="%{x}: %{y:.1f} training images<extra></extra>", opacity=0.45, **common,
    )  # fmt: skip
    drawn.add_bar(
        y=[shown.shots[shot] for shot in present], name="virtual examples",
        marker={"color": [light(shot) for shot in present]},
        hovertemplate="%{x}: %{y:.1f} virtual examples<extra></extra>", **common,
    )  # fmt: skip
    return drawn


def over_ratios(cache: CachePart, present: list[str]) -> go.Figure:
    """The means above and the information below. The first shape is the cursor, which the slider moves."""
    x = [one.ratio for one in cache.positions]
    ticks = [t for t in (0.5, 1, 2, 3, 4, 6, 10, 20, 50) if x[0] <= t <= x[-1]]
    most = math.log(cache.shape[2])
    information = [one.information / most for one in cache.positions]
    ends = [math.log10(x[0]), math.log10(x[-1])]
    drawn = figure(
        {"title": "τ/p", "type": "log", "range": ends, "tickvals": ticks, "tickangle": 0, "anchor": "y2"},
        {"title": "mean per class", "rangemode": "tozero", "domain": [0.4, 1]},
        hovermode="x unified",
    )
    drawn.update_layout(yaxis2={**drawn.layout.yaxis.to_plotly_json(), "domain": [0, 0.28], "range": [0, 1],
                                "tickformat": ".0%", "title": {"text": "kept", "font": {"size": 12, "color":
                                light("muted")}, "standoff": 8}})  # fmt: skip
    for shot in present:
        drawn.add_scatter(
            x=x, y=[one.shots[shot] for one in cache.positions], name=f"{shot}-shot", legendgroup=shot,
            mode="lines", line={"color": light(shot), "width": 2.5, "dash": _DASHES[shot]},
            hovertemplate="%{y:.1f}",
        )  # fmt: skip
    drawn.add_scatter(
        x=x, y=information, name="information kept", yaxis="y2", mode="lines", fill="tozeroy",
        line={"color": light("muted"), "width": 2}, fillcolor="rgba(127,137,150,.15)",
        hovertemplate="%{y:.1%}",
    )  # fmt: skip
    drawn.add_shape(
        type="line", xref="x", yref="paper", x0=1, x1=1, y0=0, y1=1,
        line={"color": light("ink"), "width": 1.5},
    )  # fmt: skip
    if cache.crossing:
        drawn.add_shape(
            type="line", xref="x", yref="paper", x0=cache.crossing.ratio, x1=cache.crossing.ratio, y0=0, y1=1,
            line={"color": light("model1"), "width": 1.5, "dash": "dot"},
        )  # fmt: skip
        drawn.add_annotation(
            x=math.log10(cache.crossing.ratio), y=1, xref="x", yref="paper", yanchor="bottom",
            text=f"crossing at {cache.crossing.ratio:.3g}", showarrow=False,
            font={"color": light("model1"), "size": 12},
        )  # fmt: skip
        drawn.update_layout(margin={"t": 26})
    return drawn
