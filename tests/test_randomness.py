"""Random choices: against SplitMix64 in plain Python, even, and independent of the company kept."""

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.randomness import (
    NETWORK,
    ORDER,
    STORED_VIEWS,
    VIEW,
    draw_order,
    epoch_choice,
    epoch_order,
    hash64,
    key_hashes,
    network_seed,
    stored_choice,
)

MASK = 2**64 - 1
GOLDEN = 0x9E3779B97F4A7C15
words = st.integers(0, MASK)
seeds = st.integers(0, 2**63 - 1)


def splitmix64(state: int) -> int:
    """The output of SplitMix64 (Steele, Lea, Flood 2014) in state `state`, in unbounded integers."""
    z = (state + GOLDEN) & MASK
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def uniform_hashes(count: int) -> np.ndarray:
    """Hashes of made-up keys, from NumPy's generator and not from the code under test."""
    return np.random.default_rng(7).integers(0, 2**64, count, dtype=np.uint64)


def test_one_word_gives_the_published_outputs_of_splitmix64():
    # Reference outputs of Vigna's splitmix64.c: seed 0, and the first five of seed 1234567.
    assert int(hash64(0)[0]) == 0xE220A8397B1DCDAF
    published = [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
        4593380528125082431,
        16408922859458223821,
    ]
    states = np.array([(1234567 + i * GOLDEN) & MASK for i in range(5)], dtype=np.uint64)
    assert hash64(states).tolist() == published


@given(st.lists(words, min_size=1, max_size=5))
def test_several_words_are_mixed_in_one_after_the_other(question):
    expected = 0
    for word in question:
        expected = splitmix64(expected ^ word)
    assert hash64(*question).tolist() == [expected]


@given(st.lists(words, min_size=1, max_size=6), words, words)
def test_an_array_of_words_is_the_same_as_each_alone(column, before, after):
    together = hash64(before, np.array(column, dtype=np.uint64), after)
    assert together.tolist() == [int(hash64(before, word, after)[0]) for word in column]


def test_words_are_broadcast_against_each_other():
    rows, columns = np.arange(3, dtype=np.uint64)[:, None], np.arange(4, dtype=np.uint64)[None, :]
    table = hash64(5, rows, columns)
    assert table.shape == (3, 4) and table.dtype == np.uint64
    assert int(table[2, 1]) == int(hash64(5, 2, 1)[0])
    assert len(np.unique(table)) == 12


def test_the_order_of_the_words_matters():
    assert hash64(1, 2) != hash64(2, 1)
    assert hash64(0, 1) != hash64(1)


def test_a_keys_hash_is_the_beginning_of_its_sha256():
    keys = ["apple/a.png", "apple/b.png", "bicyclette/é.png", ""]
    expected = [int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "little") for key in keys]
    hashes = key_hashes(keys)
    assert hashes.dtype == np.uint64 and hashes.tolist() == expected
    assert key_hashes([]).shape == (0,)


def naive_draw_order(seed: int, keys: list[str]) -> list[str]:
    return sorted(
        keys, key=lambda key: hashlib.sha256(str(seed).encode() + b"\x00" + key.encode()).hexdigest()
    )


@given(seeds, st.sets(st.text(max_size=8), max_size=12).map(sorted))
def test_the_draw_order_is_that_of_the_sha256_of_seed_and_key(seed, keys):
    order = draw_order(seed, keys)
    assert [keys[i] for i in order] == naive_draw_order(seed, keys)


@given(seeds, st.sets(st.text(max_size=8), min_size=2, max_size=12).map(sorted), st.data())
def test_the_draw_order_of_a_subset_is_that_of_the_whole_restricted(seed, keys, data):
    subset = sorted(data.draw(st.sets(st.sampled_from(keys), min_size=1)))
    whole = [keys[i] for i in draw_order(seed, keys)]
    assert [subset[i] for i in draw_order(seed, subset)] == [key for key in whole if key in subset]


def test_another_seed_draws_another_order():
    keys = [f"a/{i}" for i in range(50)]
    assert draw_order(0, keys).tolist() != draw_order(1, keys).tolist()


@given(seeds, st.integers(1, 10_000), st.integers(1, 60))
def test_an_epochs_order_visits_every_sample_once(seed, epoch, count):
    order = epoch_order(seed, epoch, uniform_hashes(count))
    assert sorted(order.tolist()) == list(range(count))


@given(seeds, st.integers(1, 10_000), st.permutations(range(20)))
def test_an_epochs_order_goes_by_the_sample_and_not_by_its_row(seed, epoch, permutation):
    hashes = uniform_hashes(20)
    visited = hashes[epoch_order(seed, epoch, hashes)]
    shuffled = hashes[list(permutation)]
    assert visited.tolist() == shuffled[epoch_order(seed, epoch, shuffled)].tolist()


def test_every_epoch_and_every_seed_has_an_order_of_its_own():
    hashes = uniform_hashes(100)
    orders = {tuple(epoch_order(seed, epoch, hashes)) for seed in range(5) for epoch in range(1, 21)}
    assert len(orders) == 100


def test_the_first_place_of_an_epoch_falls_to_every_sample_evenly():
    hashes = uniform_hashes(10)
    firsts = np.bincount([epoch_order(0, epoch, hashes)[0] for epoch in range(1, 2001)], minlength=10)
    assert abs(firsts - 200).max() < 5 * np.sqrt(2000 * 0.1 * 0.9)  # five standard deviations


