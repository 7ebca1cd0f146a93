"""The interface of a family of networks."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    from torch import Tensor, nn


class Family(ABC):
    """Networks that are named and built in the same way. A family is a subclass.

    It must override the abstract methods, and overrides others only if their defaults do not fit.
    runs_named_code: whether the name of a network determines which code is run to build it. Such a name is
    never taken from a file alone.
    """

    runs_named_code: ClassVar[bool] = False

    @abstractmethod
    def belongs(self, name: str) -> bool:
        """Whether a name has the form of this family's names; a network of this name need not exist."""

    @abstractmethod
    def names(self) -> list[str]:
        """The known names, for suggestions. Raises ModelError if the library is not installed."""

    def has(self, name: str) -> bool:
        """Whether a network exists, for a name that `belongs`. Raises ModelError as `names` does."""
        return name in self.names()

    @abstractmethod
    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """The network, which takes normalised views (B, channels, H, W) and returns logits (B, classes).

        Its weights are initialised from torch's generator, which the caller has seeded. Raises ModelError if
        it cannot be built.
        """

    def refusal(self, name: str, side: int) -> str:
        """Why a network should not see views of `side` pixels a side, as a message; empty if it may."""
        return ""

    def synchronised(self, body: "nn.Module") -> "nn.Module":
        """The network with its batch norms replaced by `SyncBatchNorm`; weights and names do not change."""
        from torch import nn

        converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(body)
        return converted

    def versions(self, name: str) -> dict[str, str]:
        """Versions of a network's sources besides torch and torchvision; `sha256:…` for a source file."""
        return {}

    def weights(self, name: str) -> list[str]:
        """The names of the pretrained weights of a network, which its library downloads."""
        return []

    def canonical(self, name: str, weights: str) -> str:
        """The permanent name of weights; `weights` may stand for the latest ones, as `DEFAULT` does."""
        return weights

    def pretrained(self, name: str, weights: str, channels: int) -> "Mapping[str, Tensor]":
        """The state dict of named weights, downloaded if necessary. Raises whatever the library raises.

        It is called only with a name that `self.weights` returned, so a family without weights need not
        override it.
        """
        raise KeyError(weights)
