"""Measuring and reporting: interleaved rounds, medians, ratios within one run, one table and one JSON."""

import json
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console

from dive.cli.tables import new_table, print_table

Case = Callable[[], float | None]


@dataclass(frozen=True)
class Figure:
    """One line of the table.

    value: the median; a ratio if there is no unit. at_most, at_least: the bar that it must meet; without one
    it is only reported. seconds: the median seconds of the cases behind it.
    """

    name: str
    value: float
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    seconds: Mapping[str, float] | None = None

    @property
    def met(self) -> bool | None:
        """Whether the bar is met, None if there is none."""
        if self.at_most is not None:
            return self.value <= self.at_most
        return None if self.at_least is None else self.value >= self.at_least

    @property
    def bar(self) -> str:
        """The bar as people write it."""
        if self.at_most is not None:
            return f"≤ {self.at_most:g}"
        return "–" if self.at_least is None else f"≥ {self.at_least:g}"

    @property
    def shown(self) -> str:
        """The value with its unit."""
        return f"{self.value:.3g}{' ' + self.unit if self.unit else ''}"


class Timings:
    """Seconds of each case in each round."""

    def __init__(self, seconds: Mapping[str, Sequence[float]]) -> None:
        self._seconds = seconds

    def median(self, case: str) -> float:
        """The median seconds of a case."""
        return statistics.median(self._seconds[case])

    def ratio(self, case: str, other: str) -> float:
        """The median over rounds of the ratio of two cases' seconds in the same round."""
        pairs = zip(self._seconds[case], self._seconds[other], strict=True)
        return statistics.median(a / b for a, b in pairs)

    def medians(self) -> dict[str, float]:
        """The median seconds of every case."""
        return {case: self.median(case) for case in self._seconds}

    def figure(self, name: str, case: str, other: str, **bar: float) -> Figure:
        """The ratio of two cases as a line of the table. bar: `at_most` or `at_least`."""
        return Figure(name, self.ratio(case, other), seconds=self.medians(), **bar)


def interleaved(cases: Mapping[str, Case], rounds: int, warm_ups: int = 1) -> Timings:
    """Time every case in every round. Each round begins with another case.

    A case that returns a number of seconds has timed itself; otherwise the call is timed.
    """
    names = list(cases)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(-warm_ups, rounds):
        for i in range(len(names)):
            name = names[(i + turn) % len(names)]
            start = time.perf_counter()
            own = cases[name]()
            took = time.perf_counter() - start if own is None else own
            if turn >= 0:
                seconds[name].append(took)
    return Timings(seconds)


def report(title: str, machine: Mapping[str, Any], figures: Sequence[Figure], out: Path) -> bool:
    """Print the table and write it to `out` (.json) and as Markdown. Returns whether every bar is met."""
    table = new_table(title, ["figure"], ["measured", "bar", "met"])
    for figure in figures:
        table.add_row(figure.name, figure.shown, figure.bar, _word(figure.met))
    print_table(table)
    facts = " · ".join(f"{key} {value}" for key, value in machine.items())
    Console().print(facts, markup=False, highlight=False)
    out.parent.mkdir(parents=True, exist_ok=True)
    document = {
        "machine": dict(machine),
        "figures": [
            {
                "figure": figure.name,
                "value": figure.value,
                "unit": figure.unit,
                "bar": figure.bar,
                "met": figure.met,
                "median_seconds": dict(figure.seconds or {}),
            }
            for figure in figures
        ],
    }
    out.write_text(json.dumps(document, indent=2, ensure_ascii=False) + "\n")
    rows = "\n".join(f"| {f.name} | {f.shown} | {f.bar} | {_word(f.met)} |" for f in figures)
    text = f"{title}. {facts}.\n\n| figure | measured | bar | met |\n|---|---|---|---|\n{rows}\n"
    out.with_suffix(".md").write_text(text)
    return all(figure.met is not False for figure in figures)


def _word(met: bool | None) -> str:
    return "–" if met is None else "yes" if met else "NO"
