"""What a teacher of any kind is: a file, and its network as soon as its views are known."""

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
    """The views that teachers are given: (H, W), their channels, and the draw of their training images.

    class_counts: (C,), of that draw.
    """

    class_counts: np.ndarray
    channels: int
    shape: tuple[int, int]

    @property
    def classes(self) -> int:
        """The number of classes C."""
        return len(self.class_counts)


class Teacher(Protocol):
    """A teacher whose logits a cache may hold."""

    @property
    def path(self) -> Path:
        """The file, or the name of the recipe, from which it was opened."""

    @property
    def network(self) -> Network | WithoutPrior:
        """The network that returns the logits to store; in eval mode, on the CPU until it is moved."""

    @property
    def most_subtracted(self) -> float:
        """The largest number that is subtracted from a logit of the bare network."""

    @property
    def weights_hash(self) -> str:
        """The hash of its weights, as in checkpoints."""

    @property
    def tells_classes(self) -> bool:
        """Whether the class of each of its outputs is known."""

    @property
    def versions(self) -> dict[str, str]:
        """The installed versions of what its network depends on."""

    def identity(self) -> dict[str, Any]:
        """Its entry in the identity of a cache."""

    def facts(self) -> dict[str, Any]:
        """What a cache records about it besides its identity; without paths."""

    def as_stated(self, identity: Mapping[str, Any]) -> "Teacher":
        """This teacher with what the identity of a cache states about its logits, such as their prior.

        Raises CheckpointError if the cache states another teacher with the same weights.
        """


class Opened(Protocol):
    """A teacher's file, read and checked as far as is possible before the images are read."""

    @property
    def path(self) -> Path:
        """The file, or the name of a recipe."""

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe of its training, which draws the images; None if there is none."""

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError if it is the only teacher and neither recipe nor own names its network."""

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError unless it was trained on these images, as far as is known."""

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn if it was made with another torch, or another source of its network, than is installed."""

    def shown(self, views: Shown, progress: Progress) -> Teacher:
        """The teacher; raises ModelError if it does not return logits of these classes for such views."""


def require_same(
    path: Path, stated: Mapping[str, Any], found: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Raise CheckpointError, naming the keys that differ, if a teacher's identity is not what a cache states.

    path: the teacher's file.
    """
    before, here = ({key: one.get(key) for key in keys} for one in (stated, found))
    if different := differences(before, here):
        raise CheckpointError(
            f"{path} has the weights of the cache's teacher but differs from it ({'; '.join(different)}); "
            "give that teacher's own recipe or checkpoint"
        )
