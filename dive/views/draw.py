"""Which view of each sample an epoch uses: drawn from a whole space, or from those that a cache stores."""

import numpy as np

from dive.randomness import epoch_choice
from dive.views.space import UNBOUNDED, ViewSpace


class FreeViews:
    """Views drawn uniformly from a whole space; the cache column is always 0, of a cache of one view."""

    def __init__(self, space: ViewSpace) -> None:
        self._size = space.size or UNBOUNDED

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns of every sample in an epoch, each (N,) int64."""
        ids = epoch_choice(seed, epoch, hashes, self._size)
        return ids, np.zeros_like(ids)


class StoredViews:
    """Views drawn uniformly from those that a cache stores. views: (N, V) ids."""

    def __init__(self, views: np.ndarray) -> None:
        self._views = views

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns of every sample in an epoch, each (N,) int64."""
        columns = epoch_choice(seed, epoch, hashes, self._views.shape[1])
        ids = np.take_along_axis(self._views, columns[:, None], axis=1)[:, 0]
        return ids.astype(np.int64), columns