@given(seeds, st.integers(1, 10_000), st.integers(1, 200), st.data())
def test_a_samples_choice_does_not_depend_on_the_other_samples(seed, epoch, choices, data):
    hashes = uniform_hashes(20)
    chosen = epoch_choice(seed, epoch, hashes, choices)
    rows = data.draw(st.lists(st.integers(0, 19), min_size=1, max_size=20))
    assert epoch_choice(seed, epoch, hashes[rows], choices).tolist() == chosen[rows].tolist()
    assert chosen.dtype == np.int64 and chosen.min() >= 0 and chosen.max() < choices


def test_choices_are_even_over_the_samples_of_an_epoch():
    counts = np.bincount(epoch_choice(3, 1, uniform_hashes(162 * 200), 162), minlength=162)
    assert len(counts) == 162
    assert abs(counts - 200).max() < 5 * np.sqrt(200)


def test_choices_are_even_over_the_epochs_of_a_sample():
    sample = uniform_hashes(1)
    chosen = [int(epoch_choice(0, epoch, sample, 9)[0]) for epoch in range(1, 1801)]
    assert abs(np.bincount(chosen, minlength=9) - 200).max() < 5 * np.sqrt(200)


def test_the_choice_of_a_view_is_not_tied_to_the_order():
    hashes = uniform_hashes(2000)
    place = np.argsort(epoch_order(0, 1, hashes))
    early = place < 1000
    chosen = epoch_choice(0, 1, hashes, 2)
    assert abs(chosen[early].sum() - 500) < 5 * np.sqrt(250)


def test_no_two_purposes_share_a_stream():
    assert len({ORDER, VIEW, STORED_VIEWS, NETWORK}) == 4


def mixed(*question: int) -> int:
    """The hash of several words, by plain SplitMix64."""
    state = 0
    for word in question:
        state = splitmix64(state ^ word)
    return state


@given(seeds, st.integers(1, 10_000), st.integers(0, 10_000), st.integers(1, 60))
def test_every_choice_is_the_hash_of_the_seed_its_purpose_the_epoch_and_the_sample(seed, epoch, step, size):
    """The purposes as numbers: with others, resumed runs and stored views would be other ones."""
    hashes = uniform_hashes(12)
    words = hashes.tolist()
    by_order = sorted(range(12), key=lambda i: mixed(seed, 1, epoch, words[i]))
    assert epoch_order(seed, epoch, hashes).tolist() == by_order
    chosen = [mixed(seed, 2, epoch, word) % size for word in words]
    assert epoch_choice(seed, epoch, hashes, size).tolist() == chosen
    k = min(size, 5)
    finite = [sorted(sorted(range(size), key=lambda i: mixed(seed, 3, word, i))[:k]) for word in words]
    assert stored_choice(seed, hashes, size, k).tolist() == finite
    unbounded = [sorted(mixed(seed, 3, word, i) >> 2 for i in range(k)) for word in words]
    assert stored_choice(seed, hashes, None, k).tolist() == unbounded
    assert network_seed(seed, epoch, step) == mixed(seed, 4, epoch, step) >> 1
    assert network_seed(seed, epoch, step, 3) == mixed(seed, 4, epoch, step, 3) >> 1


def test_every_process_draws_within_a_network_from_a_seed_of_its_own_and_the_first_as_if_alone():
    drawn = [network_seed(7, 2, 5, rank) for rank in range(8)]
    assert len(set(drawn)) == 8 and drawn[0] == network_seed(7, 2, 5)


@given(seeds, st.integers(1, 30), st.data())
def test_stored_views_are_distinct_ascending_and_in_range(seed, size, data):
    k = data.draw(st.integers(1, size))
    views = stored_choice(seed, uniform_hashes(8), size, k)
    assert views.shape == (8, k) and views.dtype == np.int64
    assert views.min() >= 0 and views.max() < size
    assert (np.diff(views, axis=1) > 0).all()


@given(seeds, st.none() | st.integers(5, 200), st.integers(1, 5), st.data())
def test_a_samples_stored_views_do_not_depend_on_the_other_samples(seed, size, k, data):
    hashes = uniform_hashes(12)
    views = stored_choice(seed, hashes, size, k)
    rows = data.draw(st.lists(st.integers(0, 11), min_size=1, max_size=12))
    assert stored_choice(seed, hashes[rows], size, k).tolist() == views[rows].tolist()


@given(seeds, st.none() | st.just(162), st.integers(1, 20))
def test_fewer_stored_views_are_part_of_more(seed, size, k):
    hashes = uniform_hashes(4)
    fewer, more = stored_choice(seed, hashes, size, k), stored_choice(seed, hashes, size, k + 5)
    for few, many in zip(fewer, more, strict=True):
        assert set(few) < set(many)


def test_all_of_a_finite_space_are_stored_in_order():
    assert stored_choice(1, uniform_hashes(3), 162, 162).tolist() == [list(range(162))] * 3


def test_stored_views_of_an_unbounded_space_are_distinct_and_fit_in_int64():
    views = stored_choice(0, uniform_hashes(1000), None, 50)
    assert views.shape == (1000, 50) and views.dtype == np.int64
    assert views.min() >= 0 and views.max() < 2**62
    assert views.max() > 2**61  # all 62 bits are used
    assert len(np.unique(views)) == 50_000
    assert (np.diff(views, axis=1) > 0).all()


@pytest.mark.parametrize("size", [None, 162])
def test_stored_views_depend_on_seed_and_sample(size):
    hashes = uniform_hashes(2)
    views = [tuple(row) for seed in (0, 1) for row in stored_choice(seed, hashes, size, 10)]
    assert len(set(views)) == 4


def test_every_view_is_stored_evenly_over_the_samples():
    counts = np.bincount(stored_choice(0, uniform_hashes(4000), 20, 5).ravel(), minlength=20)
    assert abs(counts - 1000).max() < 5 * np.sqrt(4000 * 0.25 * 0.75)
