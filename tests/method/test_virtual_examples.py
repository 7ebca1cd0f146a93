"""Virtual examples against a naive float64 reference."""

import math
import signal
import subprocess
import sys
import time
from pathlib import Path

import caches
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.cache.encodings.registry import ENCODINGS
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import CacheError
from dive.method import curves, tally
from dive.method.curves import (
    DEFAULT_POWERS,
    DEFAULT_TAUS,
    Curves,
    Pair,
    effective_temperature,
    examine,
)
from dive.method.virtual_examples import Distribution, virtual_examples

PATH = Path("small.h5")


def naive(logits: np.ndarray, tau: float, power: float) -> tuple[list[float], float]:
    """Virtual examples and information of logits (rows, C), as the paper writes them, in float64.

    softmax at τ, to the power p, normalised again; row by row and class by class.
    """
    rows, classes = logits.shape
    sums, information = [0.0] * classes, 0.0
    for row in logits.astype(float):
        top = max(row)
        at_tau = [math.exp((z - top) / tau) for z in row]
        total = math.fsum(at_tau)
        powered = [(e / total) ** power for e in at_tau]
        total = math.fsum(powered)
        target = [e / total for e in powered]
        sums = [s + t for s, t in zip(sums, target, strict=True)]
        entropy = -math.fsum(t * math.log(t) for t in target if t > 0)
        information += math.log(classes) - entropy
    return sums, information / rows


def by_pair(pairs: list[Pair]) -> dict[tuple[float, float], Distribution]:
    return {(pair.tau, pair.power): pair.distribution for pair in pairs}


@pytest.mark.parametrize("store", caches.STORES)
def test_virtual_examples_and_information_agree_with_a_naive_loop(store):
    cache = caches.write_cache(PATH, caches.values(store, 23, 3, 7, scale=4), store=store)
    logits = caches.decoded(PATH)
    pairs = examine(Curves(cache), (0.5, 1, 3, 20), (0.5, 1))
    assert len(pairs) == 8
    for pair in pairs:
        sums, information = naive(logits.reshape(-1, 7), pair.tau, pair.power)
        np.testing.assert_allclose(pair.distribution.per_class, np.array(sums) / 3, rtol=6e-6)
        assert pair.distribution.information == pytest.approx(information, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [1, 15, 16, 17, 31, 32, 33])
@pytest.mark.parametrize("store", caches.STORES)
def test_chunks_and_blocks_change_nothing_at_their_boundaries(monkeypatch, rows, store):
    from dive.cache import writer

    monkeypatch.setattr(tally, "CHUNK_BYTES", 4 * 5 * 16)  # sixteen rows of five classes
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 32)
    values = caches.values(store, rows, 1, 5)
    found = virtual_examples(caches.write_cache(PATH, values, store=store), [1.0, 6.0])
    logits = caches.decoded(PATH)
    for temperature, distribution in zip((1.0, 6.0), found, strict=True):
        sums, information = naive(logits[:, 0], temperature, 1)
        np.testing.assert_allclose(distribution.per_class, sums, rtol=6e-6)
        assert distribution.information == pytest.approx(information, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [63, 64, 65, 130])
@pytest.mark.parametrize("chunk", [7, 16, 100])
def test_products_with_a_head_change_nothing_at_their_boundaries(monkeypatch, rows, chunk):
    """64 rows are decoded at once and worked on in chunks."""
    from dive.cache.encodings import codec

    monkeypatch.setattr(tally, "CHUNK_BYTES", 4 * 5 * chunk)
    monkeypatch.setattr(codec, "_PRODUCT_BYTES", 1)
    cache = caches.write_cache(PATH, caches.values("features", rows, 1, 5), store="features")
    assert cache.codec.decoder(1.0).rows == 64
    (found,) = virtual_examples(cache, [2.0])
    sums, information = naive(caches.decoded(PATH)[:, 0], 2.0, 1)
    np.testing.assert_allclose(found.per_class, sums, rtol=6e-6)
    assert found.information == pytest.approx(information, rel=1e-5, abs=1e-6)


