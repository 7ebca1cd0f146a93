"""Pictures of a split as tests look at them: read all, of one size."""

import numpy as np

from dive.data.pictures import hold
from dive.data.sources.source import Split


def pictures(split: Split, positions: list[int] | None = None, size: int | None = None) -> np.ndarray:
    """The pictures at some positions, all if not given, brought to `size`: (M, H, W, channels) uint8."""
    chosen = range(len(split.keys)) if positions is None else positions
    return hold(split, np.array(chosen, dtype=np.int64), size)[0].held
