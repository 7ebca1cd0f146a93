"""Commands under torchrun, in processes of their own or as if they were started by it."""

import os
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
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


def start(size: int, *words: object, settings: Mapping[str, str] | None = None) -> subprocess.Popen:
    """`torchrun --nproc-per-node SIZE -m dive WORDS`, started in this folder; one thread a process.

    settings: further environment variables.
    """
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(size), "-m", "dive"]
    place = {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT), "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.Popen(
        [*torchrun, *map(str, words)],
        env=os.environ | place | dict(settings or {}),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def run(size: int, *words: object) -> subprocess.CompletedProcess:
    """The same, waited for."""
    started = start(size, *words)
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
