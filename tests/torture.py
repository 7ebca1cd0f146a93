"""SIGKILL at random moments: export, teacher and student on the digits, each resumed until it is done.

    python tests/torture.py --kills 200 --out results/reliability/torture.json

The suite runs it with fewer kills. A kill counts if it hit: a command that was done before is not
counted. After each kill nothing under a final name may be half, and the result that the last resume
ends in must be that of a run nobody killed: the cache in every byte, weights bit for bit, histories
without gap or repeat.
"""

import argparse
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))

import chain

from dive.cache.reader import LogitCache
from dive.errors import DiveError
from dive.models import checkpoint

EPOCHS = 8
KILLS_A_RUN = 4  # then the run is left to end


@dataclass
class Report:
    """What a session of kills saw. faults: what should not have been, empty if all is well."""

    kills: dict[str, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    seconds: float = 0.0


def commands(digits: chain.Chain) -> dict[str, tuple]:
    """The commands to kill, each without its output."""
    training = (*chain.DIGITS, "--epochs", EPOCHS)
    return {
        "teacher": ("teacher", *training),
        "student": ("student", *training, "--cache", digits.cache),
        "export-logits": ("export-logits", *chain.DIGITS, "--teacher", digits.teacher),
    }


def torture(digits: chain.Chain, folder: Path, kills: int, seed: int) -> Report:
    """Kill until there were `kills` hits; folder: where to work."""
    report, generator, start = Report(), random.Random(seed), time.monotonic()
    whole = {name: _whole(name, words, folder / "whole") for name, words in commands(digits).items()}
    names = list(whole)
    number = 0
    while sum(report.kills.values()) < kills and not report.faults:
        name = names[number % len(names)]
        place = folder / f"run{number}"
        place.mkdir()
        words = commands(digits)[name]
        report.faults += _one_run(name, words, place, whole[name], generator, report)
        report.runs[name] = report.runs.get(name, 0) + 1
        number += 1
    report.seconds = round(time.monotonic() - start, 1)
    return report


@dataclass(frozen=True)
class Whole:
    """A result nobody killed, and the seconds it took."""

    path: Path
    seconds: float


def _output(name: str, folder: Path) -> Path:
    return folder / ("cache.h5" if name == "export-logits" else f"{name}.pt")


def _whole(name: str, words: tuple, folder: Path) -> Whole:
    folder.mkdir(exist_ok=True)
    out = _output(name, folder)
    seconds = []
    for _ in range(2):  # the first also starts the server that the processes come from
        start = time.monotonic()
        assert _run(words, out, force=True, moment=None) == 0
        seconds.append(time.monotonic() - start)
    return Whole(out, min(seconds))


def _one_run(
    name: str, words: tuple, folder: Path, whole: Whole, generator: random.Random, report: Report
) -> Iterator[str]:
    """Kill one run some times at random moments, resume it each time, and yield what was wrong."""
    out = _output(name, folder)
    for _ in range(KILLS_A_RUN):
        moment = generator.uniform(0, 1.1 * whole.seconds)
        code = _run(words, out, force=False, moment=moment)
        where = f"{folder.name}, {name} killed after {moment:.3f} s"
        if code == -signal.SIGKILL:
            report.kills[name] = report.kills.get(name, 0) + 1
        elif code != 0:
            yield f"{where}: exit code {code}"
            return
        yield from (f"{where}: {fault}" for fault in _half(out))
        if out.exists():
            break
    refused = (
        1 if out.exists() else 0
    )  # a finished result is not replaced, but what a kill left beside it goes
    if (code := _run(words, out, force=False, moment=None)) != refused:
        yield f"{folder.name}, {name}: the last call ended with exit code {code}"
        return
    yield from (f"{folder.name}, {name}: {fault}" for fault in _differs(out, whole.path))


def _run(words: tuple, out: Path, force: bool, moment: float | None) -> int:
    """Run a command in a process of its own, killed after `moment` seconds; its exit code."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(chain.PRELOADED)
    every_word = [*map(str, words), "--out", str(out), *(["--force"] if force else [])]
    child = context.Process(target=_child, args=(every_word, torch.get_num_threads(), str(out.parent)))
    child.start()
    if moment is not None:
        child.join(moment)
        if child.exitcode is None and child.pid is not None:
            os.kill(child.pid, signal.SIGKILL)
    child.join(120)
    if child.exitcode is None:
        child.kill()
        return 124
    return child.exitcode


def _child(words: list[str], threads: int, folder: str) -> None:
    from dive.training import loop

    torch.set_num_threads(threads)
    loop.SAVING_SHARE = math.inf  # after every epoch, so that there is something to break
    os.chdir(folder)
    sys.argv = ["dive", *words]
    with open(os.devnull, "w") as sys.stdout, open("stderr", "a") as sys.stderr:
        chain.main()


def _half(out: Path) -> Iterator[str]:
    """What stands under a final name and is not whole."""
    if out.exists():
        try:
            LogitCache(out).whole() if out.suffix == ".h5" else checkpoint.load_finished(out)
        except DiveError as error:
            yield f"a half result: {error}"
    for path in out.parent.glob("*.state"):
        try:
            checkpoint.load(path)
        except DiveError as error:
            yield f"a half state: {error}"
    for path in (*out.parent.glob("*.json"), *out.parent.glob("*.jsonl")):
        try:
            [json.loads(line) for line in path.read_text().splitlines()] if path.suffix == ".jsonl" else (
                json.loads(path.read_text())
            )
        except ValueError:
            yield f"half of {path.name}"


def _differs(out: Path, whole: Path) -> Iterator[str]:
    """In what a resumed result differs from one that nobody stopped, and what was left lying about."""
    if out.suffix == ".h5":
        if out.read_bytes() != whole.read_bytes():
            yield "the cache has other bytes"
    else:
        found, expected = (torch.load(path, weights_only=True)["model"] for path in (out, whole))
        if found.keys() != expected.keys() or not all(torch.equal(found[k], expected[k]) for k in found):
            yield "the weights differ"
        if _history(out) != _history(whole):
            yield "the history differs"
    wanted = {path.name for path in whole.parent.iterdir() if path.stem.partition(".")[0] == out.stem}
    left = {path.name for path in out.parent.iterdir()} - {"stderr"}
    if left != wanted:
        yield f"files {sorted(left)}, not {sorted(wanted)}"


def _history(path: Path) -> list[dict]:
    entries = [json.loads(line) for line in path.with_suffix(".history.jsonl").read_text().splitlines()]
    for entry in entries:
        del entry["seconds"]
        entry.pop("image_wait", None)
    return entries


def main() -> None:
    """Kill as often as asked for, print and write what was seen; exit code 1 where something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(min(2, torch.get_num_threads()))
    with tempfile.TemporaryDirectory(prefix="dive-torture-") as name:
        folder = Path(name)
        report = torture(chain.Chain(folder), folder, options.kills, options.seed)
    document = {"seed": options.seed, **vars(report)}
    print(json.dumps(document, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if report.faults else 0)


if __name__ == "__main__":
    main()
