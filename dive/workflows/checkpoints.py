"""The checkpoints that a cache is of: one teacher, or the several of an ensemble."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from dive.data.longtail import FILES, PIXELS, Samples
from dive.errors import CheckpointError
from dive.models import checkpoint
from dive.models.ensemble import Ensemble, equal_shares
from dive.models.network import Architecture, Network, require_logits
from dive.models.registry import network_versions
from dive.progress import Progress
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from dive.recipe.teachers import told_teachers
from dive.versions import warn_if_others
from dive.workflows.results import INITIAL


@dataclass(frozen=True)
class Checkpoints:
    """Finished models as they were read. paths, documents, networks: of each."""

    paths: tuple[Path, ...]
    documents: tuple[dict[str, Any], ...]
    networks: tuple[Network, ...]

    @classmethod
    def load(cls, paths: Sequence[Path], own: Collection[str]) -> "Checkpoints":
        """Those at some paths, their networks in eval mode on the CPU.

        own: networks of the user's own that may be imported. Raises CheckpointError where one is not a whole
        checkpoint, or two have the same weights.
        """
        loaded = [checkpoint.load_model(path, own) for path in paths]
        documents = tuple(document for _, document in loaded)
        first: dict[str, Path] = {}
        for path, document in zip(paths, documents, strict=True):
            if (other := first.get(document["weights_hash"])) is not None:
                raise CheckpointError(f"{path} has the weights of {other}; give each teacher once")
            first[document["weights_hash"]] = path
        return cls(tuple(paths), documents, tuple(network.eval() for network, _ in loaded))

    def chosen(self, places: Sequence[int]) -> "Checkpoints":
        """Those at some places, in that order."""
        return Checkpoints(
            tuple(self.paths[place] for place in places),
            tuple(self.documents[place] for place in places),
            tuple(self.networks[place] for place in places),
        )

    def network(self, device: torch.device) -> Network | Ensemble:
        """The network on a device; of several the ensemble that gives the mean of their logits."""
        on_device = [network.on(device) for network in self.networks]
        return on_device[0] if len(on_device) == 1 else Ensemble(on_device).eval()

    def require_networks(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError where one alone is of a network that neither the recipe nor own names.

        The networks of an ensemble may differ from the recipe's.
        """
        name, networks = self.documents[0]["architecture"]["name"], networks_of(recipe)
        if len(self.paths) == 1 and name not in (*networks, *own):
            raise CheckpointError(
                f"{self.paths[0]} is a {name}, the recipe {recipe.name} has a {' and a '.join(networks)}; "
                "give the checkpoint's own recipe with --config"
            )

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError unless each was trained on these images, and so on these classes."""
        for path, document in zip(self.paths, self.documents, strict=True):
            _require_draw(path, document, train)

    def require_views(self, channels: int, shape: tuple[int, int]) -> None:
        """Raise ModelError unless each of an ensemble gives logits of views of (H, W).

        One of them may look at pictures of another size than the recipe's network does.
        """
        if len(self.networks) > 1:
            for network, document in zip(self.networks, self.documents, strict=True):
                architecture = Architecture.of(document["architecture"])
                require_logits(network, architecture, network.blank(channels, shape))

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn where one was made with another torch, or another source of its network, than is here."""
        for path, document in zip(self.paths, self.documents, strict=True):
            warn_if_others(document["versions"], str(path), progress, _versions_of(document))

    @property
    def versions(self) -> dict[str, str]:
        """The versions of what their networks depend on, as they are here."""
        return {name: version for one in self.documents for name, version in _versions_of(one).items()}

    def identity(self) -> dict[str, Any]:
        """What their cache's identity has of them; of an ensemble also their weights, which are equal."""
        teachers = [
            {key: document[key] for key in ("kind", "weights_hash", "architecture")}
            for document in self.documents
        ]
        weights = {} if len(teachers) == 1 else {"teacher_weights": equal_shares(len(teachers))}
        return told_teachers(teachers) | weights

    def facts(self) -> dict[str, Any]:
        """What a cache records of them besides its identity; no paths."""
        return told_teachers([teacher_facts(document) for document in self.documents])


def as_paths(given: Path | Sequence[Path]) -> tuple[Path, ...]:
    """One path or several as several."""
    return (given,) if isinstance(given, Path) else tuple(given)


def networks_of(recipe: Recipe) -> list[str]:
    """The networks of a recipe: its teacher's, and its student's, which may be exported as well."""
    return list(dict.fromkeys([recipe.model.name, recipe.of_student.model.name]))


def teacher_facts(document: dict[str, Any]) -> dict[str, Any]:
    """What a cache records of a checkpoint it was made of, besides its identity; no paths."""
    facts = {key: document[key] for key in ("kind", "loss", "seed", "epochs", "accuracy", "precision")}
    facts |= {key: document[key] for key in ("val_accuracy", INITIAL) if key in document}
    recipe = build(document["recipe"]).as_dict()  # complete, whatever version wrote it
    return facts | {"recipe": {key: recipe[key] for key in ("name", "schedule", "distillation")}}


def _versions_of(document: dict[str, Any]) -> dict[str, str]:
    return dict(network_versions(document["architecture"]["name"]))


def _require_draw(path: Path, document: dict[str, Any], train: Samples) -> None:
    digests_of = document.get("digests", PIXELS)
    if digests_of == FILES != train.digests_of:
        raise CheckpointError(
            f"{path} was trained on pictures read from their files on demand, the recipe's views hold them "
            "in memory; give the checkpoint's own recipe with --config"
        )
    fingerprint = train.fingerprint_of(document["fingerprint_version"], digests_of)
    if document["data_fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} was trained on other images than the recipe draws: data fingerprint "
            f"{document['data_fingerprint'][:12]}, here {fingerprint[:12]}; "
            "give the checkpoint's own recipe and data (--config, --data)"
        )
