"""A teacher that dive did not train: the network of a recipe's `model` part, with weights and their head.

Nothing is known about its training except what the user states: whether its logits follow the class sizes.
Output i is assumed to be class i of the data, in the order of the data.
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
    """The recipe of a foreign teacher; see `Opened`.

    weights: identifies the weights, see `InitialWeights.fact`. prior: `train` if the logits follow the class
    sizes, else `none`.
    """

    path: Path
    pretrained: Pretrained
    weights: str
    prior: str
    recipe: None = None  # its data, if it names any, are not necessarily the teacher's training data

    @classmethod
    def open(cls, path: Path, prior: str) -> "ForeignFile":
        """Open the recipe at `path`, a file or the name of a shipped recipe.

        Raises RecipeError if there is none, ModelError if it has no weights whose head is kept, or if these
        cannot be found.
        """
        pretrained = Pretrained.of(load_recipe(path), path)
        return cls(path, pretrained, pretrained.initial.fact, prior)

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Does nothing: the recipe itself names the network."""

    def require_draw(self, train: Samples) -> None:
        """Does nothing: the images that it was trained on are not known."""

    def warn_of_versions(self, progress: Progress) -> None:
        """Does nothing: the versions that it was trained with are not known."""

    def shown(self, views: Shown, progress: Progress) -> "Foreign":
        """The teacher; raises ModelError if it does not return logits of these classes for such views."""
        model = self.pretrained.model
        if self.pretrained.channels != views.channels:
            raise ModelError(
                f"{self.path} has a network for images of {self.pretrained.channels} channels, these have "
                f"{views.channels}; give it the data.kind of these, and model.input.mean and std to match"
            )
        classes = self.pretrained.classes(views.shape, views.classes)
        if classes not in (None, views.classes):
            raise ModelError(
                f"{self.path}: {model.weights} of {model.name} have {classes} classes, the data have "
                f"{views.classes}; give data of the teacher's classes, or train it on these (dive teacher, "
                "with model.head new)"
            )
        network = self.pretrained.network(views.classes, views.shape, progress)
        return Foreign(self.path, self.pretrained, self.weights, network, views.class_counts, self.prior)


@dataclass(frozen=True)
class Foreign:
    """A foreign teacher with its network; see `Teacher`.

    bare: the network, whose logits still contain the prior. class_counts: (C,), of the training images that
    it is run on. weights, prior: as in `ForeignFile`.
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
        """The network that returns a cache's logits: with the prior `train`, those of `bare` minus log n."""
        if self.prior == "none":
            return self.bare
        return WithoutPrior(self.bare, torch.from_numpy(self.class_counts)).eval()

    @property
    def most_subtracted(self) -> float:
        """log n of the largest class if the prior is subtracted, else 0."""
        return 0.0 if self.prior == "none" else float(np.log(self.class_counts.max()))

    @property
    def weights_hash(self) -> str:
        """The hash of its weights, computed as for checkpoints."""
        return checkpoint.weights_hash(self.bare.body.state_dict())

    @property
    def versions(self) -> dict[str, str]:
        """The installed versions of the sources of its network."""
        return dict(network_versions(self.pretrained.model.name))

    def identity(self) -> dict[str, Any]:
        """The entry for this teacher in the identity of a cache."""
        architecture = self.pretrained.architecture(len(self.class_counts)).as_dict()
        return {
            "kind": _KIND,
            "weights_hash": self.weights_hash,
            "architecture": architecture | {"parameters": parameter_count(self.bare)},
            "prior": self.prior,
        }

    def facts(self) -> dict[str, Any]:
        """The entry for this teacher in the facts of a cache, without paths."""
        return {
            "kind": _KIND,
            "network": self.pretrained.model.name,
            INITIAL: self.weights,
            "prior": self.prior,
        }

    def as_stated(self, identity: Mapping[str, Any]) -> "Foreign":
        """This teacher with the prior that a cache states.

        Raises CheckpointError if the cache states another network.
        """
        require_same(self.path, identity, self.identity(), ("kind", "architecture"))
        return replace(self, prior=identity["prior"])
