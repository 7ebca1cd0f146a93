"""A teacher that dive trained: a finished checkpoint."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dive.data.longtail import FILES, PIXELS, Samples
from dive.errors import CheckpointError
from dive.method.objectives import OF_LABELS, BalancedSoftmaxLoss
from dive.models import checkpoint
from dive.models.network import Architecture, Network, require_logits
from dive.models.registry import network_versions
from dive.progress import Progress
from dive.recipe.recipe import Recipe
from dive.recipe.teachers import recipe_without_paths
from dive.versions import warn_if_others
from dive.workflows.results import INITIAL
from dive.workflows.teachers.teacher import Shown, require_same

_IDENTITY = ("kind", "weights_hash", "architecture")


@dataclass(frozen=True)
class Trained:
    """A checkpoint as it was read; see `Opened` and `Teacher`, both of which it is."""

    path: Path
    document: dict[str, Any]
    network: Network
    most_subtracted: float = 0.0
    tells_classes: bool = True

    @classmethod
    def open(cls, path: Path, own: Collection[str]) -> "Trained":
        """The one at a path, its network in eval mode on the CPU.

        own: networks of the user's own that may be imported. Raises CheckpointError where it is not a whole
        checkpoint.
        """
        network, document = checkpoint.load_model(path, own)
        return cls(path, document, network.eval())

    @property
    def recipe(self) -> dict[str, Any]:
        """The recipe of its training."""
        recipe: dict[str, Any] = self.document["recipe"]
        return recipe

    @property
    def weights_hash(self) -> str:
        """Of its weights."""
        weights_hash: str = self.document["weights_hash"]
        return weights_hash

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError where it is of a network that neither the recipe nor own names."""
        name, networks = self.document["architecture"]["name"], networks_of(recipe)
        if name not in (*networks, *own):
            raise CheckpointError(
                f"{self.path} is a {name}, the recipe {recipe.name} has a {' and a '.join(networks)}; "
                "give the checkpoint's own recipe with --config"
            )

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError unless it was trained on these images, and so on these classes."""
        digests_of = self.document.get("digests", PIXELS)
        if digests_of == FILES != train.digests_of:
            raise CheckpointError(
                f"{self.path} was trained on pictures read from their files on demand, the recipe's views "
                "hold them in memory; give the checkpoint's own recipe with --config"
            )
        fingerprint = train.fingerprint_of(self.document["fingerprint_version"], digests_of)
        if self.document["data_fingerprint"] != fingerprint:
            raise CheckpointError(
                f"{self.path} was trained on other images than the recipe draws: data fingerprint "
                f"{self.document['data_fingerprint'][:12]}, here {fingerprint[:12]}; "
                "give the checkpoint's own recipe and data (--config, --data)"
            )

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn where it was made with another torch, or another source of its network, than is here."""
        warn_if_others(self.document["versions"], str(self.path), progress, self.versions)

    def shown(self, views: Shown, progress: Progress) -> "Trained":
        """It; raises ModelError where it does not give logits of such views.

        That its logits follow the sizes of the classes is told where they do.
        """
        loss = OF_LABELS.get(self.document["loss"])  # a student's is none of these
        if loss is not None and loss.learns_prior and np.ptp(views.class_counts):
            progress.note(
                f"{self.path} was trained with {loss.name}: its logits, and the targets made of them, follow "
                f"the sizes of the classes; those of a teacher trained with {BalancedSoftmaxLoss.name} do not"
            )
        architecture = Architecture.of(self.document["architecture"])
        require_logits(self.network, architecture, self.network.blank(views.channels, views.shape))
        return self

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what its network depends on, as they are here."""
        return dict(network_versions(self.document["architecture"]["name"]))

    def identity(self) -> dict[str, Any]:
        """What the identity of its cache has of it."""
        return {key: self.document[key] for key in _IDENTITY}

    def facts(self) -> dict[str, Any]:
        """What a cache records of it besides its identity; no paths."""
        kept = ("kind", "loss", "seed", "epochs", "accuracy", "precision")
        facts = {key: self.document[key] for key in kept}
        facts |= {key: self.document[key] for key in ("val_accuracy", INITIAL) if key in self.document}
        return facts | {"recipe": recipe_without_paths(self.recipe)}

    def as_stated(self, identity: Mapping[str, Any]) -> "Trained":
        """It; raises CheckpointError where a cache states a teacher of another kind."""
        require_same(self.path, identity, self.identity(), ("kind",))
        return self


def networks_of(recipe: Recipe) -> list[str]:
    """The networks of a recipe: its teacher's, and its student's, which may be exported as well."""
    return list(dict.fromkeys([recipe.model.name, recipe.of_student.model.name]))
