"""Files that forked processes read at the same time."""

import io
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from dive.data.sources.positioned import positioned

CONTENT = np.random.default_rng(0).bytes(100_000)


@pytest.fixture
def path() -> Path:
    """A file longer than any buffer."""
    Path("file").write_bytes(CONTENT)
    return Path("file")


def test_it_reads_what_bytes_in_memory_give(path: Path) -> None:
    generator, memory = np.random.default_rng(1), io.BytesIO(CONTENT)
    with path.open("rb") as file:
        ours = positioned(file)
        for _ in range(300):
            whence = int(generator.integers(3))
            least = {os.SEEK_SET: 0, os.SEEK_CUR: -memory.tell(), os.SEEK_END: -len(CONTENT)}[whence]
            offset = int(generator.integers(least, least + len(CONTENT) + 9))
            assert ours.seek(offset, whence) == memory.seek(offset, whence)
            count = int(generator.integers(-1, 20_000))
            assert ours.read(count) == memory.read(count)
            assert ours.tell() == memory.tell()
        with pytest.raises(OSError):
            ours.seek(-1)


def test_a_forked_process_does_not_move_it(path: Path) -> None:
    with path.open("rb") as file:
        ours = positioned(file)
        assert ours.read(10) == CONTENT[:10]
        child = multiprocessing.get_context("fork").Process(target=ours.read)
        child.start()
        child.join()
        assert child.exitcode == 0
        assert ours.read() == CONTENT[10:]
