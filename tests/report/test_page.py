"""The page as a document: what is embedded, that texts of files stay texts, what tells of missing input."""

import base64
import json
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("plotly", reason="the page needs plotly, which is not installed")

from dive.report.page import classes, content, document, markup, palette

EVIL = ["<script>alert(1)</script>", "</script><b>&amp;", "a'\"><img src=x onerror=alert(2)>", "%{y} {x}"]
RECORD = {
    "kind": "teacher",
    "loss": "bsce",
    "recipe": {"name": EVIL[0]},
    "seed": 0,
    "architecture": {"name": EVIL[1], "parameters": 1},
    "classes": EVIL,
    "class_counts": [200, 50, 10, 10],
    "data_fingerprint": EVIL[2],
    "weights_hash": "abc",
    "accuracy": {"many": 0.9, "medium": 0.5, "few": 0.25, "all": 0.5, "class_mean": 0.4},
    "per_class": [0.9, 0.5, 0.5, None],
    "epochs": 2,
    "seconds": 3.0,
    "device": EVIL[2],
    "precision": "fp32",
    "versions": {"torch": EVIL[1]},
}


class Elements(HTMLParser):
    """The elements of a document, their attributes and the text between tags."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[str] = []
        self.text: list[str] = []
        self.scripts: list[str] = []
        self._within = ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += [name for name, _ in attrs]
        self._within = tag

    def handle_data(self, data):
        (self.scripts if self._within == "script" else self.text).append(data)

    def handle_endtag(self, tag):
        self._within = ""


def model(**changes) -> content.ModelPart:
    history = [{"epoch": 1, "loss": 2.0, "lr": 0.1, "seconds": 1.0, "train_accuracy": 0.5}]
    return content.ModelPart(
        EVIL[2], RECORD | changes, history, f"name: {EVIL[0]}", f"dive teacher {EVIL[1]}"
    )


def cache(pictures=None) -> content.CachePart:
    positions = [
        content.Position(
            ratio, [150.0, 60.0, 40.0, 20.0], {"many": 150.0, "medium": 60.0, "few": 30.0}, 1.0, None
        )
        for ratio in (1.0, 2.0)
    ]
    return content.CachePart(
        EVIL[0], EVIL[1], (270, 2, 4), EVIL, [200, 50, 10, 10], {"many": 200.0, "medium": 50.0, "few": 10.0},
        False, None, positions, None, EVIL[0], b"<svg/>", EVIL[1], [("hash", EVIL[1])], EVIL[2], pictures,
        EVIL[0],
    )  # fmt: skip


def test_texts_of_files_are_neither_tags_nor_attributes_nor_ends_of_scripts():
    view = content.View(0, 0, True, "data:image/png;base64,AAAA", [1.0, 2.0, 3.0, 4.0])
    picture = content.Picture(EVIL[2], 1, "many", [view])
    page = content.Page(EVIL[0], [model(), model(seed=1)], [cache(), cache([picture])], EVIL[1])
    found = Elements(document.document(page).decode())
    assert found.tags.count("script") == 3 and not {"b>&amp;"} & set(found.tags)
    assert "onerror" not in found.attributes
    assert found.tags.count("img") == 3  # a figure of each cache, and a view
    shown = "".join(found.text)
    assert all(text in shown for text in EVIL[:3])
    data = json.loads(found.scripts[0])
    assert data["sections"]["virtual-examples"][0]["names"] == EVIL


def test_plotly_is_given_texts_that_it_does_not_take_for_markup():
    page = content.Page("t", [model()])
    (plot,) = classes.section(page).plots
    names = {row[0] for row in plot.variants["accuracy"].data[0].customdata}
    assert names == {markup.label(text) for text in EVIL[:3]}
    assert not any("<" in name for name in names)


@pytest.mark.parametrize("value", [*EVIL, {"</script>": ["&", "\u2028", 1.5]}])
def test_what_is_embedded_comes_back_and_has_no_character_of_a_tag(value):
    written = markup.embedded(value)
    assert json.loads(written) == value
    assert not set("<>&") & set(written)


def test_a_character_that_turns_the_direction_of_writing_is_shown_as_an_escape():
    assert markup.text("a\u202eb\nc") == "a\\u202eb\nc"


def test_sections_without_input_say_what_brings_them():
    html = document.document(content.Page("t", [model()])).decode()
    assert "No logit cache was given. To show one, run dive report CACHE" in html
    html = document.document(content.Page("t", [], [cache()])).decode()
    assert html.count("dive teacher and dive student write them") == 4


def test_a_record_without_confusion_or_history_is_told_and_one_with_them_is_drawn():
    counted = {shot: dict.fromkeys(("many", "medium", "few"), 25) for shot in ("many", "medium", "few")}
    there = model(group_confusion=counted | {"few": {"many": 10, "medium": 20, "few": 70}})
    lacking = content.ModelPart("old.pt", RECORD | {"seed": 7}, None, "", "")
    html = document.document(content.Page("t", [there, lacking])).decode()
    assert "--share:0.700" in html and "70 %" in html
    assert "1 record does not have it" in html and "old.pt has no history beside it" in html


def test_a_group_without_test_images_has_a_column_where_it_was_predicted_and_rows_add_up():
    counted = {shot: {"many": 60, "medium": 0, "few": 40} for shot in ("many", "medium")}
    nothing = dict.fromkeys(("many", "medium", "few"), 0)
    html = document.document(content.Page("t", [model(group_confusion=counted | {"few": nothing})])).decode()
    (grid,) = re.findall(r'<table class="heat">.*?</table>', html, re.S)
    assert re.findall(r'<th scope="col">(\w+)</th>', grid) == ["many", "medium", "few"]
    assert re.findall(r'<th scope="row">(\w+)</th>', grid) == ["many", "medium"]
    assert re.findall(r"<b>(\d+) %</b>", grid) == ["60", "0", "40"] * 2
    unseen = counted | {"many": {"many": 70, "medium": 30, "few": 0}, "medium": nothing, "few": nothing}
    html = document.document(content.Page("t", [model(group_confusion=unseen)])).decode()
    (grid,) = re.findall(r'<table class="heat">.*?</table>', html, re.S)
    assert re.findall(r'<th scope="col">(\w+)</th>', grid) == ["many", "medium"]
    assert re.findall(r"<b>(\d+) %</b>", grid) == ["70", "30"]


def test_models_that_would_be_called_alike_are_told_apart_by_what_differs():
    other = {"recipe": {"name": "other"}}
    page = content.Page("t", [model(), model(**other), model(seed=1, **other), model(loss="ce")])
    assert page.names() == [
        f"teacher (bsce), {EVIL[0]}",
        "teacher (bsce), other, seed 0",
        "teacher (bsce), other, seed 1",
        "teacher (ce)",
    ]


def test_the_line_through_the_classes_is_the_mean_of_the_nearest_fifth():
    values = np.random.default_rng(0).random(40)
    naive = [values[max(0, i - 4) : i + 5].mean() for i in range(40)]
    np.testing.assert_allclose(classes.smoothed(values), naive, rtol=1e-12)


def test_every_light_colour_has_one_dark_one():
    assert len(palette.to_dark()) == len(palette.COLOURS)


def contrast(one: str, other: str) -> float:
    """The contrast of two colours as WCAG 2 defines it."""

    def luminance(colour: str) -> float:
        parts = [int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [c / 12.92 if c <= 0.03928 else ((c + 0.055) / 1.055) ** 2.4 for c in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    bright, dim = sorted((luminance(one), luminance(other)), reverse=True)
    return (bright + 0.05) / (dim + 0.05)


@pytest.mark.parametrize("side", [0, 1])
def test_texts_stand_out_from_what_is_behind_them(side):
    for text in ("ink", "muted"):
        for behind in ("panel", "ground"):
            assert contrast(palette.COLOURS[text][side], palette.COLOURS[behind][side]) >= 4.5, (text, behind)


def test_the_slider_gets_every_class_in_float32_by_training_images():
    data = json.loads(Elements(document.document(content.Page("t", [], [cache()])).decode()).scripts[0])
    (of_cache,) = data["sections"]["virtual-examples"]
    values = np.frombuffer(base64.b64decode(of_cache["values"]), "<f4").reshape(2, 4)
    np.testing.assert_array_equal(values[1], [150, 60, 40, 20])
    assert of_cache["counts"] == [200, 50, 10, 10] and of_cache["groups"] == {
        "many": 1,
        "medium": 1,
        "few": 2,
    }


def test_a_page_of_dive_is_known_by_its_first_bytes(tmp_path: Path):
    ours, other = tmp_path / "ours.html", tmp_path / "other.html"
    ours.write_bytes(document.document(content.Page("t")))
    other.write_bytes(b"<!doctype html>\n<!-- not dive's -->")
    assert document.is_own(ours) and not document.is_own(other) and not document.is_own(tmp_path / "none")
