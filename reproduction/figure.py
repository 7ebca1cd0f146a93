"""The figure at the top of RESULTS.md: our accuracy by group of classes, beside the literature."""

import json
import math
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dive import files
from reproduction.records import SHOTS, Row
from reproduction.summary import Panel

# Okabe and Ito's palette, which colour-blind readers can tell apart, and a grey.
COLOURS = ("#BBBBBB", "#56B4E9", "#E69F00", "#009E73", "#CC79A7", "#F0E442", "#D55E00", "#0072B2")
HATCHES = ("", "//")  # models after the last colour repeat the colours, hatched
MARKERS = ("D", "^", "s", "v")  # for works, in the order of literature.yaml
DASHES = ("dashed", "dotted", "dashdot")  # for other methods
GROUPS = SHOTS[:3]
WIDTH = 0.82  # of the bars of a group together
NARROW = 4  # with more bars than this, their values are written vertically
LABEL = 34  # characters in a line of a model's label
LINE = 0.17  # height of such a line in inches
HEIGHT = 3.3  # height in inches of a panel of few rows, with its title and ticks
ASIDE = 0.24  # of a bar's width: how far its error bar is left of its middle, and its marks right
BELOW = 0.27  # of the distance of two models' lines: how far below a line the marks of works are
MARGIN = 1  # points on either side of the accuracies over all classes


