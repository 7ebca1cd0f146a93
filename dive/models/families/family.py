"""What a family of networks is."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn


class Family(ABC):
    """Networks that are built and named alike. A family is a subclass; one that needs less overrides less.

    runs_named_code: whether a name says which code is run to build its network. Such a name is never taken
    from a file alone.
    """

    runs_named_code: ClassVar[bool] = False

    @abstractmethod
    def belongs(self, name: str) -> bool:
        """Whether a name has this family's form; there need not be such a network."""

    @abstractmethod
    def names(self) -> list[str]:
        """The names there are, to suggest some. Raises ModelError where the library is not installed."""

    def has(self, name: str) -> bool:
        """Whether there is a network of a name that belongs here. Raises ModelError as `names` does."""
        return name in self.names()

    @abstractmethod
    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """The network that takes normalised views (B, channels, H, W) and gives logits (B, classes).

        Its weights are drawn from torch's generator, which the caller has seeded. Raises ModelError where
        it cannot be built.
        """

    def refusal(self, name: str, side: int) -> str:
        """Why a network is not to be trained on views of `side` pixels; an empty text where it may be."""
        return ""

    def synchronised(self, body: "nn.Module") -> "nn.Module":
        """The network with `SyncBatchNorm` in the place of its batch norms; weights and names stay."""
        from torch import nn

        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(body)
        return converted

    def versions(self, name: str) -> dict[str, str]:
        """Versions of what a network is made by, besides torch and torchvision; of a file its `sha256:`."""
        return {}

    def weights(self, name: str) -> list[str]:
        """The names of weights that the library has for a network; the library downloads them."""
        return []

    def canonical(self, name: str, weights: str) -> str:
        """What weights of one of these names are called for good, as one may stand for the latest."""
        return weights

    def pretrained(self, name: str, weights: str, channels: int) -> "Mapping[str, Tensor]":
        """The state dict of weights by name, downloaded if need be. Raises whatever the library raises.

        Asked for one of `weights` alone, so a family that has none need not override it.
        """
        raise KeyError(weights)
