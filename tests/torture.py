"""SIGKILL at random moments: exports, a conversion and training, each resumed until it is done.

    python tests/torture.py --kills 200 --out results/reliability/torture.json
    python tests/torture.py --photographs --kills 24 --out results/reliability/photographs.json

The first is of the digits; the second of a list of JPEGs that worker processes read on demand, 1, 2 and 4 of
them in turn from attempt to attempt. The suite runs both with fewer kills. A kill counts if it hit: a command
that was done before is not counted. After each kill nothing under a final name may be half, every process
that the command started must end within seconds, and the result that the last resume ends in must be that of
a run nobody killed: the cache in every byte, weights bit for bit, histories without gap or repeat.
"""

import argparse
import contextlib
import itertools
import json
import math
import multiprocessing
import os
import random
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).parent))

import chain
import photographs
import processes

from dive.cache.reader import LogitCache
from dive.errors import DiveError
from dive.models import checkpoint

EPOCHS = 8
KILLS_A_RUN = 4  # then the run is left to end
COUNTS = {"ant": 16, "bee": 11, "cat": 4}  # photographs of a class
WORKERS = (1, 2, 4)


@dataclass(frozen=True)
class Target:
    """What is killed. commands: by name, without outputs. workers: numbers that attempts have in turn."""

    commands: Mapping[str, tuple]
    workers: tuple[int, ...] = ()


@dataclass
class Report:
    """What a session of kills saw. faults: what should not have been, empty if all is well.

    kills_by_workers: of targets that have any. slowest_end: seconds from a command's end to that of the last
    process that it had started.
    """

    kills: dict[str, int] = field(default_factory=dict)
    kills_by_workers: dict[int, int] = field(default_factory=dict)
    runs: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)
    slowest_end: float = 0.0
    seconds: float = 0.0


def of_digits(digits: chain.Chain) -> Target:
    """The chain on the digits."""
    training = (*chain.DIGITS, "--epochs", EPOCHS)
    return Target(
        {
            "teacher": ("teacher", *training),
            "student": ("student", *training, "--cache", digits.cache),
            "export-logits": ("export-logits", *chain.DIGITS, "--teacher", digits.teacher),
            "features": ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--store", "features"),
            "convert": ("convert", digits.features_cache, "--store", "int8", "--quiet"),
        }
    )


def of_photographs(folder: Path) -> Target:
    """The chain on a list of JPEGs, which are written into `folder` with a teacher and its cache."""
    photographs.write_all(COUNTS, folder)
    recipe = ("--config", folder / "listed.yaml", *photographs.HERE)
    teacher, cache = folder / "teacher.pt", folder / "cache.h5"
    export = ("export-logits", *recipe, "--teacher", teacher, "--views", 20)
    with contextlib.chdir(folder):  # where the index of the pictures is put
        chain.succeed("teacher", *recipe, "--workers", 0, "--out", teacher)
        chain.succeed(*export, "--workers", 0, "--out", cache)
    training = (*recipe, "--epochs", EPOCHS)
    return Target(
        {
            "teacher": ("teacher", *training),
            "student": ("student", *training, "--cache", cache),
            "export-logits": export,
        },
        WORKERS,
    )


def torture(target: Target, folder: Path, kills: int, seed: int) -> Report:
    """Kill until there were `kills` hits; folder: where to work."""
    report, generator, start = Report(), random.Random(seed), time.monotonic()
    whole = {name: _whole(name, target, folder / "whole") for name in target.commands}
    report.kills = dict.fromkeys(whole, 0)
    workers = itertools.cycle(target.workers or (None,))
    while sum(report.kills.values()) < kills and not report.faults:
        name = min(report.kills, key=lambda one: report.kills[one])  # which was killed least
        place = folder / f"run{sum(report.runs.values())}"
        place.mkdir()
        report.faults += _one_run(name, target, place, whole[name], generator, workers, report)
        report.runs[name] = report.runs.get(name, 0) + 1
    report.seconds = round(time.monotonic() - start, 1)
    return report


@dataclass(frozen=True)
class Whole:
    """A result nobody killed, and the seconds it took."""

    path: Path
    seconds: float


def _output(name: str, folder: Path) -> Path:
    return folder / f"{name}.{'pt' if name in ('teacher', 'student') else 'h5'}"


def _whole(name: str, target: Target, folder: Path) -> Whole:
    folder.mkdir(exist_ok=True)
    out = _output(name, folder)
    words = (*target.commands[name], *_option(next(iter(target.workers), None)), "--force")
    seconds = []
    for _ in range(2):  # the first also starts the server that the processes come from
        start = time.monotonic()
        assert _run(words, out, moment=None).code == 0
        seconds.append(time.monotonic() - start)
    return Whole(out, min(seconds))


