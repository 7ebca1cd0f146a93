"""A file object that keeps its own position: forked processes share the position of a file descriptor."""

import io
import os
from typing import TYPE_CHECKING, BinaryIO

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer


class _Positioned(io.RawIOBase):
    """The bytes of an open file; each read passes its own position to the system (pread)."""

    def __init__(self, file: BinaryIO) -> None:
        self._file, self._at = file, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        size = os.fstat(self._file.fileno()).st_size if whence == os.SEEK_END else 0
        at = {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: size}[whence] + offset
        if at < 0:
            raise OSError(f"a file has no position {at}")
        self._at = at
        return at

    def readinto(self, buffer: "WriteableBuffer") -> int:
        count = os.preadv(self._file.fileno(), [buffer], self._at)
        self._at += count
        return count


def positioned(file: BinaryIO) -> BinaryIO:
    """A reader of an open file, from its beginning, that several forked processes can use at the same time.

    The caller must keep `file` open while it is read, and close it.
    """
    return io.BufferedReader(_Positioned(file))
