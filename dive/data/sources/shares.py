"""Pictures set aside for a test or a validation part where a data set comes without one.

The choice depends on keys alone, and not on the seed of the long-tailed draw, so that every draw is measured
on the same pictures.
"""

import numpy as np

from dive.randomness import draw_order

SPLIT_SEED = 0


def set_aside(keys: list[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Which of N pictures are set aside, (N,) bool: a share of each class, by a seeded order of their keys.

    keys: N. labels: (N,) whole numbers from 0. share: in (0, 1); the count is rounded, but is at least one
    where a class has two pictures, and never the whole class.

    >>> int(set_aside(["a/1", "a/2", "b/1"], np.array([0, 0, 1]), 0.2).sum())
    1
    """
    chosen = np.zeros(len(keys), dtype=bool)
    for label in np.unique(labels):
        members = np.flatnonzero(labels == label)
        count = min(max(round(share * len(members)), 1), len(members) - 1)
        order = draw_order(SPLIT_SEED, [keys[i] for i in members])
        chosen[members[order[:count]]] = True
    return chosen
