"""The teacher's logits of a batch: from memory and streamed from the file, against plain indexing."""

from collections.abc import Iterable
from pathlib import Path

import chain
import numpy as np
import pytest
import torch
from caches import STORES, decoded, offset, values, write_cache

from dive import memory
from dive.cache.reader import LogitCache
from dive.errors import CacheError
from dive.feeds import logits as feeds
from dive.feeds.feed import Batch, Feed, fits
from dive.feeds.logits import AHEAD, CachedLogits, ResidentLogits, StreamedLogits
from dive.models import checkpoint

CPU = torch.device("cpu")
N, VIEWS, CLASSES = 37, 5, 11


@pytest.fixture(params=STORES)
def cache(request) -> LogitCache:
    """A cache of each encoding, with more rows than samples."""
    found = values(request.param, N + 3, VIEWS, CLASSES)
    return write_cache(Path("logits.h5"), found, store=request.param)


PLACE = np.random.default_rng(1).permutation(N + 3)[:N]


def epoch(seed: int, size: int) -> list[Batch]:
    """Samples in some order and a cache column for each, in batches."""
    generator = np.random.default_rng(seed)
    rows, columns = generator.permutation(N), generator.integers(0, VIEWS, N)
    return list(Batch(rows, np.zeros_like(rows), columns).split(size))


def batch_of(feed: Feed, batch: Batch) -> np.ndarray:
    """The logits of the batch made ready, copied."""
    found = feed.batch(*(torch.from_numpy(index) for index in (batch.rows, batch.ids, batch.columns)))
    assert found.dtype == torch.float32
    return found.numpy().copy()


def require(found: np.ndarray, batch: Batch) -> None:
    """Compare the logits of a batch with those in float64, one by one."""
    logits, places = decoded(Path("logits.h5")), zip(batch.rows.tolist(), batch.columns.tolist(), strict=True)
    expected = np.stack([logits[PLACE[row], column] for row, column in places])
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("size", [1, 4, 8, 36, 37, 50])
@pytest.mark.parametrize("streamed", [False, True])
def test_every_batch_of_every_epoch_has_its_own_rows(cache, size, streamed, monkeypatch):
    monkeypatch.setattr(feeds, "fits", lambda *_: not streamed)
    cached = CachedLogits(cache, PLACE, CPU)
    feed = cached.feed(size)
    assert cached.resident is not streamed
    assert isinstance(feed, StreamedLogits if streamed else ResidentLogits)
    for seed in range(3):
        plan = epoch(seed, size)
        feed.begin(iter(plan))
        for batch in plan:
            feed.load()
            require(batch_of(feed, batch), batch)


@pytest.mark.parametrize("loaded", [0, 1, AHEAD + 2])
def test_an_epoch_may_begin_before_the_last_one_ended(cache, loaded):
    feed = StreamedLogits(cache, PLACE, 3, CPU)
    feed.begin(epoch(0, 3))
    for _ in range(loaded):
        feed.load()
    plan = epoch(1, 3)
    feed.begin(plan)
    for batch in plan:
        feed.load()
        require(batch_of(feed, batch), batch)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_cache_that_is_damaged_after_it_was_opened_is_refused_and_not_learned_from(
    cache, streamed, monkeypatch
):
    with open(cache.path, "r+b") as file:
        file.seek(offset(cache.path))
        byte = file.read(1)
        file.seek(offset(cache.path))
        file.write(bytes([byte[0] ^ 0x10]))
    monkeypatch.setattr(feeds, "fits", lambda *_: not streamed)
    with pytest.raises(CacheError, match=r"logits\.h5 is corrupt: samples 0 to \d+ do not match their CRC"):
        feed = CachedLogits(cache, np.arange(N), CPU).feed(4)
        feed.begin(Batch(np.arange(N), np.arange(N), np.zeros(N, dtype=np.int64)).split(4))
        feed.load()


def test_a_resident_cache_is_brought_to_the_device_once_for_every_feed(cache):
    cached = CachedLogits(cache, PLACE, CPU)
    assert cached.feed(3) is cached.feed(5)


def test_a_plan_is_taken_as_it_is_needed(cache):
    """A plan of many epochs would fill the memory if all batches were gathered at once."""
    taken = []

    def noting(plan: list[Batch]) -> Iterable[Batch]:
        for number, batch in enumerate(plan):
            taken.append(number)
            yield batch

    feed = StreamedLogits(cache, PLACE, 1, CPU)
    feed.begin(noting(epoch(0, 1)))
    assert taken == list(range(AHEAD))
    feed.load()
    assert taken == list(range(AHEAD + 1))


def test_a_student_of_a_streamed_cache_is_the_student_of_a_resident_one(digits, monkeypatch):
    monkeypatch.setattr("dive.workflows.student.room_of", lambda _: lambda *_: False)
    outcome = chain.succeed(
        "student", *chain.DIGITS[:-1], "--epochs", 3, "--cache", digits.cache, "--out", "s.pt"
    )
    told = (
        f"{digits.cache} (float16, 20 bytes a view) is streamed from its file; a step moves 640 bytes of it"
    )
    assert told in outcome.err
    streamed, resident = (checkpoint.load(path)["weights_hash"] for path in (Path("s.pt"), digits.student))
    assert streamed == resident


def test_a_cache_fits_a_cpu_where_it_takes_the_allowed_share_of_its_memory(monkeypatch):
    Path("meminfo").write_text("MemTotal: 2000 kB\nMemFree:  10 kB\nMemAvailable:    1000 kB\n")
    monkeypatch.setattr(memory, "HOST_MEMORY", "meminfo")
    assert fits(600 * 1024, CPU)
    assert not fits(600 * 1024 + 1, CPU)


@pytest.mark.parametrize("content", [None, "nothing of the kind\n"])
def test_where_the_system_does_not_say_how_much_memory_there_is_a_cache_fits(monkeypatch, content):
    if content is not None:
        Path("meminfo").write_text(content)
    monkeypatch.setattr(memory, "HOST_MEMORY", "meminfo")
    assert fits(10**18, CPU)


@pytest.mark.parametrize("streamed", [False, True])
def test_a_caches_logits_are_float32_whatever_the_network_computes_in(streamed, monkeypatch):
    """Within bf16 autocast, and where a program lets products of float32 be less exact."""
    found = values("features", N, VIEWS, CLASSES)
    cache = write_cache(Path("logits.h5"), found, store="features")
    monkeypatch.setattr(feeds, "fits", lambda *_: not streamed)
    feed = CachedLogits(cache, np.arange(N), CPU).feed(N)
    batch = Batch(np.arange(N), np.arange(N), np.zeros(N, dtype=np.int64))

    def taken() -> np.ndarray:
        feed.begin([batch])
        feed.load()
        return batch_of(feed, batch)

    plain, precision = taken(), torch.get_float32_matmul_precision()
    np.testing.assert_array_equal(plain, cache.logits(batch.rows, batch.columns))
    try:
        torch.set_float32_matmul_precision("medium")
        with torch.autocast("cpu", torch.bfloat16):
            assert taken().tobytes() == plain.tobytes()
    finally:
        torch.set_float32_matmul_precision(precision)
