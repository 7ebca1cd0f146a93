"""Virtual examples over τ/p: the choice that a cache leaves to its user."""

import base64
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import plotly.graph_objects as go

from dive.data.longtail import shot_groups
from dive.printable import printable
from dive.recipe.shots import SHOTS
from dive.report.page.content import CachePart, Page
from dive.report.page.markup import Markup, element, join, number, table
from dive.report.page.palette import light
from dive.report.page.plots import Key, Plot, figure, labels
from dive.report.page.section import Section, missing

NAME = "virtual-examples"
TITLE = "Virtual examples"
LEAD = (
    "A softened target counts every image towards several classes. What a class gets in all are its virtual "
    "examples: Σ softmax(p·z/τ) over the training images. Only the ratio τ/p decides it. A small one keeps "
    "the long tail and the teacher’s knowledge, a large one makes classes equal and tells nothing."
)
DOTS = 600  # classes; more are drawn as an outline, one path a group


def section(page: Page) -> Section:
    """The section: a panel for each cache, one shown at a time."""
    if not page.caches:
        body = missing(
            "No logit cache was given. Give one, dive report CACHE …; dive export-logits makes it."
        )
        return Section(NAME, TITLE, LEAD, body)
    made = [_panel(place, cache) for place, cache in enumerate(page.caches)]
    chooser = Markup()
    if len(page.caches) > 1:
        choices = (
            element("option", f"{cache.model} · {cache.file}", value=place)
            for place, cache in enumerate(page.caches)
        )
        chooser = element(
            "p",
            element("label", "Cache", for_="which"),
            element("select", *choices, id="which"),
            class_="which",
        )
    plots = [plot for _, of_cache in made for plot in of_cache]
    data = [_data(cache) for cache in page.caches]
    return Section(NAME, TITLE, LEAD, join([chooser, *(html for html, _ in made)]), plots, data)


def order_of(cache: CachePart) -> np.ndarray:
    """Classes (C,) by training images, most first; those of a group lie together."""
    return np.argsort(-np.array(cache.class_counts), kind="stable")


def first_shown(cache: CachePart) -> int:
    """The position that the slider begins at: the nearest to the crossing, else to τ/p = 1."""
    wanted = cache.crossing.ratio if cache.crossing else 1.0
    return min(range(len(cache.positions)), key=lambda i: abs(math.log(cache.positions[i].ratio / wanted)))


def _data(cache: CachePart) -> dict[str, Any]:
    """What the slider shows: per class in float32, in the order of the figure."""
    order = order_of(cache)
    values = np.array([one.per_class for one in cache.positions], dtype="<f4")[:, order]
    return {
        "classes": len(order),
        "ratios": [one.ratio for one in cache.positions],
        "values": base64.b64encode(values.tobytes()).decode(),
        "groups": {shot: len(members) for shot, members in shot_groups(np.array(cache.class_counts)).items()},
        "shots": [one.shots for one in cache.positions],
        "errors": [one.errors for one in cache.positions],
        "information": [one.information for one in cache.positions],
        "names": [printable(name) for name in cache.classes],
        "order": order.tolist(),
        "counts": [cache.class_counts[place] for place in order],
        "first": first_shown(cache),
        "crossing": cache.crossing.ratio if cache.crossing else None,
    }


def _panel(place: int, cache: CachePart) -> tuple[Markup, list[Plot]]:
    present = [shot for shot in SHOTS if cache.images[shot] is not None]
    keys = [Key(shot, f"{shot}-shot", shot, "●") for shot in present]
    keys.append(Key("images", "training images", "images", "━"))
    classes = Plot(
        f"classes-{place}",
        "Every class, by training images",
        "Virtual examples of every class, classes sorted by their training images, most first; the images "
        "are the grey line.",
        {"by rank": _classes(cache, by_images=False), "by images": _classes(cache, by_images=True)},
        keys,
        _scales(cache),
        table(("class", "images", "virtual examples"), (), f"Virtual examples per class, {cache.file}"),
    )
    groups = Plot(
        f"groups-{place}",
        "Means of the groups",
        "Mean virtual examples per class in each group beside the mean of training images.",
        {"": _groups(cache, present)},
        size="side",
    )
    curves = Plot(
        f"curves-{place}",
        "Over τ/p",
        "Mean virtual examples of the groups and the information kept, over the ratio of tau to p.",
        {"": _curves(cache, present)},
        [Key(shot, f"{shot}-shot", shot, "━") for shot in present],
        table=_table(cache, present),
    )
    n, views, c = cache.shape
    of = f"{n:,} images" if cache.sample is None else f"a sample of {cache.sample:,} of {n:,} images"
    about = f"{cache.model} · {of} · {views} stored view{'s' * (views > 1)} · {c:,} classes"
    html = element(
        "div",
        element("p", about, class_="about"),
        _controls(place, cache, present),
        element("div", classes.html(), groups.html(), class_="pair"),
        curves.html(),
        class_="cache",
        data_cache=place,
        hidden=place > 0,
    )
    return html, [classes, groups, curves]


