"""A file in memory that HDF5 writes to and reads from instead of one on the disk."""

import os

import numpy as np

PAGE = 1 << 16


class MemoryFile:
    """A file-like object in memory for h5py.File; pages that were never written use no memory."""

    def __init__(self) -> None:
        self._pages: dict[int, bytearray] = {}
        self._length = self._position = 0
        self._before: dict[int, bytes] | None = None

    def __len__(self) -> int:
        return self._length

    def at(self, offset: int, size: int) -> bytes:
        """`size` bytes from an offset on."""
        first, last = offset // PAGE, (offset + size - 1) // PAGE
        pages = b"".join(self._pages.get(page, bytes(PAGE)) for page in range(first, last + 1))
        return pages[offset - first * PAGE :][:size]

    def watch(self) -> None:
        """Start recording changes for `changes`."""
        self._before = {}

    def changes(self) -> list[int]:
        """The offsets of the bytes that differ from those when `watch` was called."""
        return [
            page * PAGE + int(at)
            for page, before in (self._before or {}).items()
            for at in np.flatnonzero(np.frombuffer(before, "u1") != np.frombuffer(self._pages[page], "u1"))
        ]

    # The methods that h5py calls.

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move to an offset from the start, the position or the end."""
        self._position = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._position}.get(whence, self._length)
        return self._position

    def tell(self) -> int:
        """The position."""
        return self._position

    def truncate(self, size: int) -> int:
        """Set the length."""
        self._length = size
        return size

    def flush(self) -> None:
        """Does nothing: writes are not buffered."""

    def read(self, size: int) -> bytes:
        """Up to `size` bytes from the position on."""
        content = self.at(self._position, max(0, min(size, self._length - self._position)))
        self._position += len(content)
        return content

    def readinto(self, buffer: memoryview) -> int:
        """Fill a buffer from the position on."""
        view = memoryview(buffer).cast("B")
        content = self.read(len(view))
        view[: len(content)] = content
        return len(content)

    def write(self, content: bytes | memoryview) -> int:
        """Write at the position."""
        view = memoryview(content).cast("B")
        done = 0
        while done < len(view):
            number, start = divmod(self._position, PAGE)
            page = self._pages.setdefault(number, bytearray(PAGE))
            if self._before is not None:
                self._before.setdefault(number, bytes(page))
            some = view[done : done + PAGE - start]
            page[start : start + len(some)] = some
            done += len(some)
            self._position += len(some)
        self._length = max(self._length, self._position)
        return done
