"""Draws docs/figures/*.svg: tables of dive as a terminal shows them, from runs of the demo. `make pictures`.

The commands run on the digits in a folder of their own, as in `make demo`; rich makes the pictures.
"""

import os
import platform
import re
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console
from rich.terminal_theme import DIMMED_MONOKAI
from rich.text import Text

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"
COLUMNS = 92
FONTS = re.compile(
    r"\s*@font-face \{.*?\}", re.DOTALL
)  # of another site: a monospaced one of the reader's does
RECIPE = "--config digits_lt/bbn"
# What has to be there, and is not shown.
BEFORE = (f"teacher {RECIPE} --quiet", f"export-logits {RECIPE} --quiet")
PICTURES = {
    "tune-tau": f"tune-tau {RECIPE} --tau 1 3 6 --power 0.5 1",
    "student": f"student {RECIPE} --tau 3 --power 0.5 --weight 0.5 --quiet",
    "eval": f"eval {RECIPE} --quiet",
    "doctor": "doctor",
}


def shown(command: str, folder: Path) -> str:
    """What `dive` prints to a terminal, its colours as escapes."""
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "COLUMNS": str(COLUMNS),
        "FORCE_COLOR": "1",
        "TERM": "xterm-256color",
    }
    environment.pop("OMP_NUM_THREADS", None)  # as the demo runs
    words = [sys.executable, "-m", "dive", *shlex.split(command)]
    done = subprocess.run(words, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    kernel = platform.release()
    printed = done.stdout.replace(kernel, kernel.partition("-")[0])  # without the name of its build
    return printed.replace(sys.prefix, ".venv").replace(str(ROOT), ".")


def picture(name: str, command: str, printed: str) -> str:
    """A terminal with a command and what it printed, as SVG."""
    with open(os.devnull, "w") as nowhere:
        console = Console(file=nowhere, record=True, width=COLUMNS, force_terminal=True)
        console.print(Text.assemble(("$ ", "bold green"), f"dive {command}"))
        console.print(Text.from_ansi(printed.rstrip("\n") + "\n"))  # rich cuts the feet of a last line
        svg = console.export_svg(title="dive", theme=DIMMED_MONOKAI, unique_id=f"dive-{name}")
    return FONTS.sub("", svg)


def draw(folder: Path = FIGURES) -> None:
    """Run the commands and write every picture into a folder."""
    with tempfile.TemporaryDirectory() as place:
        for command in BEFORE:
            shown(command, Path(place))
        for name, command in PICTURES.items():
            svg = picture(name, command, shown(command, Path(place)))
            (folder / f"{name}.svg").write_text(svg, encoding="utf-8")


if __name__ == "__main__":
    draw()
