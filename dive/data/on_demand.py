"""Pictures that are read from their files when they are needed, by any process.

A file is known by the digest of its bytes, taken once when it is indexed and compared at each read: a picture
that changed since is an error, never another picture.
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
    """Pictures of any sizes, read when they are needed. digests: (N, 16) uint8, of the files' bytes."""

    files: PictureFiles
    digests: np.ndarray

    @property
    def shape(self) -> None:
        """They may differ in size."""

    @property
    def held(self) -> None:
        """They are not in memory."""

    @property
    def channels(self) -> int:
        """Channels of each."""
        return 3

    @property
    def on_demand(self) -> bool:
        """Whether a picture is read from its file when it is needed."""
        return True

    def __len__(self) -> int:
        return len(self.files)

    def read(self, row: int) -> np.ndarray:
        """The picture of a row, (H, W, 3) uint8; raises DataError where its file is not as it was indexed."""
        return np.asarray(self.decoded(row))

    def decoded(self, row: int) -> Image.Image:
        """The picture of a row as a Pillow image of mode RGB; raises DataError as `read` does."""
        content = self.files.content(row)
        if file_digest(content) != self.digests[row].tobytes():
            raise DataError(
                f"{self.files.where(row)} has changed since it was indexed; put the file back, or start again"
            )
        with refusing_huge_images():
            return decode_image(content, self.files.where(row), self.files.side)

    def subset(self, rows: np.ndarray) -> "FilePictures":
        """The pictures of some rows (M,), in their order."""
        return FilePictures(self.files.subset(rows), self.digests[rows])


def file_digest(content: bytes) -> bytes:
    """The first 16 bytes of SHA-256 over a file's bytes."""
    return hashlib.sha256(content).digest()[:DIGEST_BYTES]
