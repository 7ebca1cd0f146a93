"""Networks by the name that a recipe gives them. A family is one module in `families` and one line here.

Importing this module does not import torch.
"""

import difflib
from importlib import import_module
from typing import TYPE_CHECKING

from dive.errors import ModelError
from dive.models.families.family import Family
from dive.printable import MOST_CHARACTERS, excerpt

if TYPE_CHECKING:
    from torch import nn

FAMILIES = (
    "dive.models.families.cifar:Cifar",  # resnetN
    "dive.models.families.imagenet:ImageNet",  # imagenet/resnet10
    "dive.models.families.torchvision:Torchvision",  # torchvision/<name>
    "dive.models.families.timm:Timm",  # timm/<name>
    "dive.models.families.own:Own",  # package.module:callable
)


def _families() -> list[Family]:
    parts = (home.partition(":") for home in FAMILIES)
    return [getattr(import_module(module), name)() for module, _, name in parts]


def family_of(name: str) -> Family:
    """The family that a name belongs to; raises ModelError, with the nearest known names, if there is none.

    >>> type(family_of("resnet32")).__name__, type(family_of("torchvision/resnet50")).__name__
    ('Cifar', 'Torchvision')
    """
    families = _families()
    of_name = next((family for family in families if family.belongs(name)), None)
    if of_name is None:
        raise _unknown(name, families)
    return of_name


def require_known(name: str) -> None:
    """Raise ModelError, with the nearest known names, unless there is a network of this name."""
    family = family_of(name)
    if not family.has(name):
        raise _unknown(name, [family])


def _unknown(name: str, families: list[Family]) -> ModelError:
    known = []
    for family in families:
        try:
            known += family.names()
        except ModelError:  # its library is not installed
            continue
    near = difflib.get_close_matches(name[:MOST_CHARACTERS], known, 3, 0.5)
    return ModelError(
        f"there is no network {excerpt(name)}; "
        + (f"did you mean {', '.join(near)}?" if near else "docs/networks.md lists the networks")
    )


def build_model(name: str, classes: int, channels: int = 3, seed: int = 0) -> "nn.Module":
    """A network by name, which takes normalised views (B, channels, H, W) and returns logits (B, classes).

    It is initialised from `seed` alone; the global random state does not change on any device. Raises
    ModelError if there is no such network or it cannot be built.

    >>> build_model("resnet8", classes=10, channels=1).linear
    Linear(in_features=64, out_features=10, bias=True)
    """
    import torch

    require_known(name)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)  # torch.manual_seed would reseed the GPUs too
        return family_of(name).build(name, classes, channels)


def network_versions(name: str) -> dict[str, str]:
    """Versions of a network's sources besides torch and torchvision; `sha256:…` for a source file."""
    return family_of(name).versions(name)


def parameter_count(model: "nn.Module") -> int:
    """The number of values in all parameters."""
    return sum(parameter.numel() for parameter in model.parameters())
