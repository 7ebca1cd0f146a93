"""Figures of the tune step: the paper's Figure 5, as PNG, SVG or PDF."""

import io
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dive import files, outputs
from dive.recipe.shots import SHOTS
from dive.report.page.palette import light

COLOURS = {shot: light(shot) for shot in SHOTS}  # those of the page

# How a file of each format begins; Matplotlib also writes its own name into every one.
_BEGINNINGS = {".png": b"\x89PNG\r\n\x1a\n", ".svg": b"<?xml", ".pdf": b"%PDF-"}
_LARGEST = 1 << 26  # bytes of a figure


def is_own(path: Path) -> bool:
    """Whether a file is a figure that Matplotlib wrote, in the format that its suffix names."""
    try:
        with files.open_regular(path) as file:
            content = file.read(_LARGEST)
    except OSError:
        return False
    return content.startswith(_BEGINNINGS[path.suffix.lower()]) and b"matplotlib" in content.lower()


KIND = outputs.Kind("a figure", is_own)


@dataclass(frozen=True)
class Means:
    """Means per class in the groups many, medium and few, to draw as grouped bars.

    groups: names and means; the first entry has those of the training images, which are drawn apart. Groups
    without classes are left out. marked: the positions of entries with a shaded background.
    """

    title: str
    groups: Sequence[tuple[str, Mapping[str, float | None]]]
    marked: Collection[int] = ()

    def __str__(self) -> str:
        """A description for readers who cannot see the figure."""
        bars = (
            f"{name} " + ", ".join(f"{shot} {mean:.0f}" for shot, mean in means.items() if mean is not None)
            for name, means in self.groups
        )
        return f"{self.title}. " + "; ".join(bars).replace("\n", " ") + "."


def plot_means(path: Path, means: Means) -> None:
    """Draw means to a file; its suffix is its format."""
    save(means_figure(means), path)


def means_figure(means: Means) -> Figure:
    """The paper's Figure 5."""
    groups = means.groups
    shots = [shot for shot in SHOTS if groups[0][1][shot] is not None]
    figure = Figure(figsize=(max(6.4, 1.15 * len(groups) + 1.6), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(shots)
    for k, shot in enumerate(shots):
        places = [i + (k - (len(shots) - 1) / 2) * width for i in range(len(groups))]
        bars = axes.bar(
            places,
            [found[shot] or 0.0 for _, found in groups],
            width,
            label=f"{shot}-shot",
            color=COLOURS[shot],
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_ylabel("mean per class")
    axes.set_title(means.title, loc="left", fontsize=11)
    axes.axvline(0.5, color="0.8", linewidth=1)
    for place in means.marked:
        axes.axvspan(place - 0.48, place + 0.48, color="0.92", zorder=0)
    axes.legend(frameon=False, ncols=len(shots), loc="upper right")
    axes.margins(y=0.2)  # room for the legend
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all."""
    files.write_bytes(path, drawn(figure, path.suffix[1:].lower()))


def drawn(figure: Figure, form: str) -> bytes:
    """A figure as png, svg or pdf, without a date: equal figures are equal bytes."""
    undated: dict[str, Any] = {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[form]
    buffer = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "dive"}):
        figure.savefig(buffer, format=form, dpi=160, metadata=undated)
    return buffer.getvalue()
