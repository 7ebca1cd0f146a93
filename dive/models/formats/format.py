"""The interface of a format of exported networks."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import torch

MARK = "dive-exported-model"  # the value of the key `format` in every file
PICTURES, LOGITS = "pictures", "logits"  # the names of input and output in a file
Network = Callable[["np.ndarray"], "np.ndarray"]  # images (B, H, W, 3) uint8 to logits (B, C) float32


class Format(ABC):
    """A file format for networks that run without dive. suffix: that of the files."""

    suffix: str

    def require(self) -> None:
        """Raise ModelError, with the pip command, if a library that is needed for writing is missing."""
        return

    @abstractmethod
    def written(self, program: "torch.export.ExportedProgram", metadata: Mapping[str, str]) -> bytes:
        """The content of a file with a network and metadata, strings by name.

        Raises ModelError if the network is too large for the format.
        """

    @abstractmethod
    def opened(self, content: bytes) -> Network | None:
        """The network in a file's content, run by the format's library; None if that is not installed."""

    @abstractmethod
    def is_own(self, path: Path) -> bool:
        """Whether dive exported a file in this format; false if it cannot be read."""
