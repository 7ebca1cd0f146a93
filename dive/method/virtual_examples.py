"""Virtual examples: the softened targets of a cache, summed by class, at one or more temperatures.

The virtual examples of class c are Σ_i t_ic over the training set (He, Wu, Wei 2021, section 3.2), with the
target t = softmax(p·z/τ). They depend on the effective temperature T = τ/p only. One pass over the cache
computes them for any number of temperatures. This module needs NumPy only and uses all cores.
"""

import math
import multiprocessing
import os
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from dive.cache.encodings.codec import Decoder
from dive.cache.reader import LogitCache
from dive.data.longtail import shot_groups, shot_means
from dive.errors import CacheError
from dive.method.tally import LOG2_E, tally
from dive.workers import begin_worker

MOST_WORKERS = 16  # more would only wait for memory


@dataclass(frozen=True)
class Distribution:
    """Virtual examples at one effective temperature.

    temperature: T = τ/p.
    per_class: (C,) the virtual examples of each class; their sum is the number of samples.
    shots: the mean of `per_class` over the many-, medium- and few-shot classes, by `many`, `medium` and
        `few`; None for a group without classes. Many-shot classes have more than 100 training images,
        few-shot classes fewer than 20.
    information: the mean over the samples of log C − H(t), in nats.
    errors: the standard errors of `shots` (by the same names) and of `information`, if estimated from a
        sample; else None.
    difference_error: the standard error of the few-shot mean minus the many-shot mean; None if nothing is
        estimated or one of the groups has no class.
    """

    temperature: float
    per_class: np.ndarray
    shots: dict[str, float | None]
    information: float
    errors: dict[str, float | None] | None = None
    difference_error: float | None = None

    @property
    def ratio(self) -> float:
        """The largest mean in `shots` over the smallest: 1 if all are equal, infinity if one is 0."""
        means = [mean for mean in self.shots.values() if mean is not None]
        return max(means) / min(means) if min(means) > 0 else math.inf


def virtual_examples(
    cache: LogitCache,
    temperatures: Sequence[float],
    clean: bool = False,
    sample: int | None = None,
    seed: int = 0,
) -> list[Distribution]:
    """The virtual examples of every class at each effective temperature, a `Distribution` for each.

    They are averaged over the stored views of each image. All temperatures take one pass over the cache,
    which is decoded in chunks.

    cache: the logit cache, from `open_cache`.
    temperatures: the effective temperatures T = τ/p, each above 0.
    clean: use the clean view of each image only, not all stored views.
    sample: the number of images to estimate from, at least 2, drawn without replacement; only the blocks that
        contain them are read, and `errors` has the standard errors. None, or N or more, takes all N images.
    seed: seed of the draw of the sample.

    Raises CacheError if the cache is corrupt, has logits that are not finite, or lacks the clean view of an
    image with `clean`; ValueError if a temperature is not above 0 or `sample` is less than 2.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> sharp, flat = dive.virtual_examples(cache, [1, 6])
    >>> round(float(flat.per_class.sum()), 3) == len(cache.labels)  # one an image, in all
    True
    >>> sharp.ratio > flat.ratio
    True
    >>> (estimate,) = dive.virtual_examples(cache, [6], sample=100)
    >>> abs(estimate.shots["few"] - flat.shots["few"]) < 4 * estimate.errors["few"]
    True
    """
    if wrong := [temperature for temperature in temperatures if not temperature > 0]:
        raise ValueError(f"an effective temperature must be above 0, not {wrong[0]}")
    if sample is not None and sample < 2:
        raise ValueError(f"a sample has at least two images, not {sample}")
    n = cache.shape[0]
    drawn = None
    if sample is not None and sample < n:
        drawn = np.sort(np.random.default_rng(seed).choice(n, sample, replace=False))
    running = _Pass(cache, _clean_columns(cache) if clean else None, temperatures, drawn)
    count = n if drawn is None else len(drawn)
    sums = np.zeros((len(temperatures), cache.shape[2]))
    of_images: list[np.ndarray] = []  # (T, images, …) of each block of a sample
    information = np.zeros(len(temperatures))
    with _workers(running) as pool:
        for block_sums, block_information, images in pool.map(_tally_block, running.blocks):
            sums += block_sums
            information += block_information
            of_images += [] if images is None else [images]
    exact: list[_Errors] = [(None, None)] * len(temperatures)
    errors = exact if drawn is None else _errors(np.concatenate(of_images, 1), cache)
    per_class, information = sums * (n / count), information / count
    return [
        Distribution(t, s, shot_means(s, cache.class_counts), float(i), *error)
        for t, s, i, error in zip(temperatures, per_class, information, errors, strict=True)
    ]


_Errors = tuple[dict[str, float | None] | None, float | None]  # `errors`, `difference_error`


