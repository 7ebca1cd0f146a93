"""Image files by position, for sources that have one file per image."""

from dataclasses import dataclass

import numpy as np

from dive.data.sources.decode import decode
from dive.data.sources.tree import Files, read


@dataclass(frozen=True)
class PictureFiles:
    """The files of N images, by position.

    names: N paths relative to the root of `files`. side: the number of pixels that each side of an image must
    have; None for any.
    """

    files: Files
    names: list[str]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def where(self, position: int) -> str:
        """The name of a file in messages."""
        return f"{self.files.root}: {self.names[position]}"

    def content(self, position: int) -> bytes:
        """The bytes of a file; raises DataError if it cannot be read."""
        return read(self.files, self.names[position])

    def picture(self, position: int) -> np.ndarray:
        """The image at a position, (H, W, 3) uint8; raises DataError if it cannot be read or decoded."""
        return decode(self.content(position), self.where(position), self.side)

    def subset(self, positions: np.ndarray) -> "PictureFiles":
        """The files at `positions` (M,), in the order of `positions`."""
        return PictureFiles(self.files, [self.names[i] for i in positions], self.side)
