"""Figures of the tune step: the paper's Figure 5, as PNG, SVG or PDF."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import matplotlib
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from dive import files, outputs
from dive.recipe.shots import SHOTS

# Blue, orange, green of Okabe and Ito's palette: told apart by colour-blind readers and in grey.
COLOURS = {"many": "#0072B2", "medium": "#E69F00", "few": "#009E73"}


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


def plot_means(
    path: Path,
    title: str,
    groups: Sequence[tuple[str, Mapping[str, float | None]]],
    marked: Collection[int] = (),
) -> None:
    """Grouped bars of means per class in many, medium and few; the first group stands apart.

    groups: names and means; the first are the training images' own. Shots without a class are left
    out. marked: places of groups with a shaded ground. The file's suffix is its format.
    """
    shots = [shot for shot in SHOTS if groups[0][1][shot] is not None]
    figure = Figure(figsize=(max(6.4, 1.15 * len(groups) + 1.6), 4.0), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    width = 0.8 / len(shots)
    for k, shot in enumerate(shots):
        places = [i + (k - (len(shots) - 1) / 2) * width for i in range(len(groups))]
        bars = axes.bar(
            places,
            [means[shot] or 0.0 for _, means in groups],
            width,
            label=f"{shot}-shot",
            color=COLOURS[shot],
        )
        axes.bar_label(bars, fmt="%.0f", fontsize=8, padding=1)
    axes.set_xticks(range(len(groups)), [name for name, _ in groups])
    axes.set_ylabel("mean per class")
    axes.set_title(title, loc="left", fontsize=11)
    axes.axvline(0.5, color="0.8", linewidth=1)
    for place in marked:
        axes.axvspan(place - 0.48, place + 0.48, color="0.92", zorder=0)
    axes.legend(frameon=False, ncols=len(shots), loc="upper right")
    axes.margins(y=0.2)  # room for the legend
    axes.spines[["top", "right"]].set_visible(False)
    save(figure, path)


def save(figure: Figure, path: Path) -> None:
    """Write a figure in the format of the file's suffix, whole or not at all; equal figures, equal files."""
    with matplotlib.rc_context({"svg.hashsalt": "dive"}), files.replacing(path) as file:
        figure.savefig(file, format=path.suffix[1:].lower(), dpi=160, metadata=_undated(path))


def _undated(path: Path) -> dict[str, None]:
    """Metadata without a date, so that the same figure is the same file."""
    return {"png": {}, "svg": {"Date": None}, "pdf": {"CreationDate": None}}[path.suffix[1:].lower()]
