"""A teacher that dive did not train: the network of a recipe's `model` part, with weights and their head.

Of its training nothing is known but what the user says: whether its logits follow the class sizes. Output i
is taken for class i of the data, in the data's own order.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive.data.longtail import Samples
from dive.errors import ModelError
from dive.models import checkpoint
from dive.models.network import Network
from dive.models.prior import WithoutPrior
from dive.models.registry import network_versions, parameter_count
from dive.progress import Progress
from dive.recipe.recipe import Recipe
from dive.workflows.data import load_recipe
from dive.workflows.pretrained import Pretrained
from dive.workflows.results import INITIAL
from dive.workflows.teachers.teacher import Shown, require_same

_KIND = "foreign"


@dataclass(frozen=True)
class ForeignFile:
    """A recipe as it was read; see `Opened`.

    weights: what its weights are, as `InitialWeights.fact` has it. prior: whether the logits follow the class
    sizes.
    """

    path: Path
    pretrained: Pretrained
    weights: str
    prior: str
    recipe: None = None  # its data, if it names any, need not be those that the teacher was trained on

    @classmethod
    def open(cls, path: Path, prior: str) -> "ForeignFile":
        """The one of a file, or of a shipped recipe's name.

        Raises RecipeError where there is none, ModelError where it has no weights of which the head is kept,
        or these cannot be found.
        """
        pretrained = Pretrained.of(load_recipe(path), path)
        return cls(path, pretrained, pretrained.initial.fact, prior)

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Nothing: its network is the one that it names itself."""

    def require_draw(self, train: Samples) -> None:
        """Nothing: what it was trained on is not known."""

    def warn_of_versions(self, progress: Progress) -> None:
        """Nothing: with which versions it was made is not known."""

    def shown(self, views: Shown, progress: Progress) -> "Foreign":
        """The teacher; raises ModelError where it does not give logits of these classes of such views."""
        model = self.pretrained.model
        if self.pretrained.channels != views.channels:
            raise ModelError(
                f"{self.path} has a network for pictures of {self.pretrained.channels} channels, these have "
                f"{views.channels}; give it the data.kind of these, and model.input.mean and std to match"
            )
        classes = self.pretrained.classes(views.shape, views.classes)
        if classes not in (None, views.classes):
            raise ModelError(
                f"{self.path}: {model.weights} of {model.name} have {classes} classes, the data have "
                f"{views.classes}; give data of the classes that it knows, or train it on these (dive "
                "teacher, with model.head new)"
            )
        network = self.pretrained.network(views.classes, views.shape, progress)
        return Foreign(self.path, self.pretrained, self.weights, network, views.class_counts, self.prior)


@dataclass(frozen=True)
class Foreign:
    """Such a teacher with its network, `bare` of a prior; see `Teacher`.

    class_counts: (C,), of the draw that it is shown. weights, prior: as those of `ForeignFile`.
    """

    path: Path
    pretrained: Pretrained
    weights: str
    bare: Network
    class_counts: np.ndarray
    prior: str
    tells_classes: bool = False

    @property
    def network(self) -> Network | WithoutPrior:
        """What gives the logits that a cache holds: with the prior `train`, the network's less log n."""
        if self.prior == "none":
            return self.bare
        return WithoutPrior(self.bare, torch.from_numpy(self.class_counts)).eval()

    @property
    def most_subtracted(self) -> float:
        """log n of the largest class, where the prior is subtracted."""
        return 0.0 if self.prior == "none" else float(np.log(self.class_counts.max()))

    @property
    def weights_hash(self) -> str:
        """Of its weights, as checkpoints have it."""
        return checkpoint.weights_hash(self.bare.body.state_dict())

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what its network depends on, as they are here."""
        return dict(network_versions(self.pretrained.model.name))

    def identity(self) -> dict[str, Any]:
        """What the identity of its cache has of it."""
        architecture = self.pretrained.architecture(len(self.class_counts)).as_dict()
        return {
            "kind": _KIND,
            "weights_hash": self.weights_hash,
            "architecture": architecture | {"parameters": parameter_count(self.bare)},
            "prior": self.prior,
        }

    def facts(self) -> dict[str, Any]:
        """What a cache records of it besides its identity; no paths."""
        return {
            "kind": _KIND,
            "network": self.pretrained.model.name,
            INITIAL: self.weights,
            "prior": self.prior,
        }

    def as_stated(self, identity: Mapping[str, Any]) -> "Foreign":
        """It with the prior that a cache states; raises CheckpointError where it states another network."""
        require_same(self.path, identity, self.identity(), ("kind", "architecture"))
        return replace(self, prior=identity["prior"])
