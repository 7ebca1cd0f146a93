"""`torchvision/<name>`: torchvision's networks for classification."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dive.errors import ModelError
from dive.models.families.library import Library

if TYPE_CHECKING:
    from torch import Tensor, nn

# While they train they return more than logits, which no loss here takes.
_LEFT_OUT = {"googlenet", "inception_v3"}


class Torchvision(Library):
    """What `torchvision.models.list_models` lists for classification."""

    prefix = "torchvision/"

    def names(self) -> list[str]:
        """All, as this torchvision has them."""
        from torchvision import models

        return [self.prefix + name for name in models.list_models(module=models) if name not in _LEFT_OUT]

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """torchvision's network, initialised as torchvision does."""
        if channels != 3:
            raise ModelError(f"{name} takes pictures of 3 channels, these have {channels}")
        from torchvision import models

        return models.get_model(self.inner(name), weights=None, num_classes=classes)

    def _enum(self, name: str) -> Any:
        from torchvision import models

        return models.get_model_weights(self.inner(name))

    def weights(self, name: str) -> list[str]:
        """`IMAGENET1K_V1` and so on, and `DEFAULT`, torchvision's best."""
        return list(self._enum(name).__members__)

    def canonical(self, name: str, weights: str) -> str:
        """`DEFAULT` is another's name."""
        return self._enum(name)[weights].name

    def pretrained(self, name: str, weights: str, channels: int) -> "Mapping[str, Tensor]":
        """As torchvision downloads them, their hash checked, into the cache of `torch.hub`."""
        return self._enum(name)[weights].get_state_dict(progress=False, check_hash=True)
