"""`torchvision/<name>`: torchvision's networks for classification."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dive.errors import ModelError
from dive.models.families.library import Library

if TYPE_CHECKING:
    from torch import Tensor, nn

# In training mode their forward pass returns auxiliary logits too, which the losses do not accept.
_LEFT_OUT = {"googlenet", "inception_v3"}


class Torchvision(Library):
    """The networks for classification that `torchvision.models.list_models` lists."""

    prefix = "torchvision/"

    def names(self) -> list[str]:
        """All names that the installed torchvision has."""
        from torchvision import models

        return [self.prefix + name for name in models.list_models(module=models) if name not in _LEFT_OUT]

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """torchvision's network, initialised as torchvision does."""
        if channels != 3:
            raise ModelError(f"{name} takes images of 3 channels, these have {channels}")
        from torchvision import models

        return models.get_model(self.inner(name), weights=None, num_classes=classes)

    def _enum(self, name: str) -> Any:
        from torchvision import models

        return models.get_model_weights(self.inner(name))

    def weights(self, name: str) -> list[str]:
        """`IMAGENET1K_V1` and so on, and `DEFAULT`, which stands for torchvision's best weights."""
        return list(self._enum(name).__members__)

    def canonical(self, name: str, weights: str) -> str:
        """The name of the weights; for `DEFAULT`, the name that it stands for."""
        return self._enum(name)[weights].name

    def pretrained(self, name: str, weights: str, channels: int) -> "Mapping[str, Tensor]":
        """The weights as torchvision downloads them, into the cache of `torch.hub`; their hash is checked."""
        return self._enum(name)[weights].get_state_dict(progress=False, check_hash=True)
