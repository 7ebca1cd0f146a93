"""Images that are set aside as the test or validation set of a data set that comes without one.

The choice depends only on the keys, not on the seed of the long-tailed draw, so that every draw is tested on
the same images.
"""

import numpy as np

from dive.randomness import draw_order

SPLIT_SEED = 0


def set_aside(keys: list[str], labels: np.ndarray, share: float) -> np.ndarray:
    """Which of N images are set aside, (N,) bool: a share of each class, by a hash of their keys.

    keys: N strings. labels: (N,) integers from 0. share: in (0, 1). The number of images of each class is
    rounded; it is at least one if the class has at least two images, and never the whole class.

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
