"""What we learned: the sentences of learned.yaml, with figures from the records.

A text has its figures in braces:

- `{bbn/student all}`: the accuracy of a run, over the seeds of its row;
- `{bbn/student beside bbn/teacher all}`: the same at the seeds that both have;
- `{bbn/student - bbn/teacher few}`: how far one is above another in points, at the seeds that both have;
- `{bbn/student - bbn/teacher groups}`: the same for each group of classes;
- `{bbn/student - bbn/teacher each few}`: the same for each of those seeds alone;
- `{bbn/student over bbn/teacher few}`: the same between the means over all their seeds;
- `{bbn/student range few}`: how far its seeds are apart in points, from the lowest to the highest;
- `{bbn/student seeds}`, `{bbn/student beside bbn/teacher seeds}`: the number of seeds;
- `{bbn/tune nats 6}`: nats kept by targets at τ/p = 6; `{bbn/tune nats recommended}` at the recommended pair;
- `{bbn/tune crossing}`: the τ/p at which the curves cross;
- `{reproduction at bbn/student all}`: what a work of literature.yaml reports for a run.

A student is paired with the teacher that it learned from, whatever its own seed. A lesson is shown as open,
with the runs that it waits for, until all runs of its figures and of its `needs` are recorded.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from dive.errors import RecipeError
from dive.recipe.reading import build
from dive.recipe.teachers import teachers_in
from reproduction import literature
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
    """The section of the page, from the records below a folder."""
    rows = _rows(folder)
    tunes = {
        name: json.loads(t.file(folder).read_text()) for name, t in _TUNE.items() if t.file(folder).exists()
    }
    yield "## What we learned"
    yield "Differences are averaged over the seeds that both runs have, unless it says otherwise."
    lines = []
    for entry in entries():
        text = f"{entry['text'].strip()} {entry['limits'].strip()}"
        lacking = sorted(needs(entry) - rows.keys() - tunes.keys())
        if lacking:
            lines.append(
                f"- **{entry['title']}** Not known yet: it waits for {', '.join(f'`{n}`' for n in lacking)}."
            )
        else:
            lines.append(f"- **{entry['title']}** {filled(text, rows, tunes)}")
    yield "\n".join(lines)


def needs(entry: Mapping[str, Any]) -> set[str]:
    """The runs and tune tables that a lesson takes figures from, and those that it names."""
    figures = _FIGURE.findall(entry["text"] + entry["limits"])
    return {word for figure in figures for word in figure.split() if "/" in word}.union(
        entry.get("needs", ())
    )


def filled(text: str, rows: Mapping[str, Row], tunes: Mapping[str, Any]) -> str:
    """A text with its figures filled in; raises RecipeError for one that the records do not have."""

    def value(match: re.Match[str]) -> str:
        match match[1].split():
            case [name, figure] if name in rows and figure in _OF_A_ROW:
                return _of_row(rows[name], figure)
            case [name, "beside", other, figure] if {name, other} <= rows.keys() and figure in _OF_A_ROW:
                beside = {id(ours): ours for ours, _ in _pairs(rows[name], rows[other])}
                return _of_row(Row(list(beside.values())), figure)
            case [one, "-", other, shot] if {one, other} <= rows.keys() and shot in (*SHOTS, "groups"):
                ours, theirs = map(Row, zip(*_pairs(rows[one], rows[other]), strict=True))
                if shot != "groups":
                    return points(_above(ours, theirs, shot))
                told = [f"{points(_above(ours, theirs, group))} in the {group}-shot" for group in SHOTS[:3]]
                return f"{_listed(told)} group"
            case [one, "-", other, "each", shot] if {one, other} <= rows.keys() and shot in SHOTS:
                pairs = _pairs(rows[one], rows[other])
                return _listed([points(_above(Row([ours]), Row([theirs]), shot)) for ours, theirs in pairs])
            case [one, "over", other, shot] if {one, other} <= rows.keys() and shot in SHOTS:
                return points(_above(rows[one], rows[other], shot))
            case [name, "range", shot] if name in rows and shot in SHOTS and len(rows[name].records) > 1:
                seeds = [Row([record]) for record in rows[name].records]
                best, worst = (pick(seeds, key=lambda row: row.accuracy(shot) or 0.0) for pick in (max, min))
                return f"{_above(best, worst, shot):.2f}"
            case [*work, "at", name, shot] if name in rows and shot in SHOTS:
                if (result := _reported(" ".join(work), rows[name])) is not None and shot in result:
                    return f"{result[shot]:.2f}"
            case [name, "crossing"] if name in tunes and tunes[name]["crossing"] is not None:
                return f"{tunes[name]['crossing']['ratio']:.3f}"
            case [name, "nats", "recommended"] if name in tunes:
                return f"{tunes[name]['recommended']['information']:.3f}"
            case [name, "nats", temperature] if name in tunes:
                found = [p for p in tunes[name]["pairs"] if p["temperature"] == float(temperature)]
                if found:
                    return f"{found[0]['information']:.3f}"
        raise RecipeError(f"learned.yaml asks for {match[0]}, but the records have no such figure")

    return _FIGURE.sub(value, text)


def _of_row(row: Row, figure: str) -> str:
    """A row's number of seeds, or its accuracy."""
    if figure != "seeds":
        return row.shown(figure)
    return f"{len(row.records)} seeds" if len(row.records) > 1 else "one seed"


def _pairs(one: Row, other: Row) -> list[tuple[Mapping[str, Any], Mapping[str, Any]]]:
    """The pairs of records that two rows are compared by; raises RecipeError if there is none."""
    pairs = [(a, b) for a in one.records for b in other.records if _seed(a, other) == _seed(b, one)]
    if not pairs:
        raise RecipeError(f"learned.yaml compares {one.name} with {other.name}, which share no seed")
    return pairs


def _seed(record: Mapping[str, Any], beside: Row) -> int:
    """The seed by which a record is paired with those of a row: for a student and teachers, its teacher's."""
    taught = teachers_in(record)
    if record["kind"] == "student" and beside.record["kind"] == "teacher" and len(taught) == 1:
        return taught[0].get("seed", record["seed"])  # a foreign teacher has none
    return record["seed"]


def _reported(work: str, row: Row) -> Mapping[str, float] | None:
    """What a work of literature.yaml reports for a row, None if it reports nothing."""
    recipe = build(row.record["recipe"])
    found = [literature.reported(one, row, recipe) for one in literature.works() if one["name"] == work]
    return found[0] if found else None


def _listed(words: Sequence[str]) -> str:
    """Words as a list in a sentence: a, b and c."""
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
