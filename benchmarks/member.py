"""One process of those that `benchmarks.worlds` starts: `dive` with the words given, once it is told to go.

Python, torch and scikit-learn are loaded before, so that their loading is no part of what is timed.
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
