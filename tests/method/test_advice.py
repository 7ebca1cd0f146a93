"""The advice: the grid's rule on means by hand, the crossing's and its fallback on small caches."""

import math
from dataclasses import replace
from pathlib import Path

import caches
import numpy as np
import pytest

from dive.method.advice import INFORMATION, RULES, by_crossing, by_grid, recommend
from dive.method.crossing import find_crossing, search
from dive.method.curves import Curves, examine
from dive.method.virtual_examples import Distribution, virtual_examples

PATH = Path("small.h5")


def of_means(
    rows: dict[float, tuple[float | None, float | None, float | None]],
) -> list[Distribution]:
    """Distributions with given means of many, medium and few by temperature."""
    shots = ("many", "medium", "few")
    return [
        Distribution(t, np.zeros(3), dict(zip(shots, means, strict=True)), 0) for t, means in rows.items()
    ]


PAPER = {1.0: (237, 52, 22), 3.0: (169, 70, 81), 6.0: (112, 92, 123), 20.0: (103, 105, 119)}


@pytest.mark.parametrize("grid", [(1, 3, 6), (1, 3, 6, 20), (20, 6, 3, 1), (3, 6)])
def test_the_papers_teacher_is_advised_the_papers_temperature_and_power(grid):
    advice = by_grid(of_means({t: PAPER[t] for t in map(float, grid)}))
    assert (advice.tau, advice.power) == (3.0, 0.5)
    assert "τ = 3, p = 0.5" in advice.sentence and "τ/p = 6" in advice.sentence
    assert advice.sentence.endswith(".") and "\n" not in advice.sentence


def test_the_advice_may_be_off_the_grid():
    advice = by_grid(of_means({1.0: (237, 52, 22), 5.0: (112, 92, 123)}))
    assert (advice.tau, advice.power) == (2.5, 0.5)


def test_equal_means_are_no_crossing():
    advice = by_grid(of_means({1.0: (5, 4, 3), 2.0: (4, 4, 4), 3.0: (3.9, 4, 4.1)}))
    assert advice.tau == 1.5


def test_the_smallest_temperature_counts_where_the_means_cross_more_than_once():
    advice = by_grid(of_means({1.0: (5, 4, 3), 2.0: (3, 4, 5), 3.0: (5, 4, 3), 4.0: (3, 4, 5)}))
    assert (advice.tau, advice.power) == (1.0, 0.5)


def test_without_a_crossing_there_is_no_advice_but_larger_temperatures_to_try():
    advice = by_grid(of_means({1.0: PAPER[1.0], 3.0: PAPER[3.0]}))
    assert advice.tau is None and advice.power is None
    assert "τ/p = 3, the largest on the grid" in advice.sentence and "--tau 3 6 12" in advice.sentence


def test_a_crossing_at_the_smallest_temperature_is_no_advice_but_smaller_ones_to_try():
    advice = by_grid(of_means({6.0: PAPER[6.0], 20.0: PAPER[20.0]}))
    assert advice.tau is None and advice.power is None
    assert "already at τ/p = 6, the smallest on the grid" in advice.sentence
    assert "--tau 1.5 3 6" in advice.sentence


def test_where_few_has_no_class_the_rarest_group_there_is_stands_in():
    rows = {1.0: (237, 52, None), 3.0: (169, 70, None), 6.0: (91, 92, None)}
    advice = by_grid(of_means(rows))
    assert (advice.tau, advice.power) == (3.0, 0.5)
    assert "medium-shot" in advice.sentence and "few" not in advice.sentence


def test_where_many_has_no_class_the_most_frequent_group_there_is_stands_in():
    rows = {1.0: (None, 52, 20), 3.0: (None, 40, 41)}
    advice = by_grid(of_means(rows))
    assert (advice.tau, advice.power) == (1.5, 0.5)
    assert "many" not in advice.sentence


def test_one_temperature_alone_is_no_advice_whichever_group_leads():
    for temperature in PAPER:
        advice = by_grid(of_means({temperature: PAPER[temperature]}))
        assert advice.tau is None and advice.power is None
        assert f"τ/p = {temperature:g}, the " in advice.sentence


def test_one_group_alone_has_nothing_to_compare_and_says_so():
    advice = by_grid(of_means({1.0: (None, None, 3), 6.0: (None, None, 4)}))
    assert advice.tau is None and advice.power is None
    assert "few-shot" in advice.sentence


