"""Two processes of one thread: exports against one such process, training against one of two threads."""

import json
import statistics
from collections.abc import Iterator
from functools import partial
from pathlib import Path

from benchmarks.measure import Figure, interleaved
from benchmarks.worlds import printed

# The precision is given: `auto` may choose another in one process than in two.
RECIPE = ("--config", "digits_lt/bbn", "--set", "model.name=resnet20")
ON_CPU = ("--device", "cpu", "--precision", "fp32", "--quiet", "--force")
BATCH = ("--set", "schedule.batch_size=128")
PAD, PAD_FULL = 9, 15  # 361 and 961 views of each of 399 images: about 7 s and 18 s in one thread
EPOCHS = 6  # of a training; the first is not timed


def sharding(folder: Path, full: bool) -> Iterator[Figure]:
    """How many times as fast two single-thread processes export as one does.

    The export reports its own time, from the first block to the finished cache. It includes waiting for the
    other process, copying and checking, but not loading libraries, data and teacher.
    """
    teacher = _teacher(folder)
    views = ("--set", f"views.pad={PAD_FULL if full else PAD}")
    words = ("export-logits", *RECIPE, *ON_CPU, *views, "--teacher", teacher, "--out", folder / "sharded.h5")
    cases = {"one": partial(_export, words, 1), "two": partial(_export, words, 2)}
    times = interleaved(cases, rounds=5 if full else 3, warm_ups=0)
    yield Figure(
        "export, one thread / two processes of one thread",
        times.ratio("one", "two"),
        at_least=1.8,
        seconds=times.medians(),
    )


def training_ranks(folder: Path, full: bool) -> Iterator[Figure]:
    """An epoch of two single-thread processes against one of a process with two threads.

    The images are small and a step computes little, so that the communication between processes weighs most.
    The figure is the median epoch of a training, from its history.
    """
    teacher, cache = _teacher(folder), folder / "trained_from.h5"
    printed(("export-logits", *RECIPE, *ON_CPU, "--teacher", teacher, "--out", cache))
    for kind, more in {"teacher": (), "student": ("--cache", cache)}.items():
        out = folder / f"ranks_{kind}.pt"
        words = (kind, *RECIPE, *ON_CPU, *BATCH, "--epochs", EPOCHS, *more, "--out", out)
        cases = {
            "one": partial(_epoch, words, out, size=1, threads=2),
            "two": partial(_epoch, words, out, size=2, threads=1),
        }
        times = interleaved(cases, rounds=5 if full else 2, warm_ups=0)
        name = f"epoch of a {kind}, two processes of one thread / one process of two"
        yield times.figure(name, "two", "one")


def _teacher(folder: Path) -> Path:
    """A teacher trained for one epoch; its weights do not affect any time."""
    path = folder / "sharded_teacher.pt"
    if not path.exists():
        printed(("teacher", *RECIPE, *ON_CPU, "--epochs", 1, "--out", path))
    return path


def _export(words: tuple[object, ...], size: int) -> float:
    """The seconds of an export in `size` processes of one thread."""
    seconds: float = json.loads(printed((*words, "--json"), size))["seconds"]
    return seconds


def _epoch(words: tuple[object, ...], out: Path, size: int, threads: int) -> float:
    """The median seconds of an epoch of a training, without the first."""
    printed(words, size, threads)
    lines = out.with_suffix(".history.jsonl").read_text().splitlines()
    return statistics.median(json.loads(line)["seconds"] for line in lines[1:])
