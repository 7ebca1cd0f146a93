"""Virtual examples over τ/p, with a slider."""

import base64
import math
from typing import Any

import numpy as np

from dive.data.longtail import shot_groups
from dive.printable import printable
from dive.recipe.shots import SHOTS
from dive.report.page.content import CachePart, Page
from dive.report.page.markup import Markup, details, element, join, number, table
from dive.report.page.plots import Key, Plot
from dive.report.page.section import Section, missing
from dive.report.page.virtual_examples_figures import (
    first_shown,
    of_classes,
    of_groups,
    order_of,
    over_ratios,
    scales,
)

NAME = "virtual-examples"
TITLE = "Virtual examples"
LEAD = (
    "A softened target counts every image towards several classes. What a class gets in all are its virtual "
    "examples: Σ softmax(p·z/τ) over the training images. Only the ratio τ/p decides it. A small one keeps "
    "the long tail and the teacher’s knowledge, a large one makes classes equal and tells nothing."
)


def section(page: Page) -> Section:
    """The section: a panel for each cache, one shown at a time."""
    if not page.caches:
        body = missing(
            "No logit cache was given. To show one, run dive report CACHE …; dive export-logits writes it."
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


def _data(cache: CachePart) -> dict[str, Any]:
    """The data of the slider: virtual examples per class in float32, in the order of the figure."""
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
        {"by rank": of_classes(cache, by_images=False), "by images": of_classes(cache, by_images=True)},
        keys,
        scales(cache),
        table(("class", "images", "virtual examples"), (), f"Virtual examples per class, {cache.file}"),
    )
    groups = Plot(
        f"groups-{place}",
        "Means of the groups",
        "Mean virtual examples per class in each group beside the mean of training images.",
        {"": of_groups(cache, present)},
        size="side",
    )
    curves = Plot(
        f"curves-{place}",
        "Over τ/p",
        "Mean virtual examples of the groups and the information kept, over the ratio of tau to p.",
        {"": over_ratios(cache, present)},
        [Key(shot, f"{shot}-shot", shot, "━") for shot in present],
        table=_table(cache, present),
    )
    n, views, c = cache.shape
    of = f"{n:,} images" if cache.sample is None else f"a sample of {cache.sample:,} of {n:,} images"
    seen = "the clean view" if cache.clean else f"{views} stored view{'s' * (views > 1)}"
    about = f"{cache.model} · {of} · {seen} · {c:,} classes"
    html = element(
        "div",
        element("p", about, class_="about"),
        _controls(place, cache, present),
        element("div", classes.html(), groups.html(), class_="pair"),
        curves.html(),
        _paper(cache),
        class_="cache",
        data_cache=place,
        hidden=place > 0,
    )
    return html, [classes, groups, curves]


def _paper(cache: CachePart) -> Markup:
    """The figure of `dive tune-tau --plot`, for download."""
    uri = f"data:image/svg+xml;base64,{base64.b64encode(cache.figure).decode()}"
    picture = element("img", src=uri, alt=cache.figure_says, class_="paper")
    return details("The paper’s Figure 5 of this cache, as dive tune-tau --plot draws it", picture)


def _controls(place: int, cache: CachePart, present: list[str]) -> Markup:
    """The slider, the fields for τ and p, and the numbers at the selected position."""
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
    advice = element("p", element("strong", "Recommendation. "), cache.advice, class_="advice")
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
