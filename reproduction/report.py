"""`make results`: RESULTS.md and its figure, from the records under results/; no number is typed by hand.

    python -m reproduction.report

The prose is in reproduction/notes.md and learned.yaml, and what others report in literature.yaml.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dive.progress import duration
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from reproduction import figure, learned, literature, missing, summary, tunes
from reproduction.commands import command
from reproduction.records import SHOTS, Row, by_recipe, by_run, incomparable, markdown, recorded, rows_of
from reproduction.table import RUN, Run

ROOT = Path(__file__).parents[1]
FIGURE = "docs/figures/accuracy.png"


def main() -> None:
    """Write RESULTS.md, the figure of accuracies and the README's table."""
    figure.draw(ROOT / FIGURE, summary.panels(recorded(ROOT / "results")))
    (ROOT / "RESULTS.md").write_text(results(ROOT / "results", ROOT / "configs"))
    readme = ROOT / "README.md"
    readme.write_text(with_table(readme.read_text(), short_table(ROOT / "results")))


def results(folder: Path, configs: Path) -> str:
    """The whole document, from the records under `folder`."""
    records = by_recipe(recorded(folder))
    run_of = {record["weights_hash"]: RUN[name] for name, record in by_run(folder).items()}
    parts = [
        "# Results",
        "Recorded runs of this program and what the literature reports beside them. Accuracy is top-1 in "
        "percent on the 10,000 test images, after the last epoch. No epoch and no seed was selected. One "
        "choice was made on the test set: runs with 200 views and with three AutoAugment teachers use τ=6, "
        "p=1, because that pair had the best test accuracy among three students of a single teacher with 50 "
        "views. `make results` generates this page from the records in `results/`; `make reproduce` runs the "
        "experiments that produce them.",
        f"![Accuracy by group of classes, ours beside the literature]({FIGURE})",
        *summary.quick(records),
        *learned.lessons(folder),
        *missing.section(folder),
        "## Details",
        "Every finished run. In brackets: ours minus theirs. `make reproduce RUNS=NAME` makes a run again, "
        "with the cache it needs. Commands are shown without `--out`, and without the export of their cache.",
    ]
    for name, members in records.items():
        parts += _section(members, folder / name, configs, run_of)
    if (path := folder / "crossing" / "crossing.json").exists():
        parts += tunes.exactness(json.loads(path.read_text())["caches"])
    parts.append(Path(__file__).with_name("notes.md").read_text().strip())
    return "\n\n".join(parts) + "\n"


def short_table(folder: Path) -> str:
    """The README's table: the paper's three models under its recipe, beside the paper's own numbers.

    The students of ensembles under the same recipe follow; the paper has none.
    """
    of_paper = [record for record in recorded(folder) if record["recipe"]["name"] == Recipe().name]
    lines = []
    for row in rows_of(of_paper):
        reported = literature.reported(literature.paper(), row, Recipe())
        if reported is not None or "teachers" in row.record:
            shown = [row.shown(shot) for shot in SHOTS]
            lines.append([row.name, *shown, row.gain_shown, f"{reported['all']:.2f}" if reported else ""])
    return markdown(["model", *SHOTS, "over its teacher", "the paper, all"], lines)


def with_table(text: str, table: str) -> str:
    """A text in which the table of the same columns is replaced by this one."""
    head = re.escape(table.partition("\n")[0])
    return re.sub(rf"^{head}\n(?:\|.*\n)*", lambda _: f"{table}\n", text, flags=re.MULTILINE)


def _section(
    records: Sequence[Mapping[str, Any]], folder: Path, configs: Path, run_of: Mapping[str, Run]
) -> Iterator[str]:
    rows = rows_of(records)
    recipe = build(records[0]["recipe"])
    yield f"### {summary.title(recipe)}"
    yield f"{_networks(rows)}; {sum(records[0]['class_counts']):,} training images."
    if reason := incomparable(records):
        yield reason
    others = [] if reason else literature.works_beside(recipe)
    head = ["run", *SHOTS, "over its teacher", "all, seed 0", *(work["name"] for work in others)]
    lines = [_accuracies(row, recipe, others) for row in rows]
    if all(len(row.records) == 1 for row in rows):  # it would repeat the column `all`
        column = head.index("all, seed 0")
        head, *lines = [[*line[:column], *line[column + 1 :]] for line in (head, *lines)]
    yield markdown(head, lines)
    head = ["name", "run", "command", "seed", "machine", "precision", "time", "weights", "cache"]
    yield markdown(head, [_making(row, record, configs, run_of) for row in rows for record in row.records])
    yield from tunes.virtual_examples(folder, rows)


def _networks(rows: Sequence[Row]) -> str:
    """The networks of a section, with parameters and epochs: one for all runs, or one per kind of run."""
    told: dict[str, list[str]] = {}
    for row in rows:
        network, record = row.record["architecture"], row.record
        text = f"{network['name']}, {network['parameters']:,} parameters, {record['epochs']} epochs"
        kinds = told.setdefault(text, [])
        kinds += [] if record["kind"] in kinds else [record["kind"]]
    if len(told) == 1:
        return next(iter(told))
    return "; ".join(f"{' and '.join(kinds)}: {text}" for text, kinds in told.items())


def _accuracies(row: Row, recipe: Recipe, others: Sequence[Mapping[str, Any]]) -> list[str]:
    beside = [literature.compared(row, literature.reported(work, row, recipe)) for work in others]
    return [row.name, *(row.shown(shot) for shot in SHOTS), row.gain_shown, row.first_shown, *beside]


def _making(row: Row, record: Mapping[str, Any], configs: Path, run_of: Mapping[str, Run]) -> list[str]:
    cache_hash = record.get("cache_hash")
    run = run_of.get(record["weights_hash"])
    return [
        "" if run is None else f"`{run.name}`",
        row.model,
        f"`{command(record, configs, run)}`",
        str(record["seed"]),
        f"{record['device']}, torch {record['versions']['torch']}",
        record["precision"],
        duration(record["seconds"]),
        f"`{record['weights_hash'][:12]}`",
        f"`{cache_hash[:12]}`" if cache_hash else "",
    ]


if __name__ == "__main__":
    main()