def test_the_advice_drawn_from_a_cache_is_the_smallest_temperature_at_which_few_exceeds_many():
    counts = [120, 50, 10, 10]
    rng = np.random.default_rng(3)
    labels = np.repeat(np.arange(4), counts)
    logits = rng.standard_normal((190, 2, 4)) * 2 + 9 * np.eye(4)[labels][:, None] + [0, 0, 6, 6]
    logits = logits.astype(np.float16)
    cache = caches.write_cache(PATH, logits, labels=labels)
    taus = (1, 2, 4, 8, 16, 32)
    crossed = []
    for tau in taus:
        z = logits.reshape(-1, 4).astype(float) / tau
        sums = (np.exp(z) / np.exp(z).sum(axis=1, keepdims=True)).sum(axis=0)
        if (sums[2] + sums[3]) / 2 > sums[0]:
            crossed.append(tau)
    assert 1 not in crossed and crossed
    advice = by_grid([pair.distribution for pair in examine(Curves(cache), taus, [1])])
    assert (advice.tau, advice.power) == (crossed[0] / 2, 0.5)


def information(strength: float, temperature: float) -> float:
    """log 2 − H of two classes whose logits differ by `strength`, at a temperature."""
    odds = math.exp(-strength / temperature)  # of the other class
    return math.log(2) - math.log1p(odds) - odds * strength / temperature / (1 + odds)


def fifth(strength: float) -> float:
    """The temperature at which a fifth of the information at 1 is kept, by bisection."""
    low, high = 1.0, 1e6
    for _ in range(200):
        middle = math.sqrt(low * high)
        kept = information(strength, middle) > information(strength, 1) / 5
        low, high = (middle, high) if kept else (low, middle)
    return low


def test_the_crossing_is_halved_at_half_the_power():
    # few·tanh(12/2T) = many·tanh(6/2T): with x = tanh(3/T), 1 + x² = 140/120
    ratio = 3 / math.atanh(math.sqrt(1 / 6))
    advice = recommend(caches.of_two_classes(PATH, [(120, -6.0), (70, 12.0)]))
    assert advice.tau == pytest.approx(ratio / 2, rel=6e-4) and advice.tau == float(f"{advice.tau:.4g}")
    assert (advice.power, advice.rule) == (0.5, "crossing")
    assert f"overtake many-shot ones at τ/p = {ratio:.3g}" in advice.reason
    assert advice.sentence.startswith(f"Take τ = {advice.tau:g}, p = 0.5 (rule crossing): ")


@pytest.mark.parametrize("strength", [2.0, 40.0, 3000.0])
@pytest.mark.parametrize(
    ("counts", "reason"),
    [
        ((140, 10), "do not exceed many-shot ones at any τ/p from 0.25 to "),
        ((110, 40), "no class is few-shot (fewer than 20 images), so the crossing says nothing"),
        ((90, 10), "no class is many-shot (more than 100 images), so the crossing says nothing"),
        (
            (70, 80),
            "no class is many-shot (more than 100 images) and none few-shot (fewer than 20 images); "
            "all are medium-shot",
        ),
        ((130, 120), "no class is few-shot (fewer than 20 images); all are many-shot"),
    ],
)
def test_without_a_crossing_the_flattest_targets_that_keep_a_fifth_are_recommended(strength, counts, reason):
    advice = recommend(caches.of_two_classes(PATH, [(sum(counts), -strength)], counts))
    assert advice.tau == pytest.approx(fifth(strength) / 2, rel=1e-3)
    assert (advice.power, advice.rule) == (0.5, INFORMATION) and "(fallback)" in advice.sentence
    assert advice.reason.startswith(reason) or reason in advice.reason
    assert "keep 20% of the information at τ/p = 1" in advice.reason


def test_a_crossing_of_all_but_uniform_targets_is_told_and_not_recommended():
    """At a large T 100 images of strength 56.1 weigh a little more than 140 of strength 40."""
    cache = caches.of_two_classes(PATH, [(140, -40.0), (10, 0.0), (100, 56.1)])
    ratio = find_crossing(cache).ratio
    advice = recommend(cache)
    plain, there = virtual_examples(cache, [1.0, ratio])
    assert there.information < 0.02 * plain.information
    assert advice.rule == INFORMATION and 2 * advice.tau < ratio
    assert f"overtake many-shot ones at τ/p = {ratio:.4g}, where the targets keep only " in advice.reason
    (kept,) = virtual_examples(cache, [2 * advice.tau])
    assert kept.information == pytest.approx(0.2 * plain.information, rel=5e-3)