@pytest.mark.parametrize("rows", [64, 65, 66, 131])
def test_chunks_of_the_real_size_change_nothing_at_their_boundaries(rows):
    classes = 3000
    assert tally.CHUNK_BYTES // (4 * classes) == 65
    logits = caches.random_logits(rows, 1, classes).astype(np.float16)
    (found,) = virtual_examples(caches.write_cache(PATH, logits), [3.0])
    z = logits[:, 0].astype(np.float64) / 3
    e = np.exp(z - z.max(axis=1, keepdims=True))
    np.testing.assert_allclose(found.per_class, (e / e.sum(axis=1, keepdims=True)).sum(axis=0), rtol=1e-5)


@pytest.mark.parametrize("clean", [False, True])
def test_forked_workers_say_the_same_as_threads(clean):
    """With torch loaded, as here, the pass runs on threads; `dive tune-tau` is without, and forks."""
    cache = caches.write_cache(PATH, caches.random_logits(50, 100, 7, scale=6))
    program = (
        "import sys; from pathlib import Path; from dive.method import virtual_examples as ve\n"
        "from dive.cache.reader import LogitCache\n"
        f"for d in ve.virtual_examples(LogitCache(Path('small.h5')), [1.0, 6.0], {clean}):\n"
        "    print(d.information, *d.per_class)\n"
        "assert 'torch' not in sys.modules"
    )
    printed = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    here = virtual_examples(cache, [1.0, 6.0], clean)
    assert len(list(cache.blocks())) > 1
    assert [list(map(float, line.split())) for line in printed.stdout.splitlines()] == [
        [d.information, *d.per_class] for d in here
    ]