def _controls(place: int, cache: CachePart, present: list[str]) -> Markup:
    """Slider, fields and figures of the position."""
    ratios = [one.ratio for one in cache.positions]
    slider = element(
        "div",
        element("label", "τ/p", for_=f"ratio-{place}"),
        element(
            "input", type="range", id=f"ratio-{place}", min=0, max=len(ratios) - 1, step=1,
            value=first_shown(cache), class_="ratio",
        ),
        element("output", "", data_show="ratio", class_="big", for_=f"ratio-{place}"),
        class_="slider",
    )  # fmt: skip
    fields = element(
        "div",
        element("label", "τ ", _field(f"tau-{place}", "tau")),
        element("label", "p ", _field(f"power-{place}", "power")),
        element("span", "Only τ/p matters to the target; τ alone scales the loss, by τ².", class_="note"),
        element("span", "", data_show="note", class_="note told", role="status"),
        class_="fields",
    )
    tiles = [_tile(f"{shot}-shot", shot, f"{number(cache.images[shot])} images") for shot in present]
    tiles.append(_tile("max/min of the groups", "flatness", "1 is flat"))
    tiles.append(_tile("information kept", "information", f"of log C = {math.log(cache.shape[2]):.3f} nats"))
    advice = element("p", element("strong", "Rule of thumb. "), cache.advice, class_="advice")
    return element("div", slider, fields, element("div", *tiles, class_="tiles"), advice, class_="controls")


def _field(name: str, which: str) -> Markup:
    return element("input", type="number", id=name, class_=which, min=0.01, max=1000, step="any",
                   inputmode="decimal")  # fmt: skip


def _tile(title: str, shows: str, below: str) -> Markup:
    return element(
        "div",
        element("span", title, class_="what"),
        element("output", "", data_show=shows, class_=f"value {shows}"),
        element("span", below, class_="below"),
        class_="tile",
    )


def _scales(cache: CachePart) -> dict[str, dict[str, Any]]:
    """Logarithmic and linear axes that hold every position, so that bars are seen to move."""
    top = max(max(cache.class_counts), max(max(one.per_class) for one in cache.positions))
    least = min(min(cache.class_counts), min(min(one.per_class) for one in cache.positions))
    low = max(0.7 * least, top / 1e4)  # far below, a class has nothing
    logarithmic = {"yaxis.type": "log", "yaxis.range": [math.log10(low), math.log10(1.3 * top)]}
    return {"log": logarithmic, "linear": {"yaxis.type": "linear", "yaxis.range": [0, 1.05 * top]}}


def _classes(cache: CachePart, by_images: bool) -> go.Figure:
    order = order_of(cache)
    counts = np.array(cache.class_counts)[order]
    x = counts if by_images else np.arange(1, len(order) + 1)
    shown = cache.positions[first_shown(cache)]
    values = np.array(shown.per_class)[order]
    names = labels([cache.classes[c] for c in order])
    scale = _scales(cache)["log"]
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


_TICKS = {"dtick": 1, "minor": {"ticks": "", "showgrid": False}, "tickformat": ",~g"}


def _groups(cache: CachePart, present: list[str]) -> go.Figure:
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


def _curves(cache: CachePart, present: list[str]) -> go.Figure:
    """Means above, information below. The first shape is the cursor, which the slider moves."""
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


_DASHES = {"many": "solid", "medium": "dash", "few": "solid"}


def _table(cache: CachePart, present: list[str]) -> Markup:
    images = ["images", *(number(cache.images[shot]) for shot in present), "", ""]
    most = math.log(cache.shape[2])
    rows = [
        [
            f"{one.ratio:g}",
            *(_estimate(one.shots[shot], (one.errors or {}).get(shot), 1) for shot in present),
            _estimate(one.information, (one.errors or {}).get("information"), 3),
            f"{100 * one.information / most:.1f} %",
        ]
        for one in cache.positions
    ]
    head = ["τ/p", *present, "nats kept", "of log C"]
    return table(head, [images, *rows], f"Mean virtual examples per class, {cache.file}")


def _estimate(value: float | None, error: float | None, digits: int) -> str:
    return number(value, digits) + ("" if error is None else f" ± {number(error, digits)}")
