"""Reads damaged caches in a process without torch, and says what came out of each.

    python corruption_worker.py CASES SEED < the whole cache

One JSON line for each case: `refused` with the message, or `result` with the figures of the tune step.
"""

import json
import random
import sys
from pathlib import Path

from dive.cache.reader import LogitCache
from dive.errors import DiveError
from dive.method.curves import Curves, examine


def changed(whole: bytes, number: int, generator: random.Random) -> tuple[str, bytes]:
    """The whole file with one byte changed, or every sixth time cut short; and what was done."""
    if number % 6 == 5:
        length = generator.randrange(len(whole))
        return f"cut to {length}", whole[:length]
    # Half of the changes hit the part before and after the rows, which is small.
    place = generator.randrange(len(whole)) if number % 2 else generator.randrange(min(8192, len(whole)))
    content = bytearray(whole)
    content[place] ^= generator.randrange(1, 256)
    return f"byte {place}", bytes(content)


def figures(path: Path) -> list[list[float]]:
    """What the tune step shows, in full."""
    return [
        [*p.distribution.per_class.tolist(), p.distribution.information]
        for p in examine(Curves(LogitCache(path)), [1, 3], [1])
    ]


def main() -> None:
    """Go through the cases."""
    cases, seed = map(int, sys.argv[1:])
    whole, path, generator = sys.stdin.buffer.read(), Path("damaged.h5"), random.Random(seed)
    path.write_bytes(whole)
    print(json.dumps({"case": "whole", "result": figures(path)}))
    for number in range(cases):
        case, content = changed(whole, number, generator)
        path.write_bytes(content)
        try:
            outcome = {"result": figures(path)}
        except DiveError as error:
            outcome = {"refused": str(error)}
        print(json.dumps({"case": case, **outcome}), flush=True)
    assert "torch" not in sys.modules


if __name__ == "__main__":
    main()
