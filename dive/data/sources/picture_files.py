"""The files of pictures by position: what a source that has a file for each picture gives beside them."""

from dataclasses import dataclass

import numpy as np

from dive.data.sources.decode import decode
from dive.data.sources.tree import Files, read


@dataclass(frozen=True)
class PictureFiles:
    """Files of pictures by position.

    names: N, below the root of `files`. side: the pixels that each side must have, None for any.
    """

    files: Files
    names: list[str]
    side: int | None = None

    def __len__(self) -> int:
        return len(self.names)

    def where(self, position: int) -> str:
        """What names a file in messages."""
        return f"{self.files.root}: {self.names[position]}"

    def content(self, position: int) -> bytes:
        """A file's bytes; raises DataError."""
        return read(self.files, self.names[position])

    def picture(self, position: int) -> np.ndarray:
        """The picture of a position, (H, W, 3) uint8; raises DataError."""
        return decode(self.content(position), self.where(position), self.side)

    def subset(self, positions: np.ndarray) -> "PictureFiles":
        """The files of some positions (M,), in their order."""
        return PictureFiles(self.files, [self.names[i] for i in positions], self.side)
