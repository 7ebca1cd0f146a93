"""The records under results/, in rows: runs that differ only in their seed, named and sorted."""

import json
import statistics
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from dive.recipe.earlier import upgraded
from dive.recipe.reading import build, load
from dive.recipe.records import of_one_run, precisions_told
from dive.recipe.shipped import recipes
from dive.recipe.teachers import model_name, teachers_in
from reproduction.table import RUNS

SHOTS = ("many", "medium", "few", "all")


@dataclass(frozen=True)
class Row:
    """Runs that differ only in their seed.

    other_precision: whether a row of the same recipe and model takes precedence and was computed in another
    precision. The row with more seeds takes precedence, then that with the smaller first seed, then that in
    the more frequent precision of the recipe.
    """

    records: Sequence[Mapping[str, Any]]
    other_precision: bool = False

    @property
    def record(self) -> Mapping[str, Any]:
        """The run of the smallest seed, for values that all runs share."""
        return self.records[0]

    @property
    def model(self) -> str:
        """The model in a few words: its kind, τ and p, and what is unusual."""
        return ", ".join([model_name(self.record["kind"], self.record), *self.unusual])

    @property
    def name(self) -> str:
        """The model with its number of seeds, or with its only seed unless that is 0."""
        if len(self.records) > 1:
            return f"{self.model}, {len(self.records)} seeds"
        return f"{self.model}, seed {self.record['seed']}" if self.record["seed"] else self.model

    @property
    def unusual(self) -> list[str]:
        """What is unusual: a student's ensemble, views, encoding and epochs, and the precision if needed."""
        record, parts = self.record, []
        if record["kind"] == "student":
            stored = record.get("cache", {})
            teachers = teachers_in(record)
            usual = build(record["recipe"]).views.usual
            if len(teachers) > 1:
                parts.append(f"ensemble of {len(teachers)}")
            if record.get("free_views"):
                parts.append(f"{stored.get('views', 'one-view')} cache, free views")
            elif stored.get("views", usual) != usual:
                parts.append(f"{stored['views']} views")
            if stored.get("store", "float16") != "float16":
                parts.append(f"{stored['store']} cache")
            if record["epochs"] != _epochs().get(record["recipe"]["name"], record["epochs"]):
                parts.append(f"{record['epochs']} epochs")
        return [*parts, precisions_told(record)] if self.other_precision else parts

    def accuracy(self, shot: str) -> float | None:
        """Mean accuracy in percent; None if there is no such class."""
        values = [record["accuracy"][shot] for record in self.records]
        return None if None in values else 100 * statistics.fmean(values)

    def spread(self, shot: str) -> float | None:
        """Standard deviation of the accuracy in points; None for one seed."""
        if len(self.records) == 1 or self.accuracy(shot) is None:
            return None
        return statistics.stdev(100 * record["accuracy"][shot] for record in self.records)

    def shown(self, shot: str) -> str:
        """Mean accuracy in percent, with its standard deviation if there are several seeds."""
        mean, spread = self.accuracy(shot), self.spread(shot)
        return percent(mean) if spread is None else f"{mean:.2f} ± {spread:.2f}"

    @property
    def first_shown(self) -> str:
        """The accuracy of seed 0 over all classes; an empty string if there is no such run."""
        return "" if self.record["seed"] else Row([self.record]).shown("all")

    @property
    def gains(self) -> list[float]:
        """How many points each student is above its teacher, without those whose teacher has no accuracy.

        For an ensemble, it is above the mean of its members' accuracies.
        """
        gains = []
        for record in self.records:
            told = [one.get("accuracy", {}).get("all") for one in teachers_in(record) if one]
            if told and None not in told:
                gains.append(100 * (record["accuracy"]["all"] - statistics.fmean(told)))
        return gains

    @property
    def gain_shown(self) -> str:
        """The gains as the tables show them: their mean, with the standard deviation if there are several."""
        if not self.gains:
            return ""
        shown = points(statistics.fmean(self.gains))
        if len(self.gains) > 1:
            shown += f" ± {statistics.stdev(self.gains):.2f}"
        members = len(teachers_in(self.record))
        return f"{shown} (mean of {members})" if members > 1 else shown

    @property
    def pair(self) -> tuple[float, float]:
        """τ and p."""
        d = self.record["recipe"]["distillation"]
        return d["tau"], d["power"]

    @property
    def order(self) -> tuple[Any, ...]:
        """Sort key: teachers before students, `ce` before `bsce`, then what is unusual, then temperatures."""
        d = self.record["recipe"]["distillation"]
        losses = ("ce", "bsce", "dive")
        tau, power = self.pair
        place = losses.index(self.record["loss"]), len(self.unusual), self.unusual
        return *place, tau / power, tau, d["student_tau"] or 0


