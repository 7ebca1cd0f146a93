"""`timm/<name>`: the networks of timm, which is an extra."""

import importlib
import importlib.metadata
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from dive.errors import ModelError
from dive.models.families.library import Library

if TYPE_CHECKING:
    from torch import Tensor, nn

PRETRAINED = "pretrained"


def _timm() -> Any:
    try:
        timm = importlib.import_module("timm")
    except ImportError as error:
        raise ModelError(
            f"timm/… needs timm, which cannot be imported ({error}); pip install 'dive-longtail[timm]'"
        ) from error
    return timm


class Timm(Library):
    """The networks that `timm.list_models` lists. A name may have a weights tag (`timm/resnet50.a1_in1k`)."""

    prefix = "timm/"

    def names(self) -> list[str]:
        """All names, without the tags of weights."""
        return [self.prefix + name for name in _timm().list_models()]

    def has(self, name: str) -> bool:
        """Whether timm has the architecture, and weights with the tag if the name has one."""
        timm, inner = _timm(), self.inner(name)
        return timm.is_model(inner) and (inner in timm.list_models() or inner in timm.list_pretrained())

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """timm's network, initialised as timm does."""
        return _timm().create_model(self.inner(name), num_classes=classes, in_chans=channels)

    def synchronised(self, body: "nn.Module") -> "nn.Module":
        """Converted by timm, whose batch norms contain an activation, which torch's conversion would drop."""
        converted: nn.Module = _timm().layers.convert_sync_batchnorm(body)
        return converted

    def versions(self, name: str) -> dict[str, str]:
        """The version of timm, if it is installed."""
        try:
            return {"timm": importlib.metadata.version("timm")}
        except importlib.metadata.PackageNotFoundError:
            return {}

    def weights(self, name: str) -> list[str]:
        """`pretrained`, if timm has any weights for the network."""
        return [PRETRAINED] if _timm().get_pretrained_cfg(self.inner(name)) is not None else []

    def canonical(self, name: str, weights: str) -> str:
        """The tag of the weights, such as `a1_in1k`; `pretrained` if they have none."""
        return _timm().get_pretrained_cfg(self.inner(name)).tag or weights

    def pretrained(self, name: str, weights: str, channels: int) -> "Mapping[str, Tensor]":
        """The weights as timm downloads them, into the cache of `huggingface_hub`, adapted to `channels`."""
        return _timm().create_model(self.inner(name), pretrained=True, in_chans=channels).state_dict()
