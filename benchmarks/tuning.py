"""The tune pass in a process of its own, as `dive tune-tau` runs it: its seconds and its memory."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path


def in_process_of_its_own(cache: Path, temperatures: Sequence[float]) -> tuple[dict[str, float], int]:
    """What `tune_process` measured, and its largest observed anonymous memory in bytes."""
    command = [sys.executable, "-m", "benchmarks.tune_process", str(cache), *map(str, temperatures)]
    peak = 0
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        while process.poll() is None:
            peak = max(peak, _anonymous_memory(process.pid))
            time.sleep(0.02)
        assert process.stdout is not None
        document = json.loads(process.stdout.read())
    return document, peak


def _anonymous_memory(pid: int) -> int:
    """Anonymous memory in bytes of a process and those it forked; shared pages count for each."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return 0
    line = next((line for line in status.splitlines() if line.startswith("RssAnon:")), "RssAnon: 0 kB")
    return int(line.split()[1]) * 1024 + sum(_anonymous_memory(int(child)) for child in children)
