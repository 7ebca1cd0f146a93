"""An export by two single-thread processes under torchrun against one: what shards and their merge cost."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

from benchmarks.measure import Figure, interleaved

PROCESSES = 2
RECIPE = ("--config", "digits_lt/bbn", "--set", "model.name=resnet20", "--device", "cpu", "--quiet")
VIEWS = ("--set", "views.pad=6")  # 169 of each of 399 images, whose pixels are few: some 30 s of one thread


def sharding(folder: Path, full: bool) -> Iterator[Figure]:
    """How many times as fast two single-thread processes export as one does.

    From the moment that a process has its teacher and its data to the finished cache: waiting for the other
    rank, copying and checking are counted, the start of Python and torch is not.
    """
    teacher, out = folder / "sharded_teacher.pt", folder / "sharded.h5"
    quick = ("--epochs", "1", "--force", "--out", str(teacher))
    _output([sys.executable, "-m", "dive", "teacher", *RECIPE, *quick])
    dive = ["-m", "dive", "export-logits", *RECIPE, *VIEWS, "--teacher", str(teacher), "--out", str(out)]
    torchrun = ["-m", "torch.distributed.run", "--nproc-per-node", str(PROCESSES)]

    def exported(*words: str) -> float:
        out.unlink(missing_ok=True)
        return json.loads(_output([sys.executable, *words, *dive, "--json"]))["seconds"]

    rounds = 5 if full else 3
    times = interleaved(
        {"one": lambda: exported(), "two": lambda: exported(*torchrun)}, rounds=rounds, warm_ups=0
    )
    yield Figure(
        "export, one thread / two processes of one thread",
        times.ratio("one", "two"),
        at_least=1.8,
        seconds=times.medians(),
    )


def _output(words: list[str]) -> str:
    place = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(words, env=os.environ | place, check=True, stdout=subprocess.PIPE, text=True)
    return done.stdout
