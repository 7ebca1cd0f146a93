"""The teacher's logits of a batch: from memory and streamed from the file, against plain indexing."""

from pathlib import Path

import chain
import numpy as np
import pytest
import torch

from dive.feeds import teacher_logits
from dive.feeds.teacher_logits import AHEAD, ResidentLogits, StreamedLogits, fits
from dive.models import checkpoint
from dive.workflows import student

CPU = torch.device("cpu")
N, VIEWS, CLASSES = 37, 5, 11


@pytest.fixture
def logits() -> np.ndarray:
    """A memory-mapped cache with more rows than samples."""
    values = np.random.default_rng(0).normal(size=(N + 3, VIEWS, CLASSES)).astype(np.float16)
    Path("logits").write_bytes(values.tobytes())
    return np.memmap("logits", np.float16, mode="c", shape=values.shape)


PLACE = np.random.default_rng(1).permutation(N + 3)[:N]


def epoch(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Samples in some order and a cache column for each."""
    generator = np.random.default_rng(seed)
    return generator.permutation(N), generator.integers(0, VIEWS, N)


@pytest.mark.parametrize("size", [1, 4, 8, 36, 37, 50])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_batch_of_every_epoch_has_its_own_rows(logits, size, streamed):
    if streamed:
        source = StreamedLogits(logits, PLACE, size, CPU)
    else:
        source = ResidentLogits(torch.from_numpy(logits), torch.from_numpy(PLACE))
    for seed in range(3):
        rows, columns = epoch(seed)
        source.begin(rows, columns)
        for start in range(0, N, size):
            batch = slice(start, start + size)
            source.load()
            found = source.batch(torch.from_numpy(rows[batch]), torch.from_numpy(columns[batch]))
            expected = [
                logits[PLACE[row], column] for row, column in zip(rows[batch], columns[batch], strict=True)
            ]
            assert found.dtype == torch.float16
            np.testing.assert_array_equal(found.numpy(), np.stack(expected))


@pytest.mark.parametrize("loaded", [0, 1, AHEAD + 2])
def test_an_epoch_may_begin_before_the_last_one_ended(logits, loaded):
    source = StreamedLogits(logits, PLACE, 3, CPU)
    source.begin(*epoch(0))
    for _ in range(loaded):
        source.load()
    rows, columns = epoch(1)
    source.begin(rows, columns)
    source.load()
    found = source.batch(torch.from_numpy(rows[:3]), torch.from_numpy(columns[:3]))
    np.testing.assert_array_equal(found.numpy(), logits[PLACE[rows[:3]], columns[:3]])


def test_a_student_of_a_streamed_cache_is_the_student_of_a_resident_one(digits, monkeypatch):
    monkeypatch.setattr(student, "fits", lambda *_: False)
    outcome = chain.succeed(
        "student", *chain.DIGITS[:-1], "--epochs", 3, "--cache", digits.cache, "--out", "s.pt"
    )
    assert f"{digits.cache} is larger than the memory there is and is streamed from its file" in outcome.err
    streamed, resident = (checkpoint.load(path)["weights hash"] for path in (Path("s.pt"), digits.student))
    assert streamed == resident


def test_a_cache_fits_a_cpu_where_it_takes_the_allowed_share_of_its_memory(monkeypatch):
    Path("meminfo").write_text("MemTotal: 2000 kB\nMemFree:  10 kB\nMemAvailable:    1000 kB\n")
    monkeypatch.setattr(teacher_logits, "HOST_MEMORY", "meminfo")
    assert fits(600 * 1024, CPU)
    assert not fits(600 * 1024 + 1, CPU)


@pytest.mark.parametrize("content", [None, "nothing of the kind\n"])
def test_where_the_system_does_not_say_how_much_memory_there_is_a_cache_fits(monkeypatch, content):
    if content is not None:
        Path("meminfo").write_text(content)
    monkeypatch.setattr(teacher_logits, "HOST_MEMORY", "meminfo")
    assert fits(10**18, CPU)
