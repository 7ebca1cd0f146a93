"""The figure at the top of RESULTS.md: accuracy by group of classes, ours beside the literature."""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dive import files
from reproduction.records import SHOTS
from reproduction.summary import Panel

# Okabe and Ito's palette, which colour-blind readers can tell apart, and a grey.
COLOURS = ("#BBBBBB", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
HATCHES = ("", "//")  # models after the last colour begin the colours again, hatched
MARKERS = ("D", "^", "s", "o")  # of works, in the order of literature.yaml
GROUPS = ("many-shot", "medium-shot", "few-shot", "all classes")
WIDTH = 0.82  # of the bars of a group
NARROW = 4  # of more bars than these the values are written upright
LABEL = 30  # characters of a line in the legend


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write the figure as PNG, a panel below the other.

    Bars are ours, with a line of ± one standard deviation where there are several seeds; marks are what works
    report of these models, and dashed lines what other methods reach. A model has one colour in all panels.
    """
    figure = Figure(figsize=(9, 3.6 * len(panels)), layout="constrained")
    FigureCanvasAgg(figure)
    works = dict.fromkeys(name for panel in panels for one in panel.reported for name in one)
    marks = dict(zip(works, MARKERS, strict=False))
    models = dict.fromkeys(row.model for panel in panels for row in panel.rows)
    colours = {
        model: {"color": COLOURS[k % len(COLOURS)], "hatch": HATCHES[k // len(COLOURS) % len(HATCHES)]}
        for k, model in enumerate(models)
    }
    for axes, panel in zip(figure.subplots(len(panels), squeeze=False).flat, panels, strict=True):
        _models(axes, panel, colours)
        _other_methods(axes, panel)
        _works(axes, panel, marks)
        axes.set_xticks(range(len(SHOTS)), GROUPS, fontsize=11)
        axes.set_ylabel("top-1 accuracy (%)", fontsize=11)
        axes.set_title(panel.title, loc="left", fontsize=12)
        axes.set_ylim(0, 80)
        axes.yaxis.set_ticks(range(0, 81, 20))
        axes.grid(axis="y", color="0.9", zorder=0)
        axes.axvline(len(SHOTS) - 1.5, color="0.7", linewidth=1)
        axes.spines[["top", "right"]].set_visible(False)
        axes.legend(frameon=False, fontsize=9.5, loc="upper left", bbox_to_anchor=(1, 1.03))
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=160, metadata={"Description": description(panels)})


def description(panels: Sequence[Panel]) -> str:
    """What the figure shows as JSON, which its file holds too: it says of which records a file is."""
    shown = [
        [panel.title, [[row.name, *(row.shown(shot) for shot in SHOTS), theirs] for row, theirs in pairs]]
        for panel in panels
        for pairs in [zip(panel.rows, panel.reported, strict=True)]
    ]
    return json.dumps(shown, ensure_ascii=True)


def _places(panel: Panel) -> list[list[float]]:
    """Where the bars of each row stand."""
    width = WIDTH / len(panel.rows)
    middle = (len(panel.rows) - 1) / 2
    return [[group + (k - middle) * width for group in range(len(SHOTS))] for k in range(len(panel.rows))]


def _models(axes: Axes, panel: Panel, colours: dict[str, dict[str, str]]) -> None:
    """Our models' bars with their values, and error bars where there are several seeds."""
    width = WIDTH / len(panel.rows)
    for row, places in zip(panel.rows, _places(panel), strict=True):
        means = [row.accuracy(shot) for shot in SHOTS]
        heights = [mean or 0.0 for mean in means]
        label = textwrap.fill(row.name, LABEL)
        style: dict[str, Any] = {"edgecolor": "white", "linewidth": 0, **colours[row.model]}
        bars = axes.bar(places, heights, width * 0.92, label=label, zorder=2, **style)
        spreads = [row.spread(shot) or 0.0 for shot in SHOTS]
        if any(spreads):
            axes.errorbar(places, heights, spreads, color="black", linestyle="none", capsize=2.5, zorder=3)
        values = ["" if mean is None else f"{mean:.1f}" for mean in means]
        upright = 90 if len(panel.rows) > NARROW else 0
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.bar_label(
            bars, values, label_type="center", fontsize=8.5, rotation=upright, zorder=5, bbox=ground
        )


def _other_methods(axes: Axes, panel: Panel) -> None:
    """What other methods reach, as a dashed line across a group."""
    found = {name: result for one in panel.reported for name, result in one.items() if "method" in result}
    for name, result in found.items():
        groups = [group for group, shot in enumerate(SHOTS) if shot in result]
        heights = [result[SHOTS[group]] for group in groups]
        ends = ([group - WIDTH / 2 for group in groups], [group + WIDTH / 2 for group in groups])
        axes.hlines(heights, *ends, colors="black", linestyles="dashed", label=name, zorder=4)


def _works(axes: Axes, panel: Panel, marks: dict[str, str]) -> None:
    """What works report of these models, as marks beside each other."""
    same = [{name: r for name, r in one.items() if "method" not in r} for one in panel.reported]
    for name in dict.fromkeys(name for one in same for name in one):
        across, up = [], []
        for row, places, reported in zip(panel.rows, _places(panel), same, strict=True):
            result = reported.get(name, {})
            for x, shot in zip(places, SHOTS, strict=True):
                if shot in result:
                    together = [one for one in reported if shot in reported[one]]
                    asides = _asides(len(together), row.spread(shot) is not None)
                    across.append(x + asides[together.index(name)] * WIDTH / len(panel.rows))
                    up.append(result[shot])
        style: dict[str, Any] = {
            "marker": marks[name],
            "markersize": 5.5,
            "color": "black",
            "linestyle": "none",
        }
        axes.plot(across, up, label=name, markerfacecolor="white", zorder=4, **style)


def _asides(count: int, error_bar: bool) -> list[float]:
    """How far so many marks of a bar stand from its middle, in its width; an error bar stays free.

    >>> _asides(2, error_bar=False), _asides(2, error_bar=True), _asides(1, error_bar=True)
    ([-0.2, 0.2], [-0.34, 0.34], [0.34])
    """
    steps: list[float] = [k - (count - 1) / 2 for k in range(count)]
    if error_bar:
        half = (count + 1) // 2
        steps = [float(k) for k in range(-half, half + 1) if k][-count:]
        return [0.34 * step for step in steps]
    return [0.4 * step for step in steps]
