"""The learning rate at named steps, and where epochs become steps."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dive.recipe.recipe import Recipe, Schedule, Sgd
from dive.training.schedule import batch_of, epochs_of, learning_rate, parts_of, steps_per_epoch

BBN = Recipe()


def bbn(step: int) -> float:
    return learning_rate(step, 85, BBN.optimizer, BBN.schedule)


def test_an_epoch_at_imbalance_100_has_85_steps():
    assert steps_per_epoch(10_847, 128) == 85


@given(st.integers(1, 100_000), st.integers(1, 1000))
def test_the_last_smaller_batch_is_kept(samples, batch):
    steps = steps_per_epoch(samples, batch)
    assert (steps - 1) * batch < samples <= steps * batch


@given(st.integers(1, 5000), st.integers(1, 1024))
def test_the_parts_of_a_batch_are_as_numpy_divides_an_array(batch, accumulate):
    expected = [len(part) for part in np.array_split(np.arange(batch), accumulate)]
    assert list(parts_of(batch, accumulate)) == [size for size in expected if size]


@given(st.integers(1, 1000), st.integers(1, 100), st.integers(1, 100))
def test_the_parts_of_an_epoch_are_its_samples(samples, batch, accumulate):
    steps = steps_per_epoch(samples, batch)
    batches = [batch_of(step, samples, batch) for step in range(steps)]
    assert batches == [len(range(at, min(at + batch, samples))) for at in range(0, samples, batch)]
    parts = [parts_of(size, accumulate) for size in batches]
    assert sum(map(sum, parts)) == samples
    assert max(map(max, parts)) == max(parts[0])


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.1 / 425),
        (1, 0.2 / 425),
        (84, 0.02),
        (211, 0.1 * 212 / 425),
        (423, 0.1 * 424 / 425),
        (424, 0.1),
        (425, 0.1),
        (120 * 85 - 1, 0.1),
        (120 * 85, 1e-3),
        (160 * 85 - 1, 1e-3),
        (160 * 85, 1e-5),
        (200 * 85 - 1, 1e-5),
    ],
)
def test_the_bbn_rate_at_named_steps(step, rate):
    assert math.isclose(bbn(step), rate, rel_tol=1e-12)


def test_the_bbn_rate_agrees_with_its_formula_at_every_step():
    for step in range(17_000):
        drops = (step >= 10_200) + (step >= 13_600)
        assert math.isclose(bbn(step), 0.1 * min(1, (step + 1) / 425) * 0.01**drops, rel_tol=1e-12)


def test_without_warm_up_the_first_step_has_the_whole_rate():
    schedule = Schedule(epochs=2, warmup_epochs=0, milestones=())
    assert [learning_rate(step, 3, Sgd(lr=0.5), schedule) for step in range(6)] == [0.5] * 6


def test_a_milestone_within_the_warm_up_counts_as_well():
    schedule = Schedule(epochs=4, warmup_epochs=4, milestones=(2,), gamma=0.5)
    rates = [learning_rate(step, 1, Sgd(lr=1.0), schedule) for step in range(4)]
    assert rates == [0.25, 0.5, 0.375, 0.5]


def test_a_gamma_of_zero_stops_at_the_milestone():
    schedule = Schedule(epochs=2, warmup_epochs=0, milestones=(1,), gamma=0.0)
    assert [learning_rate(step, 1, Sgd(lr=1.0), schedule) for step in range(2)] == [1.0, 0.0]


BALMS = Schedule(iterations=13_000, warmup_iterations=800, warmup_from=0.5, decay="cosine", milestones=())


def test_a_length_in_steps_ends_with_the_epoch_of_its_last_step():
    assert epochs_of(BALMS, 22) == 591 and epochs_of(BALMS, 13_000) == 1 and epochs_of(BALMS, 12_999) == 2
    assert epochs_of(BBN.schedule, 22) == 200


@pytest.mark.parametrize(
    ("step", "rate"),
    [
        (0, 0.05 + 0.05 / 800),
        (399, 0.075),
        (799, 0.1),
        (800, 0.1),
        (6900, 0.05),  # half of the way down
        (800 + 12_200 // 4, 0.05 * (1 + math.sqrt(0.5))),
        (13_000, 0.0),
        (13_001, 0.0),
    ],
)
def test_the_cosine_at_named_steps(step, rate):
    assert math.isclose(learning_rate(step, 22, Sgd(), BALMS), rate, rel_tol=1e-12, abs_tol=1e-12)


def test_a_cosine_that_has_no_step_after_its_warm_up_falls_to_nothing_in_one():
    schedule = Schedule(iterations=4, warmup_iterations=4, decay="cosine", milestones=())
    assert epochs_of(schedule, 3) == 2
    rates = [learning_rate(step, 3, Sgd(lr=1.0), schedule) for step in range(6)]
    assert rates == [0.25, 0.5, 0.75, 1.0, 1.0, 0.0]


def test_the_cosine_agrees_with_torchs_after_the_warm_up():
    weight = torch.nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    theirs = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=190)
    schedule = Schedule(epochs=20, warmup_epochs=1, decay="cosine", milestones=())
    for step in range(10, 200):
        assert math.isclose(learning_rate(step, 10, Sgd(), schedule), theirs.get_last_lr()[0], rel_tol=1e-9)
        optimizer.step()
        theirs.step()
