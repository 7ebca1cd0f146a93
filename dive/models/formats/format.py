"""What a format of exported networks is."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

MARK = "dive-exported-model"  # the value of the key `format` in every file
PICTURES, LOGITS = "pictures", "logits"  # the names of what goes in and what comes out
Network = Callable[["np.ndarray"], "np.ndarray"]  # pictures (B, H, W, 3) uint8 to logits (B, C) float32


class Format(ABC):
    """A way of writing a network that needs no dive to be run."""

    suffix: str

    def require(self) -> None:
        """Raise ModelError where a library that writing needs is missing; it names the pip command."""
        return

    @abstractmethod
    def written(self, program: "torch.export.ExportedProgram", metadata: Mapping[str, str]) -> bytes:
        """The file's content: the network, and texts by name. Raises ModelError where it is too large."""

    @abstractmethod
    def opened(self, content: bytes) -> Network | None:
        """The network of a file's content as its own library runs it; None where that is not installed."""

    @abstractmethod
    def is_own(self, path: Path) -> bool:
        """Whether a file is one that dive exported in this format."""