def _option(workers: int | None) -> tuple:
    return () if workers is None else ("--workers", workers)


def _one_run(
    name: str,
    target: Target,
    folder: Path,
    whole: Whole,
    generator: random.Random,
    workers: Iterator[int | None],
    report: Report,
) -> Iterator[str]:
    """Kill one run some times at random moments, resume it each time, and yield what was wrong."""
    out = _output(name, folder)
    for count in itertools.islice(workers, KILLS_A_RUN):
        moment = generator.uniform(0, 1.1 * whole.seconds)
        ended = _run((*target.commands[name], *_option(count)), out, moment)
        where = f"{folder.name}, {name}, workers {count}, killed after {moment:.3f} s"
        if ended.code == -signal.SIGKILL:
            report.kills[name] += 1
            if count is not None:
                report.kills_by_workers[count] = report.kills_by_workers.get(count, 0) + 1
        elif ended.code != 0:
            yield f"{where}: exit code {ended.code}"
            return
        report.slowest_end = max(report.slowest_end, ended.lingering)
        if ended.lingering >= processes.LAST_BREATH:
            yield f"{where}: processes that it started outlived it"
        yield from (f"{where}: {fault}" for fault in _half(out))
        if out.exists():
            break
    # A finished result is not replaced, but what a kill left beside it goes.
    refused = 1 if out.exists() else 0
    ended = _run((*target.commands[name], *_option(next(workers))), out, moment=None)
    if ended.code != refused or ended.lingering >= processes.LAST_BREATH:
        yield f"{folder.name}, {name}: the last call ended with {ended}"
        return
    yield from (f"{folder.name}, {name}: {fault}" for fault in _differs(out, whole.path))


@dataclass(frozen=True)
class Ended:
    """How a command ended: its exit code, and the seconds that processes it had started lived on."""

    code: int
    lingering: float


def _run(words: tuple, out: Path, moment: float | None) -> Ended:
    """Run a command in a process of its own, killed after `moment` seconds."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(chain.PRELOADED)
    every_word = [*map(str, words), "--out", str(out)]
    child = context.Process(target=_child, args=(every_word, torch.get_num_threads(), str(out.parent)))
    child.start()
    assert child.pid is not None
    if moment is not None:
        child.join(moment)
        if child.exitcode is None:
            os.kill(child.pid, signal.SIGKILL)
    child.join(120)
    if child.exitcode is None:
        child.kill()
        return Ended(124, 0.0)
    return Ended(child.exitcode, processes.lingering(child.pid))


def _child(words: list[str], threads: int, folder: str) -> None:
    from dive.training import loop

    os.setsid()  # by which what it starts is known
    multiprocessing.set_forkserver_preload(["dive.feeds.images"])  # for its workers, which need no more
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
            LogitCache(out).encoded_whole() if out.suffix == ".h5" else checkpoint.load_finished(out)
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
    wanted = {name for name in chain.files_under(whole.parent) if name.startswith((f"{out.stem}.", "cache/"))}
    left = set(chain.files_under(out.parent)) - {"stderr"}
    if left != wanted:
        yield f"files {sorted(left)}, not {sorted(wanted)}"


def _history(path: Path) -> list[dict]:
    entries = [json.loads(line) for line in path.with_suffix(".history.jsonl").read_text().splitlines()]
    for entry in entries:
        del entry["seconds"]
        entry.pop("image_wait", None)
    return entries


def session(work: Callable[[argparse.Namespace, Path], Any], kills: int, what: str, *flags: str) -> None:
    """Kill as often as asked for, print and write what was seen; exit code 1 where something was wrong.

    work: given the options and an empty folder, its report. kills: unless others are asked for. flags:
    further options, which are on or off.
    """
    parser = argparse.ArgumentParser(description=what.partition("\n")[0])
    for flag in flags:
        parser.add_argument(flag, action="store_true")
    parser.add_argument("--kills", type=int, default=kills)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dive-torture-") as name:
        report = work(options, Path(name))
    document = {"seed": options.seed, **vars(report)}
    print(json.dumps(document, indent=2))
    if options.out is not None:
        options.out.parent.mkdir(parents=True, exist_ok=True)
        options.out.write_text(json.dumps(document, indent=2) + "\n")
    sys.exit(1 if report.faults else 0)


def _of_options(options: argparse.Namespace, folder: Path) -> Report:
    """The digits, or with --photographs JPEGs that are read on demand."""
    torch.set_num_threads(min(2, torch.get_num_threads()))
    target = of_photographs(folder) if options.photographs else of_digits(chain.Chain(folder))
    return torture(target, folder, options.kills, options.seed)


if __name__ == "__main__":
    session(_of_options, 200, __doc__, "--photographs")
