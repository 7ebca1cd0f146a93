"""The learning rate as a pure function of the step, and the one place where epochs become steps."""

import math

from dive.recipe import Optimizer, Schedule


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """Steps of an epoch; the last, smaller batch is kept."""
    return math.ceil(samples / batch_size)


def learning_rate(step: int, per_epoch: int, optimizer: Optimizer, schedule: Schedule) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then ×gamma from each milestone."""
    warmup = schedule.warmup_epochs * per_epoch
    rate = optimizer.lr * min(1.0, (step + 1) / warmup) if warmup else optimizer.lr
    passed = sum(step >= milestone * per_epoch for milestone in schedule.milestones)
    return rate * schedule.gamma**passed
