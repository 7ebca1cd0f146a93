"""Whether predictions tell anything of the labels, or are as good as any drawn blindly."""

from dataclasses import dataclass

import numpy as np

_ERRORS = 3.0  # standard errors above chance within which an accuracy is no better than it


@dataclass(frozen=True)
class Agreement:
    """How predictions agree with labels.

    accuracy: the share of right ones, in [0, 1]. chance: what it would be if the same predictions were made
    of images drawn blindly: Σ_c (share predicted as c) · (share labelled c). images: how many it is of;
    several views of one image count as one.

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
        """Of how often each class was predicted and labelled, both (C,), and how often both were one."""
        chance = float((predicted / predicted.sum()) @ (labelled / labelled.sum()))
        return cls(right / int(predicted.sum()), chance, images)

    @property
    def tells_nothing(self) -> bool:
        """Whether it is not above chance by three standard errors of a share of the images."""
        error = np.sqrt(self.chance * (1 - self.chance) / self.images)
        return bool(self.accuracy <= self.chance + _ERRORS * error)

    def told(self, of: str) -> str:
        """That it tells nothing, in words, of whatever it is of: "the views"."""
        return f"right in {self.accuracy:.1%} of {of}, no better than chance ({self.chance:.1%})"
