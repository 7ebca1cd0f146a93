"""Commands under a real torchrun, and what it puts into the environment."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
DIVE = ("-m", "dive")
SAVING = (str(ROOT / "tests" / "torchrun_worker.py"),)  # dive that saves its state after every epoch
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "PYTHONPATH": str(ROOT)}
PLACE = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}


def environment(rank: int, size: int, restart: int = 0) -> dict[str, str]:
    """What torchrun sets for a rank of a world on one machine."""
    return PLACE | {
        "RANK": str(rank),
        "WORLD_SIZE": str(size),
        "LOCAL_RANK": str(rank),
        "LOCAL_WORLD_SIZE": str(size),
        "TORCHELASTIC_RESTART_COUNT": str(restart),
        "TORCHELASTIC_RUN_ID": "none",
    }


def command(size: int, *words: object, program: Sequence[str] = DIVE, restarts: int = 0) -> list[str]:
    """`torchrun --nproc-per-node SIZE PROGRAM WORDS`."""
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(size)]
    return [*run, "--max-restarts", str(restarts), *program, *map(str, words)]


def start(
    size: int, *words: object, settings: Mapping[str, str] | None = None, **more: Any
) -> subprocess.Popen:
    """The command, started in this folder; one thread a process.

    settings: further environment variables. more: as `command` takes it.
    """
    return subprocess.Popen(
        command(size, *words, **more),
        env=os.environ | ENVIRONMENT | dict(settings or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(size: int, *words: object, **more: Any) -> subprocess.CompletedProcess:
    """The same, waited for."""
    started = start(size, *words, **more)
    out, err = started.communicate(timeout=300)
    return subprocess.CompletedProcess(started.args, started.returncode, out, err)


def members(torchrun: int) -> dict[int, int]:
    """The processes that a torchrun has started and that live, by their rank."""
    found = {}
    for place in Path("/proc").glob("[0-9]*"):
        try:
            state, parent, *_ = (place / "stat").read_text().rpartition(") ")[2].split()
            entries = (place / "environ").read_bytes().split(b"\0") if int(parent) == torchrun else []
        except OSError:
            continue
        ranks = [entry[5:] for entry in entries if entry.startswith(b"RANK=")]
        if ranks and state not in "ZX":
            found[int(ranks[0])] = int(place.name)
    return found


def wait_for(there, seconds: float = 120) -> None:
    """Wait until `there()` is true."""
    end = time.monotonic() + seconds
    while not there():
        assert time.monotonic() < end, "it did not come"
        time.sleep(0.01)
