"""What we learned: sentences of learned.yaml, whose figures are taken from the records.

A text has its figures in braces:

- `{bbn/student all}`: the accuracy of a run, over the seeds of its row;
- `{bbn/student beside bbn/teacher all}`: the same at the seeds that both have, or all where they share none;
- `{bbn/student - bbn/teacher few}`: how far one is above another in points, at the seeds that both have;
- `{bbn/student - bbn/teacher each few}`: the same of each of those seeds alone;
- `{bbn/student range few}`: how far its seeds are apart in points, from the lowest to the highest;
- `{bbn/student over bbn/teacher few}`: the same of the means of all their seeds;
- `{bbn/student seeds}`, `{bbn/student beside bbn/teacher seeds}`: the number of seeds;
- `{bbn/tune nats 6}`: what targets at τ/p = 6 keep; `{bbn/tune nats recommended}` at the recommended pair;
- `{bbn/tune crossing}`: the τ/p at which the curves cross.

A lesson whose runs are not all recorded is shown as open, with the runs that it waits for.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dive.errors import RecipeError
from reproduction.records import SHOTS, Row, by_run, points, recorded, rows_of
from reproduction.table import TUNES

_FIGURE = re.compile(r"\{([^{}]+)\}")
_OF_A_ROW = ("seeds", *SHOTS)
_TUNE = {tune.name: tune for tune in TUNES}


@cache
def entries() -> list[dict[str, Any]]:
    """The lessons as written: `title`, `text`, and `limits`."""
    return yaml.safe_load(Path(__file__).with_name("learned.yaml").read_text())


def lessons(folder: Path) -> Iterator[str]:
    """The section of the page, of the records below a folder."""
    rows = _rows(folder)
    tunes = {
        name: json.loads(t.file(folder).read_text()) for name, t in _TUNE.items() if t.file(folder).exists()
    }
    yield "## What we learned"
    yield "Unless it says otherwise, the difference of two runs is taken at the seeds that both have."
    lines = []
    for entry in entries():
        text = f"{entry['text'].strip()} {entry['limits'].strip()}"
        lacking = sorted(needs(text) - rows.keys() - tunes.keys())
        if lacking:
            lines.append(
                f"- **{entry['title']}** Not known yet: it waits for {', '.join(f'`{n}`' for n in lacking)}."
            )
        else:
            lines.append(f"- **{entry['title']}** {filled(text, rows, tunes)}")
    yield "\n".join(lines)


def needs(text: str) -> set[str]:
    """The runs and tune tables that a text takes figures from."""
    return {word for figure in _FIGURE.findall(text) for word in figure.split() if "/" in word}


def filled(text: str, rows: Mapping[str, Row], tunes: Mapping[str, Any]) -> str:
    """A text with its figures."""

    def value(match: re.Match[str]) -> str:
        match match[1].split():
            case [name, figure] if name in rows and figure in _OF_A_ROW:
                return _of_row(rows[name], figure)
            case [name, "beside", other, figure] if {name, other} <= rows.keys() and figure in _OF_A_ROW:
                return _of_row(_of_same_seeds(rows[name], rows[other])[0], figure)
            case [one, "-", other, shot] if shot in SHOTS:
                return points(_above(*_of_same_seeds(rows[one], rows[other]), shot))
            case [one, "-", other, "each", shot] if shot in SHOTS:
                pairs = zip(*map(_single, _of_same_seeds(rows[one], rows[other])), strict=True)
                return _listed([points(_above(ours, theirs, shot)) for ours, theirs in pairs])
            case [name, "range", shot] if name in rows and shot in SHOTS and len(rows[name].records) > 1:
                seeds = [record["accuracy"][shot] for record in rows[name].records]
                return f"{100 * (max(seeds) - min(seeds)):.2f}"
            case [one, "over", other, shot] if shot in SHOTS:
                return points(_above(rows[one], rows[other], shot))
            case [name, "crossing"] if name in tunes and tunes[name]["crossing"] is not None:
                return f"{tunes[name]['crossing']['ratio']:.3f}"
            case [name, "nats", "recommended"] if name in tunes:
                return f"{tunes[name]['recommended']['information']:.3f}"
            case [name, "nats", temperature] if name in tunes:
                found = [p for p in tunes[name]["pairs"] if p["temperature"] == float(temperature)]
                if found:
                    return f"{found[0]['information']:.3f}"
        raise RecipeError(f"learned.yaml asks for {match[0]}, which is no figure of the records")

    return _FIGURE.sub(value, text)


def _of_row(row: Row, figure: str) -> str:
    """A row's number of seeds, or its accuracy."""
    if figure != "seeds":
        return row.shown(figure)
    return f"{len(row.records)} seeds" if len(row.records) > 1 else "one seed"


def _of_same_seeds(one: Row, other: Row) -> tuple[Row, Row]:
    """Two rows with the records alone whose seeds both have; both whole where they share none."""
    seeds = {record["seed"] for record in one.records} & {record["seed"] for record in other.records}
    if not seeds:
        return one, other
    first, second = ([r for r in row.records if r["seed"] in seeds] for row in (one, other))
    return Row(first), Row(second)


def _single(row: Row) -> list[Row]:
    """A row of each of its seeds."""
    return [Row([record]) for record in row.records]


def _listed(words: Sequence[str]) -> str:
    """Words as one lists them: a, b and c."""
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)


def _above(one: Row, other: Row, shot: str) -> float:
    """How far one row's mean accuracy is above another's, in points."""
    ours, theirs = one.accuracy(shot), other.accuracy(shot)
    if ours is None or theirs is None:
        raise RecipeError(f"no classes are {shot}-shot: learned.yaml asks for their accuracy")
    return ours - theirs


def _rows(folder: Path) -> dict[str, Row]:
    """The row that each recorded run of the table is in."""
    records = by_run(folder)
    rows = rows_of(recorded(folder))
    of_weights = {record["weights_hash"]: row for row in rows for record in row.records}
    return {name: of_weights[record["weights_hash"]] for name, record in records.items()}