def test_a_corrupt_block_is_named_by_a_forked_worker_too():
    caches.write_cache(PATH, caches.random_logits(50, 100, 7, scale=6))
    with h5py.File(PATH) as file:
        logits = file["logits"].id
        end = logits.get_offset() + logits.get_storage_size()
    content = bytearray(PATH.read_bytes())
    content[end - 10] ^= 1
    PATH.write_bytes(content)
    outcome = subprocess.run(
        [sys.executable, "-m", "dive", "tune-tau", "--cache", PATH], capture_output=True, text=True
    )
    assert (
        outcome.returncode == 1
        and outcome.stderr.count("\n") == 1
        and "corrupt: samples 40 to 49" in outcome.stderr
    )


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_worker_outlives_its_parent(number, tmp_path):
    caches.write_cache(PATH, caches.random_logits(50, 100, 7, scale=6))
    program = (
        "import os, signal, time; from pathlib import Path; from dive.method import virtual_examples as ve\n"
        "from dive.cache.reader import LogitCache\n"
        "def slow(*_):\n"
        "    os.write(1, f'{os.getpid()}\\n'.encode())\n"
        "    time.sleep(0.5)\n"
        "    return 0, 0, None\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        "ve._tally_block = slow\n"
        "ve.virtual_examples(LogitCache(Path('small.h5')), [1.0])"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as parent:
        workers = {int(parent.stdout.readline()) for _ in range(2)}
        parent.send_signal(number)
        parent.wait(20)
    deadline = time.monotonic() + 10
    while any(Path(f"/proc/{pid}").exists() for pid in workers) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert parent.pid not in workers
    assert not any(Path(f"/proc/{pid}").exists() for pid in workers)


def test_every_finite_float16_becomes_its_float32_in_bits():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    halves = halves[np.isfinite(halves)]
    found = np.empty(len(halves), np.float32)
    bound = ENCODINGS["float16"].numbers.widen(halves, found, np.log2(np.e))
    np.testing.assert_array_equal(found, halves.astype(np.float32) * np.float32(np.log2(np.e)))
    assert bound == 65504


def test_the_magnitude_of_every_float16_is_its_absolute_value():
    halves = np.arange(2**16, dtype=np.uint16).view(np.float16)
    out = np.empty(2, np.float32)
    widen = ENCODINGS["float16"].numbers.widen
    found = np.array([widen(np.array([half, 0], np.float16), out, 1.0) for half in halves])
    finite = np.isfinite(halves)
    np.testing.assert_array_equal(found[finite], np.abs(halves[finite]).astype(np.float64))
    assert not np.isfinite(found[~finite]).any()


@pytest.mark.parametrize(
    "temperatures",
    [
        [1.0, 2.0, 3.0, 6.0, 12.0, 20.0, 40.0],  # the default grid
        [0.25 * 2**k for k in range(9)],
        [3.0**k for k in range(5)],
        [40.0, 1.0, 6.0, 2.0, 18.0, 9.0],  # in no order
        [1.0, 1.1, 2.2, 3.3],
    ],
)
def test_temperatures_got_from_each_other_are_as_right_as_those_alone(temperatures):
    logits = caches.random_logits(40, 1, 9, scale=6)
    found = virtual_examples(caches.write_cache(PATH, logits, store="float32"), temperatures)
    assert [d.temperature for d in found] == temperatures
    for distribution in found:
        sums, information = naive(logits[:, 0], distribution.temperature, 1)
        np.testing.assert_allclose(distribution.per_class, sums, rtol=1e-5)
        assert distribution.information == pytest.approx(information, rel=1e-5, abs=1e-5)


def test_a_class_wider_than_a_chunk_is_taken_row_by_row(monkeypatch):
    monkeypatch.setattr(tally, "CHUNK_BYTES", 8)
    logits = caches.random_logits(5, 2, 6)
    (found,) = virtual_examples(caches.write_cache(PATH, logits, store="float32"), [2.0])
    np.testing.assert_allclose(
        found.per_class, np.array(naive(logits.reshape(-1, 6), 2, 1)[0]) / 2, rtol=2e-6
    )


@given(
    st.integers(1, 12),
    st.integers(1, 4),
    st.integers(2, 6),
    st.integers(0, 1000),
    st.floats(0.01, 1e6),
    st.sampled_from(caches.STORES),
)
def test_virtual_examples_sum_to_the_number_of_images_at_every_temperature(n, v, c, seed, temperature, store):
    PATH.unlink(missing_ok=True)
    cache = caches.write_cache(PATH, caches.values(store, n, v, c, seed, scale=20), store=store)
    (found,) = virtual_examples(cache, [temperature])
    assert found.per_class.sum() == pytest.approx(n, rel=1e-5)
    assert (found.per_class >= 0).all()
    assert -1e-5 <= found.information <= math.log(c) + 1e-5


def test_at_an_infinite_temperature_every_class_gets_the_same_and_no_information_is_left():
    cache = caches.write_cache(PATH, caches.random_logits(30, 2, 6, scale=20))
    (found,) = virtual_examples(cache, [1e9])
    np.testing.assert_allclose(found.per_class, 30 / 6, rtol=1e-6)
    assert found.information == pytest.approx(0, abs=1e-6)


def test_at_a_small_temperature_every_image_is_one_example_of_its_largest_logit():
    logits = np.round(caches.random_logits(30, 1, 6, scale=8))
    logits[np.arange(30), 0, np.arange(30) % 5] = 100
    cache = caches.write_cache(PATH, logits)
    (found,) = virtual_examples(cache, [0.05])
    np.testing.assert_array_equal(found.per_class, [6, 6, 6, 6, 6, 0])
    assert found.information == pytest.approx(math.log(6), rel=1e-6)


def test_logits_at_the_ends_of_float16_do_not_overflow():
    logits = np.array([[[65504.0, -65504.0, 65504.0]], [[-65504.0, 65504.0, -65504.0]]])
    (found,) = virtual_examples(caches.write_cache(PATH, logits, labels=[0, 1]), [1.0])
    np.testing.assert_array_equal(found.per_class, [0.5, 1.0, 0.5])
    assert found.information == pytest.approx(math.log(3) - math.log(2) / 2, rel=1e-6)


@pytest.mark.parametrize("temperature", [1e-6, 1e6, 1e12])
def test_the_ends_of_the_range_of_temperatures_make_no_nan_and_no_warning(temperature):
    cache = caches.write_cache(PATH, caches.random_logits(10, 2, 4))
    (found,) = virtual_examples(cache, [temperature])
    assert found.per_class.sum() == pytest.approx(10, rel=1e-5)
    assert math.isfinite(found.information)


def test_the_clean_view_alone_is_used_where_it_is_asked_for_wherever_it_is_stored():
    logits = caches.random_logits(9, 4, 5)
    views = np.array([np.random.default_rng(i).permutation(4) for i in range(9)], dtype=np.int32)
    cache = caches.write_cache(PATH, logits, views=views, clean_id=2, store="float32")
    clean = np.array([logits[i, list(views[i]).index(2)] for i in range(9)])
    found = by_pair(examine(Curves(cache, clean=True), [3], [0.5, 1]))
    for power in (0.5, 1):
        sums, information = naive(clean, 3, power)
        np.testing.assert_allclose(found[3, power].per_class, sums, rtol=2e-6)
        assert found[3, power].information == pytest.approx(information, rel=1e-5)


def test_a_cache_that_lacks_the_clean_view_of_a_single_image_refuses_to_give_it():
    views = np.array([[1, 2], [2, 3], [1, 3]], dtype=np.int32)
    cache = caches.write_cache(PATH, caches.random_logits(3, 2, 3), views=views, clean_id=2)
    with pytest.raises(CacheError, match="does not hold the clean view of every sample"):
        examine(Curves(cache, clean=True), [1], [1])
    assert len(examine(Curves(cache), [1], [1])) == 1


def test_pairs_of_equal_effective_temperature_are_computed_once(monkeypatch):
    asked = []
    original = curves.virtual_examples

    def spy(cache, temperatures, *more):
        asked.extend(temperatures)
        return original(cache, temperatures, *more)

    monkeypatch.setattr(curves, "virtual_examples", spy)
    cache = caches.write_cache(PATH, caches.random_logits(5, 1, 3))
    found = by_pair(examine(Curves(cache), [1, 3, 6, 0.3, 3], [0.5, 1, 0.1]))
    assert len(found) == 12
    # 0.3/0.1 and 3/1 are one, and so are 3/0.5 and 6/1
    np.testing.assert_allclose(asked, [0.3, 0.6, 1, 2, 3, 6, 10, 12, 30, 60], rtol=1e-9)
    assert found[3, 0.5] is found[6, 1]
    assert found[0.3, 0.1] is found[3, 1]  # 0.3/0.1 is 2.9999999999999996 in floating point


def test_pairs_come_by_power_and_then_temperature_each_once():
    cache = caches.write_cache(PATH, caches.random_logits(5, 1, 3))
    pairs = examine(Curves(cache), [6, 1, 3, 1], [1, 0.5])
    assert [(pair.power, pair.tau) for pair in pairs] == [
        (0.5, 1),
        (0.5, 3),
        (0.5, 6),
        (1, 1),
        (1, 3),
        (1, 6),
    ]


def test_the_defaults_are_the_papers_grid():
    assert DEFAULT_TAUS == (1, 3, 6, 20) and DEFAULT_POWERS == (0.5, 1)


@given(st.floats(0.01, 100), st.sampled_from([0.1, 0.25, 0.5, 0.7, 1.0]))
def test_the_effective_temperature_is_the_ratio(tau, power):
    assert effective_temperature(tau, power) == pytest.approx(tau / power, rel=1e-11)


def test_a_corrupt_block_is_refused_and_not_summed_up():
    caches.write_cache(PATH, caches.random_logits(5, 2, 4))
    content = bytearray(PATH.read_bytes())
    offset = caches.offset(PATH)
    content[offset + 17] ^= 1
    PATH.write_bytes(content)
    with pytest.raises(CacheError, match="small.h5 is corrupt"):
        examine(Curves(LogitCache(PATH)), [1], [1])


def test_shot_means_are_over_the_classes_of_each_group():
    counts = np.array([500, 101, 100, 20, 19, 1])
    values = np.array([10.0, 20.0, 1.0, 2.0, 7.0, 9.0])
    assert shot_means(values, counts) == {"many": 15.0, "medium": 1.5, "few": 8.0}
    assert shot_means(values[:4], counts[:4]) == {"many": 15.0, "medium": 1.5, "few": None}


def long_tailed_cache(logits_of: dict[int, list[float]], counts: list[int]) -> LogitCache:
    """A cache in which every image of a class has the same logits."""
    labels = np.repeat(np.arange(len(counts)), counts)
    logits = np.array([logits_of[label] for label in labels])[:, None]
    return caches.write_cache(PATH, logits, labels=labels)


def test_the_distribution_of_a_cache_is_averaged_within_its_shots():
    counts = [120, 50, 10, 10]
    identity = {label: [9.0 * (label == c) for c in range(4)] for label in range(4)}
    cache = long_tailed_cache(identity, counts)
    (found,) = virtual_examples(cache, [0.1])
    assert found.shots == pytest.approx({"many": 120, "medium": 50, "few": 10})
    assert found.ratio == pytest.approx(12)


def test_the_ratio_of_a_teacher_that_never_names_a_few_shot_class_is_no_traceback():
    counts = [120, 50, 10]
    cache = long_tailed_cache({label: [9.0, 8.0, -9.0] for label in range(3)}, counts)
    (found,) = virtual_examples(cache, [0.1])
    assert found.shots["few"] == 0
    assert found.ratio == math.inf


SAMPLED = [0] * 110 + [1] * 40 + [2] * 25 + [3] * 5  # one class of many, two of medium and one of few


def sampled(store: str = "float32") -> tuple[LogitCache, np.ndarray]:
    """A cache of 180 images in two views, and its logits in float64."""
    values = caches.values(store, 180, 2, 4, scale=2)
    return caches.write_cache(PATH, values, store=store, labels=SAMPLED), caches.decoded(PATH)


@pytest.mark.parametrize("store", ["float32", "int8", "features"])
@pytest.mark.parametrize("clean", [False, True])
def test_a_sample_is_estimated_from_as_simple_random_sampling_says(monkeypatch, store, clean):
    from dive.cache import writer

    monkeypatch.setattr(writer, "BLOCK_IMAGES", 14)
    cache, logits = sampled(store)
    found = virtual_examples(cache, [1.0, 3.0], clean, sample=50, seed=7)
    drawn = np.sort(np.random.default_rng(7).choice(180, 50, replace=False))
    for temperature, distribution in zip((1.0, 3.0), found, strict=True):
        e = np.exp(logits[drawn, :1] / temperature if clean else logits[drawn] / temperature)
        t = e / e.sum(axis=2, keepdims=True)
        of_images = t.mean(axis=1)  # (50, C)
        np.testing.assert_allclose(distribution.per_class, 180 / 50 * of_images.sum(axis=0), rtol=1e-5)
        entropy = math.log(4) + (t * np.log(t)).sum(axis=2).mean(axis=1)
        assert distribution.information == pytest.approx(entropy.mean(), rel=1e-4)
        finite = math.sqrt((1 - 50 / 180) / 50)
        lead = of_images[:, 3] - of_images[:, 0]  # of few over many
        assert distribution.difference_error == pytest.approx(180 * lead.std(ddof=1) * finite, rel=1e-4)
        for shot, classes in (("many", [0]), ("medium", [1, 2]), ("few", [3])):
            each = of_images[:, classes].mean(axis=1)
            assert distribution.shots[shot] == pytest.approx(180 * each.mean(), rel=1e-5)
            assert distribution.errors[shot] == pytest.approx(180 * each.std(ddof=1) * finite, rel=1e-4)
        assert distribution.errors["information"] == pytest.approx(entropy.std(ddof=1) * finite, rel=1e-3)


def test_two_standard_errors_hold_the_truth_about_as_often_as_they_should():
    cache, _ = sampled()
    (true,) = virtual_examples(cache, [1.0])
    inside = []
    for seed in range(60):
        (found,) = virtual_examples(cache, [1.0], sample=60, seed=seed)
        inside += [abs(found.shots[s] - true.shots[s]) <= 2 * found.errors[s] for s in found.shots]
    assert 0.88 < np.mean(inside) < 0.995


def test_a_sample_of_all_is_all_and_has_no_errors_and_one_of_one_is_refused():
    cache, _ = sampled()
    (whole,), (all_of_it,) = (virtual_examples(cache, [2.0], sample=count) for count in (None, 180))
    np.testing.assert_array_equal(whole.per_class, all_of_it.per_class)
    assert whole.errors is None and all_of_it.errors is None
    with pytest.raises(ValueError, match="at least two images"):
        virtual_examples(cache, [2.0], sample=1)


def test_a_shot_without_classes_has_no_error():
    cache = caches.write_cache(PATH, caches.random_logits(30, 1, 2), labels=[0] * 25 + [1] * 5)
    (found,) = virtual_examples(cache, [1.0], sample=9)
    assert found.shots["many"] is None and found.errors["many"] is None
    assert found.errors["few"] > 0


def test_only_the_blocks_of_a_sample_are_read(monkeypatch):
    from dive.cache import writer

    monkeypatch.setattr(writer, "BLOCK_IMAGES", 6)  # three images a block
    cache, _ = sampled()
    drawn = np.random.default_rng(0).choice(180, 10, replace=False)
    virtual_examples(cache, [1.0], sample=10)
    assert set(np.flatnonzero(cache._checked)) == set(drawn // 3)
