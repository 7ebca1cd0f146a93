"""Images that are read from their files when they are needed, by any process.

The digest of a file's bytes is computed once, when the file is indexed, and compared at each read. A file
that has changed since is therefore an error, and its new content is never used.
"""

import hashlib
from dataclasses import dataclass

import numpy as np
from PIL import Image

from dive.data.pictures import DIGEST_BYTES
from dive.data.sources.decode import decode_image, refusing_huge_images
from dive.data.sources.picture_files import PictureFiles
from dive.errors import DataError


@dataclass(frozen=True)
class FilePictures:
    """Images of any sizes, read when they are needed. digests: (N, 16) uint8, of the files' bytes."""

    files: PictureFiles
    digests: np.ndarray

    @property
    def shape(self) -> None:
        """None, because the images may differ in size."""

    @property
    def held(self) -> None:
        """None, because the images are not in memory."""

    @property
    def channels(self) -> int:
        """Channels of each image."""
        return 3

    @property
    def on_demand(self) -> bool:
        """Whether an image is read from its file when it is needed."""
        return True

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int) -> np.ndarray:
        """The image of a row, (H, W, 3) uint8.

        Raises DataError if its file cannot be read, or has changed since it was indexed.
        """
        return np.asarray(self.decoded(row))

    def decoded(self, row: int) -> Image.Image:
        """The image of a row as a Pillow image of mode RGB; raises DataError as `read` does."""
        content = self.files.content(row)
        if file_digest(content) != self.digests[row].tobytes():
            raise DataError(
                f"{self.files.where(row)} has changed since it was indexed; put the file back, or start again"
            )
        with refusing_huge_images():
            return decode_image(content, self.files.where(row), self.files.side)

    def subset(self, rows: np.ndarray) -> "FilePictures":
        """The images at `rows` (M,), in the order of `rows`."""
        return FilePictures(self.files.subset(rows), self.digests[rows])


def file_digest(content: bytes) -> bytes:
    """The first 16 bytes of SHA-256 over a file's bytes."""
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
