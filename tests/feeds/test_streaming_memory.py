"""Memory does not grow with the data set where photographs are streamed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks.memory import HEIGHT, WIDTH

FEW, MANY = 500, 2000
PER_PICTURE = 3000  # bytes of names, digests and places, and what allocators leave; decoded it has 90 000
# In a process of its own: one that ran other tests has memory to give away and to fill up.
MEASURED = """
import json, sys
from pathlib import Path
from benchmarks.memory import after_epochs
taken = [list(after_epochs(Path(sys.argv[1]), count, workers=2)) for count in map(int, sys.argv[2:])]
print(json.dumps(taken))
"""


@pytest.mark.slow
def test_four_times_the_photographs_take_no_more_memory_but_for_their_names(
    tmp_path: Path, repository: Path
) -> None:
    """Holding them decoded would take 90 kB each, as files 8 kB; neither at once nor epoch by epoch."""
    command = [sys.executable, "-W", "ignore", "-c", MEASURED, str(tmp_path), "50", str(FEW), str(MANY)]
    here = os.environ | {"PYTHONPATH": str(repository)}
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=here)
    _, few, many = json.loads(done.stdout)  # the first has what any feed takes once
    assert PER_PICTURE < WIDTH * HEIGHT * 3 / 20
    for before, after in zip(few, many, strict=True):
        assert after - before < PER_PICTURE * (MANY - FEW)
    assert many[1] - many[0] < PER_PICTURE * MANY