def _errors(images: np.ndarray, cache: LogitCache) -> list[_Errors]:
    """The standard errors at each temperature: of groups' means and information, and of few minus many.

    images: (T, n, G + 1), for each image of a simple random sample without replacement: the mean over the
    classes of each group, and the information.
    """
    n = images.shape[1]
    images = images.astype(np.float64)
    names, _ = _groups(cache.class_counts)
    scale = math.sqrt((1 - n / cache.shape[0]) / n)
    error = images.std(axis=1, ddof=1) * scale  # (T, G + 1)
    differences: list[float | None] = [None] * len(images)
    if {"few", "many"} <= {*names}:
        difference = images[..., names.index("few")] - images[..., names.index("many")]  # (T, n)
        differences = (difference.std(axis=1, ddof=1) * scale * cache.shape[0]).tolist()
    absent = dict.fromkeys(shot_groups(cache.class_counts))
    return [
        (
            absent
            | dict(zip(names, (one[:-1] * cache.shape[0]).tolist(), strict=True))
            | {"information": float(one[-1])},
            of_difference,
        )
        for one, of_difference in zip(error, differences, strict=True)
    ]


def _groups(class_counts: np.ndarray) -> tuple[list[str], np.ndarray]:
    """The groups that have classes, and weights (C, G) of the classes that sum to a group's mean."""
    members = {shot: places for shot, places in shot_groups(class_counts).items() if len(places)}
    weights = np.zeros((len(class_counts), len(members)), np.float32)
    for group, places in enumerate(members.values()):
        weights[places, group] = 1 / len(places)
    return list(members), weights


@dataclass(frozen=True)
class _Pass:
    """What the workers of one pass share.

    column: (N,), that of each sample's clean view; None for all views. drawn: (n,), the samples of a draw in
    ascending order; None for all samples.
    """

    cache: LogitCache
    column: np.ndarray | None
    temperatures: Sequence[float]
    drawn: np.ndarray | None

    @cached_property
    def decoder(self) -> Decoder:
        """The decoder of the cache's rows."""
        return self.cache.codec.decoder(LOG2_E)

    @property
    def blocks(self) -> list[int]:
        """The blocks to read."""
        if self.drawn is None:
            return list(range(self.cache.block_count))
        return np.unique(self.drawn // self.cache.block_rows).tolist()


_running: _Pass  # the pass of this process, set before the first block of its workers


def _workers(running: _Pass) -> Executor:
    """A pool of workers for the pass, one for each core.

    The workers are forked processes, because threads that make short NumPy calls mostly wait for the
    interpreter lock. If torch is loaded, whose threads do not survive a fork, or outside Linux, they are
    threads.
    """
    count = min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if "torch" in sys.modules or sys.platform != "linux":
        return ThreadPoolExecutor(count, initializer=_set_running, initargs=(running,))
    fork = multiprocessing.get_context("fork")
    return ProcessPoolExecutor(count, fork, initializer=_begin_worker, initargs=(running,))


def _set_running(running: _Pass) -> None:
    global _running
    _running = running


def _begin_worker(running: _Pass) -> None:
    begin_worker()
    _set_running(running)


def _tally_block(block: int) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """The sums over one block of the running pass, averaged over views, after a check of its CRC.

    Returns Σ t (T, C), Σ information (T,) and, for a sample, the values of each image for `_errors`.
    """
    cache, column, drawn = _running.cache, _running.column, _running.drawn
    rows, stored = cache.encoded_block(block)  # (rows, V, …)
    images = np.arange(rows.start, rows.stop)
    groups = None
    if drawn is not None:
        images = drawn[np.searchsorted(drawn, rows.start) : np.searchsorted(drawn, rows.stop)]
        stored = stored[images - rows.start]
        groups = _groups(cache.class_counts)[1]
    if column is not None:
        stored = stored[np.arange(len(images)), column[images]][:, None]
    views, temperatures = stored.shape[1], _running.temperatures
    flat = stored.reshape(-1, *cache.codec.row.shape)
    try:
        found = tally(_running.decoder, flat, cache.shape[2], temperatures, groups)
    except ValueError as error:
        raise CacheError(f"{cache.path} holds {error}; export it again") from error
    of_rows = None
    if found.shares is not None:
        of_views = np.concatenate([found.shares, found.information[..., None]], axis=2)
        of_rows = of_views.reshape(len(temperatures), len(images), views, -1).mean(axis=2)
    return found.sums / views, found.information.sum(axis=1, dtype=np.float64) / views, of_rows


def _clean_columns(cache: LogitCache) -> np.ndarray:
    """The column of each sample's clean view, (N,)."""
    clean_id = cache.facts.get("clean_id")
    stated = type(clean_id) is int
    is_clean = cache.views == (clean_id if stated else -1)
    if not stated or not is_clean.any(axis=1).all():
        raise CacheError(f"{cache.path} does not hold the clean view of every sample; leave --clean out")
    columns: np.ndarray = is_clean.argmax(axis=1)
    return columns
