"""The figure of `dive eval`: each class's accuracy against its training images, of one model or several."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dive.report.figures import COLOURS, save

# Okabe and Ito's palette, the colours of the groups last; markers distinguish models too.
_STYLES = (
    ("black", "o"),
    ("#D55E00", "s"),
    ("#56B4E9", "^"),
    ("#CC79A7", "D"),
    ("#0072B2", "v"),
    ("#E69F00", "P"),
    ("#009E73", "X"),
)
_BOUNDS = (("few", 0.0, 20.0), ("medium", 20.0, 100.5), ("many", 100.5, np.inf))  # training images of a class
_POINTS = 10  # points of a model's line, each the mean of a tenth of its classes


@dataclass(frozen=True)
class ClassAccuracies:
    """A model's accuracy by class.

    name: the name in the legend. counts: (C,) training images. accuracies: (C,) in [0, 1]; None for a class
    without test images.
    """

    name: str
    counts: Sequence[int]
    accuracies: Sequence[float | None]


def plot_classes(path: Path, title: str, models: Sequence[ClassAccuracies]) -> None:
    """Plot a point for each class, and for each model a line through the means of classes of similar size.

    The groups are shaded in the background. The axis of training images is logarithmic. The file's suffix is
    its format.
    """
    figure = Figure(figsize=(7.2, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_xscale("log")
    most = max(max(model.counts) for model in models)
    least = min(min(model.counts) for model in models)
    span = (least / 1.15, most * 1.15)
    few_points = max(len(model.counts) for model in models) <= 200
    for k, model in enumerate(models):
        colour, marker = _STYLES[k % len(_STYLES)]
        counts, shares = _tested(model)
        axes.plot(
            counts,
            shares,
            linestyle="none",
            marker=marker,
            markersize=4.5 if few_points else 2.5,
            markerfacecolor=colour,
            markeredgewidth=0,
            alpha=0.35 if len(counts) > 20 else 0.75,
            zorder=2,
        )
        label = f"{model.name}: mean {shares.mean():.1f}"
        axes.plot(*_line(counts, shares), color=colour, marker=marker, linewidth=1.6, label=label, zorder=3)
    for shot, low, high in _BOUNDS:
        left, right = max(low, span[0]), min(high, span[1])
        if left < right:
            axes.axvspan(left, right, color=COLOURS[shot], alpha=0.12, linewidth=0, zorder=0)
            middle = float(np.sqrt(left * right))
            top = axes.get_xaxis_transform()
            axes.text(middle, 0.985, f"{shot}-shot", transform=top, ha="center", va="top", fontsize=9)
    axes.set_xlim(*span)
    axes.set_ylim(-2, 112)  # room for the names of the shots
    axes.set_yticks(range(0, 101, 20))
    axes.xaxis.set_major_formatter("{x:g}")
    axes.set_xlabel("training images of a class")
    axes.set_ylabel("accuracy of the class (%)")
    axes.set_title(title, loc="left", fontsize=11)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(loc="outside lower left", frameon=False, fontsize=9)
    save(figure, path)


def _tested(model: ClassAccuracies) -> tuple[np.ndarray, np.ndarray]:
    """Training images and accuracies in percent of the classes that have one, the rarest first."""
    pairs = zip(model.counts, model.accuracies, strict=True)
    known = sorted((count, 100 * share) for count, share in pairs if share is not None)
    counts, shares = zip(*known, strict=True)
    return np.array(counts, dtype=float), np.array(shares)


def _line(counts: np.ndarray, shares: np.ndarray) -> tuple[list[float], list[float]]:
    """The means of tenths of the classes by size; geometric means of images, whose axis is logarithmic."""
    parts = np.array_split(np.arange(len(counts)), min(_POINTS, len(counts)))
    return (
        [float(np.exp(np.log(counts[part]).mean())) for part in parts],
        [float(shares[part].mean()) for part in parts],
    )
