"""What a teacher of any kind is: a file that names it, and its network once it is known what it is shown."""

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
    """What teachers are shown: views (H, W) of so many channels, of training images of so many classes.

    class_counts: (C,), of the draw that they are of.
    """

    class_counts: np.ndarray
    channels: int
    shape: tuple[int, int]

    @property
    def classes(self) -> int:
        """C."""
        return len(self.class_counts)


class Teacher(Protocol):
    """A teacher whose logits a cache may hold."""

    @property
    def path(self) -> Path:
        """The file, or the name of the recipe, that it was opened by."""

    @property
    def network(self) -> Network | WithoutPrior:
        """What gives the logits that a cache holds; in eval mode, on the CPU until it is moved."""

    @property
    def most_subtracted(self) -> float:
        """The largest number that is subtracted from a logit of the bare network."""

    @property
    def weights_hash(self) -> str:
        """Of its weights, as checkpoints have it."""

    @property
    def tells_classes(self) -> bool:
        """Whether it is known which class each of its outputs is."""

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what its network depends on, as they are here."""

    def identity(self) -> dict[str, Any]:
        """What the identity of its cache has of it."""

    def facts(self) -> dict[str, Any]:
        """What a cache records of it besides its identity; no paths."""

    def as_stated(self, identity: Mapping[str, Any]) -> "Teacher":
        """It with what the identity of a cache states of how its logits were taken.

        Raises CheckpointError where that states another teacher of the same weights.
        """


class Opened(Protocol):
    """A teacher's file, read and checked as far as can be before the pictures are."""

    @property
    def path(self) -> Path:
        """The file, or the name of a recipe."""

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe of its training, which draws the pictures; None where there is none."""

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError where it alone is of a network that neither the recipe nor own names."""

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError unless it was trained on these images, as far as that is known."""

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn where it was made with another torch, or another source of its network, than is here."""

    def shown(self, views: Shown, progress: Progress) -> Teacher:
        """The teacher; raises ModelError where it does not give logits of these classes of such views."""


def require_same(
    path: Path, stated: Mapping[str, Any], found: Mapping[str, Any], keys: Sequence[str]
) -> None:
    """Raise CheckpointError where a teacher's identity is another than a cache states, in some keys.

    path: of the teacher's file.
    """
    before, here = ({key: one.get(key) for key in keys} for one in (stated, found))
    if different := differences(before, here):
        raise CheckpointError(
            f"{path} has the weights of the cache's teacher and is another one ({'; '.join(different)}); "
            "give that teacher's own recipe or checkpoint"
        )
