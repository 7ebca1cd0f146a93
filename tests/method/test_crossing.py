"""The crossing against formulas by hand and a dense grid in float64, and searches that find none."""

import math
from pathlib import Path

import caches
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.cache.reader import LogitCache
from dive.data.longtail import shot_groups
from dive.method import crossing as module
from dive.method.crossing import TOLERANCE, find_crossing, search
from dive.method.curves import Curves

PATH = Path("small.h5")
CLOSE = 1.2 * TOLERANCE  # relative; float32 sums have their share


def by_hand(many: int, few: int, strength: float) -> float:
    """Where few·tanh(2s/2T) = many·tanh(s/2T): with x = tanh(s/2T), 1 + x² = 2·few/many."""
    return strength / (2 * math.atanh(math.sqrt(2 * few / many - 1)))


def crossings_of_a_dense_grid(logits: np.ndarray, counts: np.ndarray, grid: np.ndarray) -> list[float]:
    """The temperatures of a grid just past those at which the few-shot mean overtakes, in float64."""
    groups = shot_groups(counts)
    rows = logits.reshape(-1, logits.shape[-1]).astype(np.float64)
    leads = []
    for temperature in grid:
        z = rows / temperature
        e = np.exp(z - z.max(axis=1, keepdims=True))
        sums = (e / e.sum(axis=1, keepdims=True)).sum(axis=0)
        leads.append(sums[groups["few"]].mean() - sums[groups["many"]].mean())
    leads = np.array(leads)
    return grid[1:][(leads[:-1] <= 0) & (leads[1:] > 0)].tolist()


def long_tailed(seed: int, store: str = "float32", views: int = 2) -> LogitCache:
    """A cache of a teacher that knows its images, and leans to the rarer classes among the others."""
    counts = [150, 110, 60, 30, 12, 5, 2]
    rng = np.random.default_rng(seed)
    labels = np.repeat(np.arange(7), counts)
    own = rng.gamma(4, 2, (len(labels), views, 1)) * np.eye(7)[labels][:, None]
    logits = own + rng.standard_normal((len(labels), views, 7)) + np.linspace(0, 5, 7)
    return caches.write_cache(PATH, logits.astype(np.float32), labels=labels, store=store)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("store", ["float16", "float32", "int8"])
def test_the_crossing_is_that_of_a_dense_grid_in_float64(seed, store):
    cache = long_tailed(seed, store)
    grid = np.exp(np.arange(math.log(0.3), math.log(30), 5e-4))
    (expected,) = crossings_of_a_dense_grid(caches.decoded(PATH), cache.class_counts, grid)
    found = find_crossing(cache)
    assert found.ratio == pytest.approx(expected, rel=CLOSE + 5e-4)
    assert found.few == pytest.approx(found.many, rel=1e-3)
    shots = found.distribution.shots
    assert (found.few, found.many) == (shots["few"], shots["many"])


def test_a_search_takes_three_passes_and_what_it_finds_does_not_depend_on_what_was_known_before():
    cache = long_tailed(1)
    plain = Curves(cache)
    ratio = search(plain).crossing.ratio
    assert plain.passes == 3
    more = Curves(cache)
    more.at([1, 3, 5, 6, 20, 100])
    assert search(more).crossing.ratio == pytest.approx(ratio, rel=1e-5)  # rounding alone


def test_within_the_tolerance_of_the_crossing_the_sign_changes():
    """What a search promises, with the pass's own figures."""
    curves = Curves(long_tailed(2))
    ratio = search(curves).crossing.ratio
    before, after = curves.at([ratio * (1 - TOLERANCE), ratio * (1 + TOLERANCE)])
    assert before.shots["few"] <= before.shots["many"] and after.shots["few"] > after.shots["many"]


@given(
    st.floats(-1.5, 3.5),
    st.sampled_from([(110, 60), (120, 70), (150, 140), (200, 110)]),
)
def test_a_crossing_known_by_hand_is_found_wherever_it_lies(exponent, images):
    many, few = images
    strength = 10**exponent
    cache = caches.of_two_classes(PATH, [(many, -strength), (few, 2 * strength)])
    found = find_crossing(cache)
    assert found.ratio == pytest.approx(by_hand(many, few, strength), rel=CLOSE)
    PATH.unlink()


@pytest.mark.parametrize(("strength", "beyond"), [(0.05, "below"), (6.0, None), (400.0, "above")])
def test_a_search_is_carried_on_beyond_its_first_temperatures(strength, beyond):
    curves = Curves(caches.of_two_classes(PATH, [(120, -strength), (70, 2 * strength)]))
    found = search(curves)
    expected = by_hand(120, 70, strength)
    assert found.crossing.ratio == pytest.approx(expected, rel=CLOSE)
    assert (expected < 0.25, expected > 64) == (beyond == "below", beyond == "above")
    assert found.smallest <= expected <= found.largest
    assert curves.passes == 3 + (beyond is not None)