@pytest.mark.parametrize(
    ("share", "told"), [(0.0123, "only 1.2%"), (6e-4, "only 0.1%"), (4e-4, "less than 0.1%")]
)
def test_a_small_share_is_told_in_a_tenth_of_a_percent(share, told):
    cache = caches.of_two_classes(PATH, [(140, -40.0), (10, 0.0), (100, 56.1)])
    curves = Curves(cache)
    found, (plain,) = search(curves), curves.at([1.0])
    there = replace(found.crossing.distribution, information=share * plain.information)
    known = replace(found, crossing=replace(found.crossing, distribution=there))
    assert f"the targets keep {told} of the information at" in by_crossing(curves, known).reason


@pytest.mark.parametrize(("share", "rule"), [(0.0199, INFORMATION), (0.0201, "crossing")])
def test_a_crossing_is_recommended_from_two_percent_of_the_information_on(share, rule):
    curves = Curves(caches.of_two_classes(PATH, [(120, -6.0), (70, 12.0)]))
    found, (plain,) = search(curves), curves.at([1.0])
    there = replace(found.crossing.distribution, information=share * plain.information)
    known = replace(found, crossing=replace(found.crossing, distribution=there))
    assert by_crossing(curves, known).rule == rule


def test_of_logits_that_no_temperature_softens_the_largest_one_is_recommended():
    advice = recommend(caches.of_two_classes(PATH, [(150, -1e8)]))
    largest = max(0.25 * 2**k for k in range(40) if 0.25 * 2**k <= 1e6)
    assert (advice.tau, advice.rule) == (float(f"{largest / 2:.4g}"), INFORMATION)


def test_the_advice_is_of_the_views_and_the_sample_that_are_asked_for():
    rng = np.random.default_rng(0)
    labels = np.repeat((0, 1), (190, 10))
    strengths = np.concatenate([-rng.gamma(9, 0.7, (115, 2)), rng.gamma(9, 1.4, (85, 2))])
    strengths[:, 1] *= 3  # the second view is sharper; the first is the clean one
    logits = np.stack([np.maximum(-strengths, 0), np.maximum(strengths, 0)], axis=2).astype(np.float32)
    cache = caches.write_cache(PATH, logits, labels=labels, store="float32")
    found = []
    for asked in ({}, {"clean": True}, {"sample": 120}, {"sample": 120, "seed": 1}):
        advice = recommend(cache, **asked)
        assert advice.rule == "crossing"
        whole = {"clean": False, "sample": None, "seed": 0} | asked
        assert advice.tau == pytest.approx(find_crossing(cache, **whole).ratio / 2, rel=6e-4)
        found.append(advice.tau)
    assert len(set(found)) == 4


def test_a_teacher_that_favours_few_shot_classes_from_the_start_is_told_so():
    advice = recommend(caches.of_two_classes(PATH, [(150, 8.0)]))
    assert advice.tau == pytest.approx(fifth(8.0) / 2, rel=1e-3) and advice.rule == INFORMATION
    assert "few-shot classes exceed many-shot ones already at τ/p = " in advice.reason


def test_a_teacher_that_tells_no_classes_apart_is_advised_the_papers_pair():
    advice = recommend(caches.of_two_classes(PATH, [(150, 0.0)]))
    assert (advice.tau, advice.power, advice.rule) == (3.0, 0.5, INFORMATION)
    assert "tells no classes apart" in advice.reason


@pytest.mark.parametrize("logit", [5.5, 40.0])
@pytest.mark.parametrize("classes", [10, 100, 1000])
def test_constant_logits_of_any_size_tell_no_classes_apart(classes, logit):
    labels = np.concatenate([np.zeros(200, int), np.arange(1, classes)])
    constant = np.full((len(labels), 1, classes), logit, np.float32)
    advice = recommend(caches.write_cache(PATH, constant, labels=labels, store="float32"))
    assert (advice.tau, advice.rule) == (3.0, INFORMATION) and "tells no classes apart" in advice.reason


def test_the_first_rule_is_the_default_and_every_rule_says_that_it_is_asked_or_its_fallback():
    from dive.method.crossing import search

    assert next(iter(RULES)) == "crossing"
    curves = Curves(caches.of_two_classes(PATH, [(120, -6.0), (70, 12.0)]))
    grid = curves.at([1.0, 20.0])
    told = {rule: apply(curves, search(curves), grid) for rule, apply in RULES.items()}
    assert {rule: advice.rule for rule, advice in told.items()} == {rule: rule for rule in RULES}
    assert told["grid"].tau == 10 and told["crossing"].tau != 10
