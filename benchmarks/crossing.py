"""The crossing that `dive tune-tau` finds, against a dense grid in float64, and its time against one pass.

    python -m benchmarks.crossing CACHE [CACHE ...] --out results/crossing/crossing.json

If the cache is small or has no crossing, a grid from 0.25 to 64 in steps of 0.5 % finds the sign change. A
grid in relative steps of 2e-4, within 0.3 % of that sign change or else of the crossing found, then locates
it. It is brute force: every softmax in float64.
"""

import argparse
import json
import os
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as dive tune-tau does

import numpy as np

from dive.cache.reader import LogitCache
from dive.data.longtail import shot_groups
from dive.method.curves import DEFAULT_POWERS, DEFAULT_TAUS, effective_temperature
from dive.method.virtual_examples import virtual_examples
from dive.workflows.tune import tune

ROUNDS = 3  # of one pass and one tune, in turn
SMALL = 20_000  # rows


def main() -> None:
    """Measure each cache and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("caches", nargs="+", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    found = []
    for path in options.caches:
        found.append(measured(path))
        print(json.dumps(found[-1]), flush=True)
    options.out.parent.mkdir(parents=True, exist_ok=True)
    options.out.write_text(json.dumps({"caches": found}, indent=1) + "\n")


def measured(path: Path) -> dict[str, Any]:
    """The crossings of one cache by both methods, the number of passes, and median seconds."""
    cache = LogitCache(path)
    temperatures = sorted({effective_temperature(t, p) for t in DEFAULT_TAUS for p in DEFAULT_POWERS})
    passes, tunes = [], []
    for _ in range(ROUNDS):
        passes.append(_seconds(lambda: virtual_examples(LogitCache(path), temperatures)))
        tunes.append(_seconds(lambda: tune([path])))
    (tuned,) = tune([path])
    ratio = None if tuned.crossing is None else tuned.crossing.ratio
    dense = dense_crossing(cache, ratio)
    return {
        "cache": path.name,
        "model": tuned.model,
        "views": cache.shape[1],
        "store": cache.store,
        "crossing": ratio,
        "dense": dense,
        "passes": tuned.passes,
        "pass_seconds": statistics.median(passes),
        "tune_seconds": statistics.median(tunes),
    }


def _seconds(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def dense_crossing(cache: LogitCache, near: float | None) -> float | None:
    """The temperature at which the few-shot mean overtakes the many-shot mean; None if there is none."""
    small = cache.shape[0] * cache.shape[1] <= SMALL
    if near is None or small:
        near = _overtakes(cache, np.exp(np.arange(np.log(0.25), np.log(64), 0.005)))
    return near and _overtakes(cache, near * np.exp(np.arange(-0.0031, 0.0031, 2e-4)))


def _overtakes(cache: LogitCache, grid: np.ndarray) -> float | None:
    groups = shot_groups(cache.class_counts)
    sums = np.zeros((len(grid), cache.shape[2]))
    for _, block in cache.blocks():
        rows = block.reshape(-1, cache.shape[2]).astype(np.float64)
        rows -= rows.max(axis=1, keepdims=True)
        for place, temperature in enumerate(grid):
            e = np.exp(rows / temperature)
            sums[place] += (1 / e.sum(axis=1)) @ e
    lead = sums[:, groups["few"]].mean(axis=1) - sums[:, groups["many"]].mean(axis=1)
    (up,) = np.nonzero((lead[:-1] <= 0) & (lead[1:] > 0))
    if not len(up):
        return None
    low, high = grid[up[0]], grid[up[0] + 1]
    return float(low + (high - low) * lead[up[0]] / (lead[up[0]] - lead[up[0] + 1]))


if __name__ == "__main__":
    main()
