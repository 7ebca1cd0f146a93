"""Whether predictions agree with labels better than by chance."""

from dataclasses import dataclass

import numpy as np

_ERRORS = 3.0  # an accuracy up to so many standard errors above chance counts as chance


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with labels.

    accuracy: the share of correct predictions, in [0, 1]. chance: the expected accuracy of the same
    predictions for randomly permuted images: Σ_c (share predicted as c) · (share labelled c). images: the
    number of images; several views of one image count as one.

    >>> labels = np.repeat(np.arange(4), 25)
    >>> Agreement.of(np.bincount(labels), np.bincount(labels), right=100, images=100).tells_nothing
    False
    >>> Agreement.of(np.bincount(labels), np.bincount(labels), right=25, images=100)
    Agreement(accuracy=0.25, chance=0.25, images=100)
    """

    accuracy: float
    chance: float
    images: int

    @classmethod
    def of(cls, predicted: np.ndarray, labelled: np.ndarray, right: int, images: int) -> "Agreement":
        """From the numbers of predictions and labels of each class, both (C,), and of correct predictions."""
        chance = float((predicted / predicted.sum()) @ (labelled / labelled.sum()))
        return cls(right / int(predicted.sum()), chance, images)

    @property
    def tells_nothing(self) -> bool:
        """Whether the accuracy exceeds chance by at most three standard errors."""
        error = np.sqrt(self.chance * (1 - self.chance) / self.images)
        return bool(self.accuracy <= self.chance + _ERRORS * error)

    def told(self, of: str) -> str:
        """The phrase for a warning. of: what was predicted, for example "the views"."""
        return f"right in {self.accuracy:.1%} of {of}, no better than chance ({self.chance:.1%})"
