"""The learning rate as a pure function of the step, and the one place where epochs become steps."""

import math

from dive.recipe.training import Optimizer, Schedule


def steps_per_epoch(samples: int, batch_size: int) -> int:
    """The number of steps of an epoch; a last, smaller batch counts."""
    return math.ceil(samples / batch_size)


def batch_of(step: int, samples: int, batch_size: int) -> int:
    """The number of samples in the batch of step `step` (from 0) of an epoch."""
    return min(batch_size, samples - step * batch_size)


def parts_of(batch: int, accumulate: int) -> tuple[int, ...]:
    """The sizes of the parts in which a batch is processed: `accumulate` parts that differ by at most one.

    A batch of fewer samples than that has one part per sample.

    >>> parts_of(128, 3), parts_of(2, 3)
    ((43, 43, 42), (1, 1))
    """
    count = min(accumulate, batch)
    size, larger = divmod(batch, count)
    return (size + 1,) * larger + (size,) * (count - larger)


def share_of(count: int, rank: int, size: int) -> slice:
    """The share of `count` samples that process `rank` of `size` processes: a contiguous run of them.

    The sizes of shares differ by at most one. Earlier shares are the larger ones; the last may be empty.

    >>> [share_of(8, rank, 3) for rank in range(3)]
    [slice(0, 3, None), slice(3, 6, None), slice(6, 8, None)]
    """
    least, larger = divmod(count, size)
    start = rank * least + min(rank, larger)
    return slice(start, start + least + (rank < larger))


def epochs_of(schedule: Schedule, per_epoch: int) -> int:
    """The number of epochs of a run with `per_epoch` steps in each; the last one is always completed."""
    length, _ = schedule.length
    return length if schedule.iterations is None else math.ceil(length / per_epoch)


def learning_rate(step: int, per_epoch: int, optimizer: Optimizer, schedule: Schedule) -> float:
    """The learning rate of step `step` (from 0): linear warm-up, then steps or a cosine.

    The last step of the warm-up has the full rate. The cosine (Loshchilov and Hutter 2017) falls from the
    end of the warm-up to 0 at the end of the last step, and stays there.
    """
    unit = per_epoch if schedule.iterations is None else 1
    total, warmup = (unit * length for length in schedule.length)
    done = min(1.0, (step + 1) / warmup) if warmup else 1.0
    rate = optimizer.lr * (schedule.warmup_from + (1 - schedule.warmup_from) * done)
    if schedule.decay == "cosine":
        share = min(1.0, max(0, step - warmup) / max(1, total - warmup))
        return rate * 0.5 * (1 + math.cos(math.pi * share))
    passed = sum(step >= milestone * per_epoch for milestone in schedule.milestones)
    return rate * schedule.gamma**passed


def rates_of(epoch: int, per_epoch: int, optimizer: Optimizer, schedule: Schedule) -> list[float]:
    """The learning rate of each step of epoch `epoch` (from 1)."""
    first = (epoch - 1) * per_epoch
    return [learning_rate(first + step, per_epoch, optimizer, schedule) for step in range(per_epoch)]
