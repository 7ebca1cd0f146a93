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
    """A checkpoint that was read; implements both `Opened` and `Teacher`."""

    path: Path
    document: dict[str, Any]
    network: Network
    most_subtracted: float = 0.0
    tells_classes: bool = True

    @classmethod
    def open(cls, path: Path, own: Collection[str]) -> "Trained":
        """Open the checkpoint at `path`, with its network in eval mode on the CPU.

        own: custom networks that may be imported. Raises CheckpointError if it is not a whole checkpoint.
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
        """The hash of its weights."""
        weights_hash: str = self.document["weights_hash"]
        return weights_hash

    def require_network(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError if its network is named neither in the recipe nor in `own`."""
        name, networks = self.document["architecture"]["name"], networks_of(recipe)
        if name not in (*networks, *own):
            raise CheckpointError(
                f"{self.path} is a {name}, the recipe {recipe.name} has a {' and a '.join(networks)}; "
                "give the checkpoint's own recipe with --config"
            )

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError unless it was trained on these images, and therefore on these classes."""
        digests_of = self.document.get("digests", PIXELS)
        if digests_of == FILES != train.digests_of:
            raise CheckpointError(
                f"{self.path} was trained on images that are read from their files on demand, but for the "
                "recipe's views they are held in memory; give the checkpoint's own recipe with --config"
            )
        fingerprint = train.fingerprint_of(self.document["fingerprint_version"], digests_of)
        if self.document["data_fingerprint"] != fingerprint:
            raise CheckpointError(
                f"{self.path} was trained on other images than the recipe draws: data fingerprint "
                f"{self.document['data_fingerprint'][:12]}, here {fingerprint[:12]}; "
                "give the checkpoint's own recipe and data (--config, --data)"
            )

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn if it was trained with other versions of torch or of its network than are installed."""
        warn_if_others(self.document["versions"], str(self.path), progress, self.versions)

    def shown(self, views: Shown, progress: Progress) -> "Trained":
        """This teacher; raises ModelError if it does not return logits for such views.

        A note says so if its logits follow the class sizes.
        """
        loss = OF_LABELS.get(self.document["loss"])  # None for a student
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
        """The installed versions of the sources of its network."""
        return dict(network_versions(self.document["architecture"]["name"]))

    def identity(self) -> dict[str, Any]:
        """The entry for this teacher in the identity of a cache."""
        return {key: self.document[key] for key in _IDENTITY}

    def facts(self) -> dict[str, Any]:
        """The entry for this teacher in the facts of a cache, without paths."""
        kept = ("kind", "loss", "seed", "epochs", "accuracy", "precision")
        facts = {key: self.document[key] for key in kept}
        facts |= {key: self.document[key] for key in ("val_accuracy", INITIAL) if key in self.document}
        return facts | {"recipe": recipe_without_paths(self.recipe)}

    def as_stated(self, identity: Mapping[str, Any]) -> "Trained":
        """This teacher; raises CheckpointError if a cache states a teacher of another kind."""
        require_same(self.path, identity, self.identity(), ("kind",))
        return self


def networks_of(recipe: Recipe) -> list[str]:
    """The networks of a recipe: that of its teacher and that of its student, which can be exported too."""
    return list(dict.fromkeys([recipe.model.name, recipe.of_student.model.name]))
