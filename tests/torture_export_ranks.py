"""SIGKILL to random ranks of torchrun at random moments: an export, resumed by as many ranks or others.

    python tests/torture_export_ranks.py --kills 20 --out results/reliability/export-ranks.json

A kill counts if it hit. torchrun must end with all its ranks, dive must tell nothing of it, nothing under the
final name may be half, and the last resume must end in the bytes of one process, with nothing left over.
"""

import argparse
import contextlib
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import chain
import torchrun
from torture import session

from dive.cache.plan import plan_path
from dive.cache.reader import LogitCache
from dive.errors import DiveError

SIZES = (1, 2, 3)  # of worlds
KILLS_A_RUN = 4  # then the run is left to end
OUT = "cache.h5"
LONGEST = 2.0  # seconds from the first sign of work to the kill


@dataclass
class Report:
    """What a session of kills saw. faults: what should not have been, empty if all is well.

    kills: by world size. ranks: kills by rank. runs: exports that were finished, by the size that did.
    """

    kills: dict[int, int] = field(default_factory=dict)
    ranks: dict[int, int] = field(default_factory=dict)
    runs: dict[int, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def torture(words: tuple, whole: bytes, folder: Path, kills: int, seed: int) -> Report:
    """Kill ranks of the export `words` until there were `kills` hits; whole: what it ends in."""
    report, generator, start = Report(), random.Random(seed), time.monotonic()
    while sum(report.kills.values()) < kills and not report.faults:
        place = folder / f"run{sum(report.runs.values())}"
        place.mkdir()
        with contextlib.chdir(place):
            report.faults += _one_run(words, whole, generator, report)
    report.seconds = round(time.monotonic() - start, 1)
    return report


def _one_run(words: tuple, whole: bytes, generator: random.Random, report: Report) -> Iterator[str]:
    out, size, size_before = Path(OUT), generator.choice(SIZES), None
    for _ in range(KILLS_A_RUN):
        if generator.random() < 0.5 or size_before is None:
            size = generator.choice(SIZES)
        size_before = size
        told, victim = _killed(words, size, generator)
        if victim is not None:
            report.kills[size] = report.kills.get(size, 0) + 1
            report.ranks[victim] = report.ranks.get(victim, 0) + 1
        yield from (f"{size} ranks, rank {victim} killed: {fault}" for fault in told)
        if out.exists():
            try:
                LogitCache(out).encoded_whole()
            except DiveError as error:
                yield f"a half result: {error}"
            break
    size = generator.choice(SIZES)
    refused = out.exists() and not plan_path(out).exists() and not Path(f"{OUT}.part").exists()
    done = torchrun.run(size, *words, "--out", OUT)
    report.runs[size] = report.runs.get(size, 0) + 1
    if (done.returncode != 0) != refused:
        yield f"the last of {size} ranks ended with {done.returncode}: {done.stderr[-2000:]}"
    elif out.read_bytes() != whole:
        yield "the cache has other bytes"
    elif os.listdir() != [OUT]:
        yield f"files {sorted(os.listdir())} are left"


def _killed(words: tuple, size: int, generator: random.Random) -> tuple[list[str], int | None]:
    """Kill a rank once there are signs of work; what was wrong, and which it was, None where none lived."""
    started = torchrun.start(size, *words, "--out", OUT)
    before = set(os.listdir())
    torchrun.wait_for(lambda: set(os.listdir()) - before or started.poll() is not None or _any_lock())
    time.sleep(generator.uniform(0, LONGEST) * generator.random())
    living = torchrun.members(started.pid)
    victim = generator.choice(sorted(living)) if living else None
    if victim is not None:
        os.kill(living[victim], signal.SIGKILL)
    try:
        _, err = started.communicate(timeout=120)
    except subprocess.TimeoutExpired:
        started.kill()
        return ["torchrun did not end"], victim
    faults = []
    if torchrun.members(started.pid):
        faults.append("ranks outlived torchrun")
    if victim is not None and started.returncode == 0 and not Path(OUT).exists():
        faults.append("torchrun ended well without a result")
    if victim is not None and "dive: " in err and "exists already" not in err:
        faults.append(f"dive told: {err[err.index('dive: ') :][:300]}")
    return faults, victim if started.returncode != 0 else None


def _any_lock() -> bool:
    return any(name.startswith(".") for name in os.listdir())


def _of_options(options: argparse.Namespace, folder: Path) -> Report:
    digits = chain.Chain(folder)
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--set", "views.pad=4")
    with contextlib.chdir(folder):
        done = torchrun.run(1, *words, "--out", folder / "whole.h5")
        assert done.returncode == 0, done.stderr
    return torture(words, (folder / "whole.h5").read_bytes(), folder, options.kills, options.seed)


if __name__ == "__main__":
    session(_of_options, 20, __doc__)
