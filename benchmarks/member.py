"""One of the processes that `benchmarks.worlds` starts: it runs `dive` with the given words when told to.

Before that it loads dive's modules, torch and scikit-learn, so that loading them is not timed.
"""

import sys
from importlib import import_module

LOADED = ("dive.workflows.teacher", "dive.workflows.student", "dive.workflows.export", "sklearn.datasets")

if __name__ == "__main__":
    for name in LOADED:
        import_module(name)
    print("ready", flush=True)
    sys.stdin.readline()
    import_module("dive.cli").main()
