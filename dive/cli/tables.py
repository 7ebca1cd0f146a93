"""Results as rich tables on stdout, for a terminal of 80 columns and for a log."""

import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich import box
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dive.files import readable_size
from dive.printable import printable
from dive.recipe.teachers import model_name, teachers_name, teachers_of

if TYPE_CHECKING:
    from dive.training.evaluation import Accuracy
    from dive.workflows.results import Result

ABSENT = "–"
SHOT_COLUMNS = ("many", "medium", "few", "all", "class mean")


def print_table(table: Table) -> None:
    """Print a table on stdout: as wide as the terminal; in a file as wide as needed, without colour."""
    console = Console()
    if not console.is_terminal:
        natural = console.measure(table, options=console.options.update(width=1000)).maximum
        console = Console(width=max(console.width, natural))
    console.print(table)


def new_table(title: str, text_columns: Iterable[str], number_columns: Iterable[str]) -> Table:
    """An empty table: first the text columns, then the number columns, aligned to the right."""
    table = Table(
        title=cell(title),
        title_justify="left",
        title_style="bold",
        header_style="bold",
        box=box.SIMPLE_HEAD,
    )
    for name in text_columns:
        table.add_column(name, overflow="fold")
    for name in number_columns:
        table.add_column(name, justify="right", no_wrap=True)
    return table


def cell(text: str) -> str:
    """A text for a cell, with markup and the characters that a terminal would interpret escaped."""
    return escape(printable(text))


def percent(value: float | None, spread: float | None = None) -> str:
    """A fraction as a percentage with two decimals; on a second line ± its standard deviation, if given."""
    if value is None:
        return ABSENT
    return f"{100 * value:.2f}" + (f"\n±{100 * spread:.2f}" if spread is not None else "")


def number(value: float | None, digits: int) -> str:
    """A number with `digits` decimals; a dash if it is None or not finite."""
    return ABSENT if value is None or not math.isfinite(value) else f"{value:.{digits}f}"


def print_cache(path: Path, record: Mapping[str, Any], **more: str) -> None:
    """Print the table of a cache that was just made, from its record. more: further columns."""
    n, v, c = record["shape"]
    columns = {
        "samples": f"{n:,}",
        "views": f"{v}",
        "classes": f"{c}",
        "store": record["store"],
        "size": readable_size(record["bytes"]),
        **more,
    }
    table = new_table(f"Logit cache {path}", ["teacher"], columns)
    table.add_row(cell(teachers_name(teachers_of(record))), *columns.values())
    print_table(table)


def shot_table(title: str, rows: Iterable[tuple[str, "Accuracy"]]) -> Table:
    """Many, medium and few-shot accuracy of named results, in percent."""
    table = new_table(title, ["model"], SHOT_COLUMNS)
    for name, accuracy in rows:
        table.add_row(cell(name), *map(percent, figures(accuracy)))
    return table


def print_seeds(results: "Sequence[Result]") -> None:
    """Print mean ± standard deviation over seeds, and which seeds are not averaged as precisions differ."""
    from dive.workflows.evaluate import across_seeds, apart_by_precision

    table = new_table("Mean ± standard deviation over seeds (%)", ["model"], SHOT_COLUMNS)
    for run in across_seeds(results):
        table.add_row(named(run.record, f"{run.count} seeds"), *map(percent, run.means, run.deviations))
    if table.row_count:
        print_table(table)
    for apart in apart_by_precision(results):
        click.echo(printable(str(apart)))


def figures(accuracy: "Accuracy") -> list[float | None]:
    """The values of an accuracy in the order of SHOT_COLUMNS."""
    return list(accuracy.as_dict().values())


def named(record: Mapping[str, Any], below: str, number: int | None = None) -> str:
    """A cell that names a checkpoint, after its number if given, with `below` as a fainter second line."""
    before = f"[{number}] " if number is not None else ""
    return f"{cell(before + model_name(record['kind'], record))}\n[dim]{cell(below)}[/dim]"
