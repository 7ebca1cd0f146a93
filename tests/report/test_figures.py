"""The figure of the tune step: what is drawn, and that its file is of the kind asked for."""

import xml.etree.ElementTree
from pathlib import Path

import pytest
from PIL import Image

from dive.report import figures

COUNTS = {"many": 252.0, "medium": 49.5, "few": 13.8}
FOUND = [
    ("τ/p = 1", {"many": 237.0, "medium": 52.0, "few": 22.0}),
    ("τ/p = 6", {"many": 112.0, "medium": 92.0, "few": 123.0}),
]


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn during a test."""
    made = []

    class Remembered(figures.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(figures, "Figure", Remembered)
    return made


def bars(figure) -> dict[str, list[float]]:
    (axes,) = figure.axes
    return {
        container.get_label(): [bar.get_height() for bar in container.patches]
        for container in axes.containers
    }


def test_the_bars_are_the_images_and_then_the_means_by_temperature(drawn):
    figures.plot_means(Path("figure.png"), figures.Means("A title", [("images", COUNTS), *FOUND]))
    assert bars(drawn[0]) == {
        "many-shot": [252.0, 237.0, 112.0],
        "medium-shot": [49.5, 52.0, 92.0],
        "few-shot": [13.8, 22.0, 123.0],
    }
    (axes,) = drawn[0].axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ["images", "τ/p = 1", "τ/p = 6"]
    assert axes.get_title(loc="left") == "A title"


def test_no_bar_covers_another(drawn):
    figures.plot_means(Path("figure.png"), figures.Means("A title", [("images", COUNTS), *FOUND]))
    (axes,) = drawn[0].axes
    spans = sorted((bar.get_x(), bar.get_x() + bar.get_width()) for bar in axes.patches)
    assert len(spans) == 9
    assert all(left[1] <= right[0] + 1e-9 for left, right in zip(spans, spans[1:], strict=False))


def test_a_marked_group_alone_has_a_shaded_ground(drawn):
    figures.plot_means(Path("figure.png"), figures.Means("A title", [("images", COUNTS), *FOUND], [2]))
    (axes,) = drawn[0].axes
    wide = [patch for patch in axes.patches if patch.get_width() > 0.9]
    assert [patch.get_x() + patch.get_width() / 2 for patch in wide] == pytest.approx([2])


def test_a_group_without_classes_has_no_bars(drawn):
    counts = COUNTS | {"few": None}
    found = ("τ/p = 1", {"many": 2.0, "medium": 1.0, "few": None})
    figures.plot_means(Path("figure.svg"), figures.Means("A title", [("images", counts), found]))
    assert list(bars(drawn[0])) == ["many-shot", "medium-shot"]


def test_the_suffix_is_the_format():
    for name in ("figure.png", "figure.svg", "figure.pdf", "figure.PNG"):
        figures.plot_means(Path(name), figures.Means("A title", [("images", COUNTS), *FOUND]))
    for name in ("figure.png", "figure.PNG"):
        with Image.open(name) as image:
            assert image.format == "PNG" and min(image.size) > 400
    root = xml.etree.ElementTree.parse("figure.svg").getroot()
    assert root.tag == "{http://www.w3.org/2000/svg}svg"
    assert Path("figure.pdf").read_bytes().startswith(b"%PDF-")
    assert sorted(path.name for path in Path().iterdir()) == [
        "figure.PNG",
        "figure.pdf",
        "figure.png",
        "figure.svg",
    ]


@pytest.mark.parametrize("suffix", [".png", ".pdf", ".svg"])
def test_the_same_figure_is_the_same_file(suffix):
    for name in ("a", "b"):
        figures.plot_means(Path(name + suffix), figures.Means("A title", [("images", COUNTS), *FOUND]))
    assert Path("a" + suffix).read_bytes() == Path("b" + suffix).read_bytes()


def test_a_figure_that_cannot_be_drawn_leaves_no_file():
    with pytest.raises(KeyError):
        figures.plot_means(Path("figure.jpg"), figures.Means("A title", [("images", COUNTS), *FOUND]))
    assert list(Path().iterdir()) == []
