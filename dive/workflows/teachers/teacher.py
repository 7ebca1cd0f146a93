"""The interfaces of every kind of teacher: its opened file, and the teacher with its network."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from dive.data.longtail import Samples
from dive.errors import CheckpointError
from dive.models.network import Network
from dive.models.prior import WithoutPrior
from dive.progress import Progress
from dive.recipe.documents import differences
from dive.recipe.recipe import Recipe


@dataclass(frozen=True)
class Shown:
    """The views on which teachers are run.

    class_counts: (C,), the training images of each class. channels: of an image. shape: (H, W) of a view.
    """

    class_counts: np.ndarray
    channels: int
    shape: tuple[int, int]

    @property
    def classes(self) -> int:
        """The number of classes, C."""
        return len(self.class_counts)


class Teacher(Protocol):
    """A teacher whose logits a cache may hold."""

    @property
    def path(self) -> Path:
        """The file, or the name of the shipped recipe, from which it was opened."""

    @property
    def network(self) -> Network | WithoutPrior:
        """The network that returns the logits of a cache; in eval mode, on the CPU until it is moved."""

    @property
    def most_subtracted(self) -> float:
        """The largest number that `network` subtracts from a logit, 0 if it subtracts nothing."""

    @property
    def weights_hash(self) -> str:
        """The hash of its weights, computed as for checkpoints."""

    @property
    def tells_classes(self) -> bool:
        """Whether the class of each of its outputs is known."""

    @property
    def versions(self) -> dict[str, str]:
        """The installed versions of the sources of its network."""

    def identity(self) -> dict[str, Any]:
        """The entry for this teacher in the identity of a cache."""

    def facts(self) -> dict[str, Any]:
        """The entry for this teacher in the facts of a cache, without paths."""

    def as_stated(self, identity: Mapping[str, Any]) -> "Teacher":
        """This teacher with the prior that the identity of a cache states for it.

        identity: the entry for this teacher. Raises CheckpointError if it states another teacher with the
        same weights.
        """


class Opened(Protocol):
    """A teacher's file, read and checked as far as possible before the images are read."""

    @property
    def path(self) -> Path:
        """The file, or the name of a shipped recipe."""

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe of its training, which draws the images; None if there is none."""

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError if its network is named neither in the recipe nor in `own`."""

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError if it was trained on other images, as far as that is known."""

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn if it was trained with other versions of torch or of its network than are installed."""

    def shown(self, views: Shown, progress: Progress) -> Teacher:
        """The teacher; raises ModelError if it does not return logits of these classes for such views."""


def require_same(
    path: Path, stated: Mapping[str, Any], found: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Raise CheckpointError if the identity of a teacher and that in a cache differ in some of `keys`.

    path: of the teacher's file. stated: from the cache. found: of the teacher.
    """
    before, here = ({key: one.get(key) for key in keys} for one in (stated, found))
    if different := differences(before, here):
        raise CheckpointError(
            f"{path} has the weights of the cache's teacher but differs from it ({'; '.join(different)}); "
            "give that teacher's own recipe or checkpoint"
        )
