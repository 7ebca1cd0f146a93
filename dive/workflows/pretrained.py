"""The network of a recipe that needs no training: it has pretrained weights and keeps their last layer."""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from dive.errors import ModelError
from dive.models.network import Architecture, Network, require_logits
from dive.models.weights import InitialWeights, initial_weights
from dive.progress import Progress
from dive.recipe.recipe import Model, Recipe


@dataclass(frozen=True)
class Pretrained:
    """The network of a recipe's `model` part, not built yet. channels: of the images that it takes."""

    model: Model
    channels: int

    @classmethod
    def of(cls, recipe: Recipe, path: Path) -> "Pretrained":
        """The network of the recipe at `path`.

        Raises ModelError unless the recipe has `model.weights` and `model.head: keep`.
        """
        model = recipe.model
        if model.weights is None or model.head != "keep":
            raise ModelError(
                f"{path} has no finished network: give model.weights and model.head keep, or a checkpoint "
                "that dive teacher or dive student trained from it"
            )
        return cls(model, recipe.data.channels)

    @cached_property
    def initial(self) -> InitialWeights:
        """The weights, not loaded yet: of a file only the SHA-256 is computed.

        Raises ModelError if there are no such weights.
        """
        assert self.model.weights is not None and self.model.head is not None, "`of` checks this"
        return initial_weights(self.model.name, self.model.weights, self.model.head)

    def architecture(self, classes: int) -> Architecture:
        """The architecture of the network with this number of classes."""
        given = self.model.input
        return Architecture(self.model.name, classes, self.channels, given.mean, given.std, given.size)

    def classes(self, shape: tuple[int, int], trial: int) -> int | None:
        """The number of classes of the weights, None if the network does not end in a linear layer.

        shape: (H, W) of a view. trial: the number of classes of the network that is built to find out; any
        number will do. Raises ModelError if the weights cannot be loaded or the network does not take such
        views.
        """
        network = self._built(trial, shape)
        return self.initial.classes(network.body, network.normalised(network.blank(self.channels, shape, 1)))

    def network(self, classes: int, shape: tuple[int, int], progress: Progress) -> Network:
        """The network with its weights, in eval mode on the CPU; notes which weights were loaded.

        shape: (H, W) of a view. Raises ModelError if the weights do not fit, or if the network does not
        return logits (B, classes) of such views.
        """
        network = self._built(classes, shape)
        views = network.blank(self.channels, shape, 1)
        progress.note(self.initial.put_into(network.body, network.normalised(views)))
        return network

    def _built(self, classes: int, shape: tuple[int, int]) -> Network:
        architecture = self.architecture(classes)
        network = architecture.build().eval()
        views = network.blank(self.channels, shape, 1)
        require_logits(network, architecture, views)  # which also gives lazy parameters their shapes
        return network
