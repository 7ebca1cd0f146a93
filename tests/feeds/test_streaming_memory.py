"""Memory does not grow with the data set where photographs are streamed."""

import multiprocessing
from pathlib import Path

import chain
import pytest

from benchmarks.memory import HEIGHT, WIDTH, after_epochs

FEW, MANY = 500, 2000
PER_PICTURE = 3000  # bytes of names, digests and places, and what allocators leave; decoded it has 90 000


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
def test_four_times_the_photographs_take_no_more_memory_but_for_their_names(tmp_path: Path) -> None:
    """Holding them decoded would take 90 kB each, as files 8 kB; neither at once nor epoch by epoch."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(chain.PRELOADED)
    list(after_epochs(tmp_path, 50, workers=2))  # what any feed takes once
    few = list(after_epochs(tmp_path, FEW, workers=2))
    many = list(after_epochs(tmp_path, MANY, workers=2))
    assert PER_PICTURE < WIDTH * HEIGHT * 3 / 20
    for before, after in zip(few, many, strict=True):
        assert after - before < PER_PICTURE * (MANY - FEW)
    assert many[1] - many[0] < PER_PICTURE * MANY
