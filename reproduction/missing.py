"""The section of RESULTS.md that lists missing runs, with estimated times."""

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from reproduction import plan
from reproduction.records import by_run, markdown
from reproduction.table import RUNS, Run


def section(folder: Path) -> Iterator[str]:
    """The runs of the table that have no record, in order, with estimated times.

    Caches count as missing, since they are not kept with the results.
    """
    records = by_run(folder)
    there = plan.There(
        recorded=lambda run: run.name in records,
        weights=lambda run: run.file(folder, ".pt").exists(),
        cache=lambda cache: False,
    )
    steps = list(plan.plan(RUNS, there, records))
    yield "## What is missing"
    if not steps:
        yield "Nothing: every run of `reproduction/table.py` is recorded."
        return
    lines = []
    before = 0.0
    pending: list[str] = []
    for step in steps:
        if isinstance(step.what, Run) and step.what.name not in records:
            seconds = None if step.seconds is None else step.seconds + before
            lines.append([f"`{step.what.name}`", ", ".join(pending), plan.lasts(seconds)])
            before, pending = 0.0, []
        else:
            before += step.seconds or 0.0
            pending.append("export" if not isinstance(step.what, Run) else f"weights of {step.what.name}")
    yield f"Runs not made yet, in the order in which they will be made; together {plan.total(steps)}."
    yield markdown(["run", "needs first", "about"], lines)
    yield f"{plan.basis(steps)} `make reproduce RUNS=NAME` makes one. {_on_gpus(records.values())}"


def _on_gpus(records: Iterable[Mapping[str, Any]]) -> str:
    """How many of the recorded runs were on a GPU; the device name of a CPU ends with its threads."""
    count = sum(f", {record['threads']} thread" not in record["device"] for record in records)
    return f"On a GPU: {count} of the recorded runs." if count else "Nothing has run on a GPU yet."
