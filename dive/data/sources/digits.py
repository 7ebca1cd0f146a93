"""scikit-learn's digits: 1 797 greyscale images of 8×8 pixels that are shipped with the package.

They make a first run possible without a download. The split into training and test images is
made per class and by key, and does not depend on the seed of the long-tailed draw.
"""

import numpy as np

from dive.data.sources.shares import set_aside
from dive.data.sources.source import Source, sorted_split
from dive.errors import DataError

TEST_SHARE = 0.2


def open_digits() -> Source:
    """The digits, 80 % of each class for training; raises DataError if scikit-learn is not installed."""
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise DataError(
            "the digits are part of scikit-learn, which is not installed: pip install scikit-learn"
        ) from error
    bunch = load_digits()
    images = np.rint(bunch.images * (255 / 16)).astype(np.uint8)[..., None]  # (1797, 8, 8, 1), from 0..16
    labels = np.asarray(bunch.target, dtype=np.int64)
    keys = [f"{label}/digit_{i:04d}" for i, label in enumerate(labels)]
    is_test = set_aside(keys, labels, TEST_SHARE)
    splits = [
        sorted_split([keys[i] for i in chosen], labels[chosen], images[chosen])
        for chosen in (np.flatnonzero(~is_test), np.flatnonzero(is_test))
    ]
    return Source(classes=tuple("0123456789"), train=splits[0], test=splits[1])
