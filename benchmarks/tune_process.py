"""The tune pass in a process without torch, as `dive tune-tau` runs it; prints seconds as JSON on stdout.

python -m benchmarks.tune_process CACHE T [T ...]
"""

import json
import os
import sys
import time
from pathlib import Path

os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")  # as dive tune-tau does

import numpy as np

from dive.cache.reader import LogitCache
from dive.method.virtual_examples import virtual_examples


def main() -> None:
    """Time the pass over a cache, and then one that only reads it."""
    path, *temperatures = sys.argv[1:]
    cache = LogitCache(Path(path))
    start = time.perf_counter()
    virtual_examples(cache, [float(t) for t in temperatures])
    tuned = time.perf_counter()
    flat = cache.encoded_whole().reshape(-1).view(np.uint8)
    begun = time.perf_counter()
    flat[: flat.size // 8 * 8].view(np.uint64).sum()
    read = time.perf_counter()
    assert "torch" not in sys.modules
    print(json.dumps({"tune": tuned - start, "reading": read - begun}))


if __name__ == "__main__":
    main()