def recorded(folder: Path) -> Iterator[dict[str, Any]]:
    """The records of finished runs below a folder, in the form of this version."""
    for path in sorted(folder.glob("*/*.json")):
        document = json.loads(path.read_text())
        if document.get("kind") in ("teacher", "student"):
            yield upgraded(document)


def rows_of(records: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Rows of the records that differ only in their seed, in the order of the tables."""
    runs = of_one_run(records, lambda record: record)
    rows = [Row(sorted(members, key=lambda record: record["seed"])) for members in runs]
    usual = Counter(_precisions(row) for row in rows for _ in row.records)
    rows.sort(key=lambda row: (-len(row.records), row.record["seed"], -usual[_precisions(row)]))
    first: dict[tuple[str, str], Row] = {}  # for each name, the row that is shown without its precision
    for row in rows:
        first.setdefault(_recipe_and_model(row), row)
    told = [
        replace(row, other_precision=_precisions(row) != _precisions(first[_recipe_and_model(row)]))
        for row in rows
    ]
    return sorted(told, key=lambda row: row.order)


def _recipe_and_model(row: Row) -> tuple[str, str]:
    return row.record["recipe"]["name"], row.model


def _precisions(row: Row) -> tuple[str, str]:
    """Its recipe and the precisions that its runs were computed in."""
    return row.record["recipe"]["name"], precisions_told(row.record)


def by_run(folder: Path) -> dict[str, dict[str, Any]]:
    """The records of the table's runs, by the names of the runs; a run that is missing is left out."""
    found = {}
    for run in RUNS:
        if (path := run.file(folder, ".json")).exists():
            found[run.name] = upgraded(json.loads(path.read_text()))
    return found


def by_recipe(records: Iterable[Mapping[str, Any]]) -> dict[str, list[Mapping[str, Any]]]:
    """Records by their recipe's name: incomparable ones last, large imbalances first, then by name."""
    found: dict[str, list[Mapping[str, Any]]] = {}
    for record in records:
        found.setdefault(record["recipe"]["name"], []).append(record)

    def place(name: str) -> tuple[bool, float, str]:
        return incomparable(found[name]) is not None, -_imbalance(found[name]), name

    return {name: found[name] for name in sorted(found, key=place)}


def incomparable(records: Sequence[Mapping[str, Any]]) -> str | None:
    """Why runs are not compared with those of others, as a sentence; None if they may be.

    In the table of runs, a foreign teacher is always one of another draw.
    """
    teachers = [one for record in records for one in teachers_in(record) if one]
    if any(one["kind"] == "foreign" for one in teachers):
        return (
            "Teacher and student are of different draws of the images: **the teacher has seen images that "
            "the student lacks**, so this is shown beside no table."
        )
    if any("initial_weights" in one for one in (*records, *teachers)):
        return (
            "The teacher began with weights of ImageNet-1k: **not comparable with tables without extra "
            "data**, and shown beside none."
        )
    return None


def _imbalance(records: Sequence[Mapping[str, Any]]) -> float:
    return build(records[0]["recipe"]).data.imbalance or 1.0


@cache
def _epochs() -> dict[str, int]:
    """The student's epochs in each shipped recipe whose length is in epochs, by the recipe's name."""
    students = [load(path).of_student for path in recipes().values()]
    return {one.name: one.schedule.epochs for one in students if one.schedule.epochs is not None}


def percent(value: float | None) -> str:
    """A percentage as the tables show it; a dash for None."""
    return "–" if value is None else f"{value:.2f}"


def points(difference: float) -> str:
    """A difference of percentages with its sign; equal sums in another order are shown alike."""
    return f"{round(difference, 6):+.2f}"


def markdown(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
