"""Training images in stored views of a cache, with the classes that each counts towards."""

import base64
from typing import Any

import numpy as np

from dive.printable import printable
from dive.report.page.content import CachePart, Page, Picture
from dive.report.page.markup import Markup, element, join
from dive.report.page.section import Section, missing

NAME = "pictures"
TITLE = "One image, several classes"
LEAD = (
    "The softened target of one image makes it a virtual example of other classes too. "
    "Below are training images in some of their stored views, with the teacher’s target at the τ/p of the "
    "slider above. Choose a view to see its own target; the image’s class is marked. Of each group they are "
    "the first images, by key, of the classes at a quarter and at three quarters by training images."
)


def section(page: Page) -> Section:
    """The section: a panel for each cache, of which the selected one is shown."""
    if not page.caches:
        return Section(NAME, TITLE, LEAD, missing("This needs a logit cache: run dive report CACHE …"))
    panels = join(_panel(place, cache) for place, cache in enumerate(page.caches))
    return Section(NAME, TITLE, LEAD, panels, data=[_data(cache) for cache in page.caches])


def _data(cache: CachePart) -> list[str]:
    """The logits (views, C) float32 of each image."""
    pictures = cache.pictures or []
    logits = (np.array([view.logits for view in one.views], dtype="<f4") for one in pictures)
    return [base64.b64encode(values.tobytes()).decode() for values in logits]


def _panel(place: int, cache: CachePart) -> Markup:
    shown: dict[str, Any] = {"class_": "of-cache", "data_cache": place, "hidden": place > 0}
    if cache.pictures is None:
        return element("div", missing(cache.without), **shown)
    cards = (_card(number, one, cache) for number, one in enumerate(cache.pictures))
    return element("div", element("div", *cards, class_="cards"), **shown)


def _card(number: int, picture: Picture, cache: CachePart) -> Markup:
    name = cache.classes[picture.label]
    count = cache.class_counts[picture.label]
    views = (
        element(
            "button",
            element("img", src=view.uri, alt=f"{name}, {_called(view.clean, view.view_id)}"),
            element("span", _called(view.clean, view.view_id)),
            type="button",
            data_view=place,
            aria_pressed=str(place == 0).lower(),
        )
        for place, view in enumerate(picture.views)
    )
    return element(
        "article",
        element("header", element("h3", name), element("span", picture.shot, class_=f"shot {picture.shot}")),
        element(
            "p", f"{count:,} image{'s' * (count != 1)} of its class · {printable(picture.key)}", class_="key"
        ),
        element("div", *views, class_="views", role="group", aria_label=f"Stored views of {name}"),
        element("ol", class_="target", aria_label="The teacher’s target, largest first"),
        class_="card",
        data_picture=number,
        data_label=picture.label,
    )


def _called(clean: bool, view_id: int) -> str:
    return "clean" if clean else f"view {view_id}"
