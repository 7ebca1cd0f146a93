"""The figure of accuracy by class: what is drawn, for how many models and classes."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from dive.report import class_figure, figures
from dive.report.class_figure import ClassAccuracies, plot_classes

COUNTS = [500, 300, 120, 100, 60, 20, 19, 9, 5, 5]
TEACHER = ClassAccuracies("teacher", COUNTS, [0.9, 0.8, 0.7, 0.6, None, 0.5, 0.4, 0.3, 0.0, 0.2])
STUDENT = ClassAccuracies("student", COUNTS, [0.8] * 10)


@pytest.fixture
def drawn(monkeypatch):
    """The figures drawn during a test."""
    made = []

    class Remembered(class_figure.Figure):
        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            made.append(self)

    monkeypatch.setattr(class_figure, "Figure", Remembered)
    return made


def points(figure) -> list[list[tuple[float, float]]]:
    """The points of each model, those of its lines left out."""
    (axes,) = figure.axes
    scattered = [line for line in axes.lines if line.get_linestyle() == "None"]
    return [list(zip(*line.get_data(), strict=True)) for line in scattered]


def test_every_tested_class_is_a_point_of_its_images_and_its_accuracy(drawn):
    plot_classes(Path("figure.png"), "A title", [TEACHER, STUDENT])
    one, other = points(drawn[0])
    pairs = zip(COUNTS, TEACHER.accuracies, strict=True)
    wanted = sorted((count, 100 * share) for count, share in pairs if share is not None)
    assert one == [pytest.approx(pair) for pair in wanted] and len(other) == 10
    assert [text.get_text() for text in drawn[0].legends[0].get_texts()] == [
        "teacher: mean 48.9",
        "student: mean 80.0",
    ]
    assert drawn[0].axes[0].get_title(loc="left") == "A title"


def test_the_line_goes_through_the_means_of_tenths_of_the_classes(drawn):
    counts = np.geomspace(5, 500, 100).astype(int).tolist()
    shares = np.linspace(0, 1, 100).tolist()
    plot_classes(Path("figure.png"), "A title", [ClassAccuracies("model", counts, shares)])
    (line,) = (line for line in drawn[0].axes[0].lines if line.get_linestyle() == "-")
    x, y = line.get_data()
    by_hand = [100 * sum(shares[k : k + 10]) / 10 for k in range(0, 100, 10)]
    assert list(y) == pytest.approx(by_hand)
    assert x[3] == pytest.approx(np.prod([c**0.1 for c in counts[30:40]]))


@pytest.mark.parametrize(
    ("counts", "shots"),
    [
        (COUNTS, ["few", "medium", "many"]),
        ([19, 5], ["few"]),
        ([100, 20], ["medium"]),
        ([900, 101], ["many"]),
    ],
)
def test_the_shots_that_occur_are_shaded_and_named(drawn, counts, shots):
    plot_classes(Path("figure.png"), "A title", [ClassAccuracies("model", counts, [0.5] * len(counts))])
    (axes,) = drawn[0].axes
    named = [text.get_text().removesuffix("-shot") for text in axes.texts]
    assert set(shots) <= set(named) and len(axes.patches) == len(named)
    for patch, shot in zip(axes.patches, named, strict=True):
        left, right = patch.get_x(), patch.get_x() + patch.get_width()
        inside = [count for count in counts if left <= count < right]
        bounds = {"few": (0, 20), "medium": (20, 101), "many": (101, 10**9)}[shot]
        assert inside == [count for count in counts if bounds[0] <= count < bounds[1]]


def test_two_models_differ_in_colour_and_in_marker(drawn):
    models = [ClassAccuracies(str(k), COUNTS, [k / 7] * 10) for k in range(7)]
    plot_classes(Path("figure.svg"), "A title", models)
    lines = [line for line in drawn[0].axes[0].lines if line.get_linestyle() == "-"]
    assert len({line.get_color() for line in lines}) == len({line.get_marker() for line in lines}) == 7


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_the_same_figure_is_the_same_file_and_is_known_as_one(suffix):
    for name in ("a", "b"):
        plot_classes(Path(name + suffix), "A title", [TEACHER])
    assert Path("a" + suffix).read_bytes() == Path("b" + suffix).read_bytes()
    assert figures.is_own(Path("a" + suffix))


def test_thousands_of_classes_are_drawn():
    rng = np.random.default_rng(0)
    counts = np.sort(rng.zipf(1.6, 8142).clip(2, 1000)).tolist()
    plot_classes(Path("figure.png"), "A title", [ClassAccuracies("m", counts, rng.random(8142).tolist())])
    with Image.open("figure.png") as image:
        assert image.format == "PNG" and min(image.size) > 400