def test_the_first_crossing_from_below_is_taken_and_the_others_are_told():
    """60·tanh(1/2T) + 20·tanh(1000/2T) against 50·tanh(20/2T): up near 1, and down again."""
    cache = caches.of_two_classes(PATH, [(60, -1.0), (20, -1000.0), (50, 20.0)])
    grid = np.exp(np.arange(math.log(0.1), math.log(200), 2e-4))
    lead = 50 * np.tanh(10 / grid) - 60 * np.tanh(0.5 / grid) - 20 * np.tanh(500 / grid)
    up, down = grid[1:][np.diff(np.sign(lead)) != 0]
    found = search(Curves(cache))
    assert found.crossing.ratio == pytest.approx(up, rel=CLOSE + 2e-4)
    assert found.further == pytest.approx([down], rel=0.1)
    assert not found.above


def test_where_few_shot_classes_lead_at_first_the_crossing_is_where_they_overtake_again():
    """One-hot 85 against 75; behind where the 80 of strength 5 are soft; ahead where the 75 are as well."""
    cache = caches.of_two_classes(PATH, [(80, 5.0), (75, -100.0), (5, 10000.0)])
    found = search(Curves(cache))
    grid = np.exp(np.arange(math.log(0.05), math.log(5000), 2e-4))
    lead = 80 * np.tanh(2.5 / grid) + 5 * np.tanh(5000 / grid) - 75 * np.tanh(50 / grid)
    down, up = grid[1:][np.diff(np.sign(lead)) != 0]
    assert found.above
    assert found.crossing.ratio == pytest.approx(up, rel=CLOSE + 2e-4)
    assert found.further == pytest.approx([down], rel=0.2)


@pytest.mark.parametrize(
    ("kinds", "above"),
    [
        ([(150, -3.0)], False),  # never named
        ([(150, 3.0)], True),  # named always
        ([(75, 3.0), (75, -3.0)], False),  # equal at every temperature
        ([(150, 0.0)], False),
    ],
)
def test_curves_that_do_not_cross_have_no_crossing(kinds, above):
    found = search(Curves(caches.of_two_classes(PATH, kinds)))
    assert found.crossing is None and found.further == () and found.absent == ()
    assert found.above == above


@pytest.mark.parametrize(
    ("counts", "absent"),
    [((110, 20), ("few",)), ((50, 10), ("many",)), ((50, 50), ("many", "few")), ((130, 120), ("few",))],
)
def test_where_a_group_has_no_class_there_is_no_crossing_and_it_is_named(counts, absent):
    found = search(Curves(caches.of_two_classes(PATH, [(sum(counts), 1.0)], counts)))
    assert found.crossing is None and found.absent == absent


def test_a_root_is_found_where_its_polynomial_is_useless(monkeypatch):
    """With guesses at an end of the interval, the search divides intervals until they are narrow."""
    monkeypatch.setattr(module, "_guess", lambda curves, height, interval: interval[0] * 1.0001)
    cache = caches.of_two_classes(PATH, [(120, -6.0), (70, 12.0)])
    assert find_crossing(cache).ratio == pytest.approx(by_hand(120, 70, 6.0), rel=CLOSE)


def test_the_standard_error_is_the_spread_of_estimates_over_samples():
    rng = np.random.default_rng(0)
    kinds = [(1, float(-s)) for s in rng.gamma(4, 1.5, 420)] + [
        (1, float(s)) for s in rng.gamma(16, 1.5, 280)
    ]
    cache = caches.of_two_classes(PATH, kinds)
    whole = find_crossing(cache)
    assert whole.error is None
    found = [find_crossing(cache, sample=200, seed=seed) for seed in range(60)]
    estimates = np.array([one.ratio for one in found])
    errors = np.array([one.error for one in found])
    assert np.std(estimates, ddof=1) == pytest.approx(errors.mean(), rel=0.3)  # 60 of them: 9 %
    assert abs(estimates.mean() - whole.ratio) < 0.5 * errors.mean()
    assert find_crossing(cache, sample=700).error is None  # every image


def test_the_standard_error_is_that_of_the_difference_over_its_slope():
    rng = np.random.default_rng(0)
    strengths = [*-rng.gamma(4, 1.5, 420), *rng.gamma(16, 1.5, 280)]
    cache = caches.of_two_classes(PATH, [(1, float(s)) for s in strengths])
    found = find_crossing(cache, sample=200, seed=3)
    drawn = np.random.default_rng(3).choice(700, 200, replace=False)
    s, t = np.array(strengths)[drawn], found.ratio
    # few minus many is 700/200·Σ tanh(s/2T) over the sample
    slope = 700 / 200 * (s / (2 * t**2) / np.cosh(s / (2 * t)) ** 2).sum()
    spread = 700 * np.tanh(s / (2 * t)).std(ddof=1) * math.sqrt((1 - 200 / 700) / 200)
    assert found.error == pytest.approx(spread / abs(slope), rel=0.01)


def test_the_clean_view_alone_has_its_own_crossing():
    cache = long_tailed(3)
    logits = caches.decoded(PATH)[:, :1]
    grid = np.exp(np.arange(math.log(0.3), math.log(30), 5e-4))
    (expected,) = crossings_of_a_dense_grid(logits, cache.class_counts, grid)
    assert find_crossing(cache, clean=True).ratio == pytest.approx(expected, rel=CLOSE + 5e-4)
    assert find_crossing(cache).ratio != pytest.approx(expected, rel=CLOSE + 5e-4)