def draw(path: Path, panels: Sequence[Panel]) -> None:
    """Write the figure as PNG, with one panel below the other.

    Left, bars: our models by group of classes. Right, dots: over all classes, on one scale in all panels.
    Error bars are ± one standard deviation, if there are several seeds. Marks are what works report for these
    models, and dashed lines what other methods reach. A model has one colour in all panels.
    """
    heights = [_height(panel) for panel in panels]
    figure = Figure(figsize=(11, sum(heights) + 0.4), layout="constrained")
    FigureCanvasAgg(figure)
    works = _names(panels, method=False)
    marks = dict(zip(works, MARKERS, strict=False))
    dashes = dict(zip(_names(panels, method=True), DASHES, strict=False))
    models = dict.fromkeys(row.model for panel in panels for row in panel.rows)
    colours = {
        model: {"color": COLOURS[k % len(COLOURS)], "hatch": HATCHES[k // len(COLOURS) % len(HATCHES)]}
        for k, model in enumerate(models)
    }
    shape: Any = {"squeeze": False, "width_ratios": (3, 2), "height_ratios": heights}
    for (left, right), panel in zip(figure.subplots(len(panels), 2, **shape), panels, strict=True):
        _groups(left, panel, colours, marks)
        _all_classes(right, panel, colours, marks, dashes)
        right.set_xlim(*_limits(panels))
    handles: dict[str, Any] = {}
    for axes in figure.axes:
        handles |= {label: handle for handle, label in zip(*axes.get_legend_handles_labels(), strict=True)}
    order = [name for name in (*marks, *dashes) if name in handles]
    if order:
        place: Any = {"loc": "outside lower center", "ncols": len(order), "frameon": False, "fontsize": 10}
        figure.legend([handles[name] for name in order], order, **place)
    with files.replacing(path) as file:
        figure.savefig(file, format="png", dpi=160, metadata={"Description": description(panels)})


def description(panels: Sequence[Panel]) -> str:
    """What the figure shows, as JSON. The file contains it, so that its records can be identified."""
    shown = [
        [panel.title, [[row.name, *(row.shown(shot) for shot in SHOTS), theirs] for row, theirs in pairs]]
        for panel in panels
        for pairs in [zip(panel.rows, panel.reported, strict=True)]
    ]
    return json.dumps(shown, ensure_ascii=True)


def _names(panels: Iterable[Panel], method: bool) -> list[str]:
    """The works of panels that report these models, or with `method` those that report another method."""
    found = (
        name
        for panel in panels
        for one in panel.reported
        for name, result in one.items()
        if ("method" in result) == method
    )
    return list(dict.fromkeys(found))


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """The ends of the axis of accuracies over all classes."""
    ours = [row.accuracy("all") or 0.0 for panel in panels for row in panel.rows]
    theirs = [r["all"] for panel in panels for one in panel.reported for r in one.values() if "all" in r]
    return math.floor(min(ours + theirs) - MARGIN), math.ceil(max(ours + theirs) + MARGIN)


def _groups(axes: Axes, panel: Panel, colours: dict[str, dict[str, str]], marks: dict[str, str]) -> None:
    """Draw bars of our models with their values, error bars for several seeds, and the marks of works."""
    width = WIDTH / len(panel.rows)
    middle = (len(panel.rows) - 1) / 2
    for k, (row, reported) in enumerate(zip(panel.rows, panel.reported, strict=True)):
        places = [group + (k - middle) * width for group in range(len(GROUPS))]
        means = [row.accuracy(shot) for shot in GROUPS]
        heights = [mean or 0.0 for mean in means]
        style: dict[str, Any] = {"edgecolor": "white", "linewidth": 0, **colours[row.model]}
        bars = axes.bar(places, heights, width * 0.92, zorder=2, **style)
        spreads = [row.spread(shot) or 0.0 for shot in GROUPS]
        marked = any(shot in reported.get(name, {}) for name in marks for shot in GROUPS)
        aside = ASIDE * width if marked and any(spreads) else 0.0
        if any(spreads):
            lefts = [x - aside for x in places]
            axes.errorbar(lefts, heights, spreads, color="black", linestyle="none", capsize=3, zorder=3)
        values = ["" if mean is None else f"{mean:.1f}" for mean in means]
        upright = 90 if len(panel.rows) > NARROW else 0
        ground = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.8}
        axes.bar_label(
            bars, values, label_type="center", fontsize=8.5, rotation=upright, zorder=5, bbox=ground
        )
        for name, mark in marks.items():
            result = reported.get(name, {})
            rights = [x + aside for x in places]
            told = [(x, result[shot]) for x, shot in zip(rights, GROUPS, strict=True) if shot in result]
            if told:
                axes.plot(*zip(*told, strict=True), label=name, zorder=4, **_mark(mark))
    axes.set_xticks(range(len(GROUPS)), [f"{shot}-shot" for shot in GROUPS], fontsize=11)
    axes.set_ylabel("top-1 accuracy (%)", fontsize=11)
    axes.set_title(panel.title, loc="left", fontsize=12)
    axes.set_ylim(0, 80)
    axes.yaxis.set_ticks(range(0, 81, 20))
    axes.grid(axis="y", color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _all_classes(
    axes: Axes,
    panel: Panel,
    colours: dict[str, dict[str, str]],
    marks: dict[str, str],
    dashes: dict[str, str],
) -> None:
    """Draw a line per model: its accuracy over all classes, marks of works below, other methods across."""
    for k, (row, reported) in enumerate(zip(panel.rows, panel.reported, strict=True)):
        mean = row.accuracy("all") or 0.0
        if (spread := row.spread("all")) is not None:
            axes.errorbar([mean], [k], xerr=[spread], color="black", linestyle="none", capsize=4, zorder=2)
        style: Any = {"edgecolors": "black", "linewidths": 0.8, **colours[row.model]}
        axes.scatter([mean], [k], 60, zorder=3, **style)
        for name, mark in marks.items():
            if "all" in reported.get(name, {}):
                axes.plot([reported[name]["all"]], [k + BELOW], label=name, zorder=4, **_mark(mark))
        for name, dash in dashes.items():
            if "all" in reported.get(name, {}):
                axes.axvline(reported[name]["all"], color="black", linestyle=dash, label=name, zorder=4)
    names = [_label(row) for row in panel.rows]
    axes.set_yticks(range(len(names)), names, fontsize=9.5)
    axes.yaxis.tick_right()
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.set_title("All classes: top-1 accuracy (%)", loc="left", fontsize=12)
    axes.grid(color="0.9", zorder=0)
    axes.spines[["top", "right"]].set_visible(False)


def _label(row: Row) -> str:
    """A row's name and its accuracy over all classes, on lines that fit beside the dots."""
    return f"{textwrap.fill(row.name, LABEL)}\n{row.shown('all')}"


def _height(panel: Panel) -> float:
    """The height of a panel in inches: the labels of its rows, evenly spaced, must not touch."""
    most = max(_label(row).count("\n") + 1 for row in panel.rows)
    return max(HEIGHT, len(panel.rows) * most * LINE + 0.6)


def _mark(marker: str) -> dict[str, Any]:
    """How a work's mark looks."""
    return {
        "marker": marker,
        "markersize": 6,
        "color": "black",
        "linestyle": "none",
        "markerfacecolor": "white",
    }
