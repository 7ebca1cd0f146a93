"""SIGKILL to random ranks at random moments: training under torchrun, which starts all again by itself.

    python tests/torture_training_ranks.py --kills 20 --out results/reliability/training-ranks.json

Teacher and student of the digits, by two processes. A run is killed a few times, as often as torchrun may
start it again; it must end well by itself, in the weights and the history of a run that nobody killed, with
nothing left beside them. A kill counts if it hit a process that trained or was about to.
"""

import argparse
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import chain
import processes
import torchrun
import torture

SIZE = 2
EPOCHS = 12
KILLS_A_RUN = 3  # and so many times torchrun may start again


@dataclass
class Report:
    """What a session of kills saw. faults: what should not have been, empty if all is well."""

    kills: dict[str, int] = field(default_factory=dict)
    kills_by_rank: dict[int, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def commands(digits: chain.Chain) -> dict[str, tuple]:
    """What is killed, by name."""
    training = (*chain.DIGITS, "--epochs", EPOCHS)
    return {"teacher": ("teacher", *training), "student": ("student", *training, "--cache", digits.cache)}


def torture_ranks(digits: chain.Chain, folder: Path, kills: int, seed: int) -> Report:
    """Kill until there were `kills` hits; folder: where to work."""
    report, generator, start = Report(), random.Random(seed), time.monotonic()
    wanted, whole, took = commands(digits), {}, {}
    for name, words in wanted.items():
        whole[name] = folder / "whole" / f"{name}.pt"
        begin = time.monotonic()
        if _run(words, whole[name], [], report) != 0:
            report.faults.append(f"{name}: does not end well when nobody kills it")
        took[name] = time.monotonic() - begin
    report.kills = dict.fromkeys(wanted, 0)
    while sum(report.kills.values()) < kills and not report.faults:
        name = min(wanted, key=lambda one: report.kills[one])
        out = folder / f"run{sum(report.runs.values())}" / f"{name}.pt"
        moments = [(generator.uniform(0.2, 1) * took[name], generator.randrange(SIZE))]
        moments += [(generator.uniform(0.3, 1.2) * took[name], generator.randrange(SIZE))] * (KILLS_A_RUN - 1)
        before = sum(report.kills_by_rank.values())
        code = _run(wanted[name], out, moments, report)
        report.kills[name] += sum(report.kills_by_rank.values()) - before
        report.runs[name] = report.runs.get(name, 0) + 1
        where = f"{out.parent.name}, {name}, kills after {[round(s, 2) for s, _ in moments]} s"
        if code != 0:
            report.faults.append(f"{where}: exit code {code}: {_said(out)}")
            break
        report.faults += [f"{where}: {fault}" for fault in torture._differs(out, whole[name])]
    report.seconds = round(time.monotonic() - start, 1)
    return report


def _run(words: tuple, out: Path, moments: list[tuple[float, int]], report: Report) -> int:
    """Run a command under torchrun, killing a rank at each moment, counted from the last; the exit code."""
    out.parent.mkdir(parents=True, exist_ok=True)
    environment = os.environ | torchrun.ENVIRONMENT
    command = torchrun.command(SIZE, *words, "--out", out, program=torchrun.SAVING, restarts=KILLS_A_RUN)
    with open(out.parent / "stderr", "w") as err:
        child = subprocess.Popen(
            command, env=environment, cwd=out.parent, stdout=err, stderr=err, start_new_session=True
        )
        for seconds, rank in moments:
            try:
                child.wait(seconds)
                break
            except subprocess.TimeoutExpired:
                if (process := torchrun.members(child.pid).get(rank)) is not None:
                    os.kill(process, signal.SIGKILL)
                    report.kills_by_rank[rank] = report.kills_by_rank.get(rank, 0) + 1
        code = child.wait(300)
        if processes.lingering(child.pid) >= processes.LAST_BREATH:
            report.faults.append(f"{out.parent.name}: processes that it started outlived it")
    return code


def _said(out: Path) -> str:
    return " ".join((out.parent / "stderr").read_text().split())[-1500:]


def _of_options(options: argparse.Namespace, folder: Path) -> Report:
    return torture_ranks(chain.Chain(folder), folder, options.kills, options.seed)


if __name__ == "__main__":
    torture.session(_of_options, 20, __doc__)
