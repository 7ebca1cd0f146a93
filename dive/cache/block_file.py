"""The blocks of a cache that is not finished, in a file of plain bytes that a layout describes.

The file holds all blocks (a part) or some (a shard). HDF5 never opens it.
"""

import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from dive.cache.layout import Content, Layout, Place, read_at, write_at
from dive.cache.part import open_part


class BlockFile:
    """A file with blocks of an unfinished cache, open; use as a context manager.

    layout: of this file. rows_a_block: samples in a block. held: the blocks that it has room for, counted
    as in the finished cache. flags: os.O_RDONLY or os.O_RDWR. Raises OSError where it cannot be opened.
    """

    def __init__(
        self, file: Path, flags: int, content: Content, layout: Layout, rows_a_block: int, held: range
    ) -> None:
        self.file, self.held, self._content = file, held, content
        self._codec, self._rows_a_block = content.codec, rows_a_block
        self._sample_bytes = content.shape[1] * self._codec.row.itemsize
        self._layout = layout
        self._handle = open_part(file, flags)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        os.close(self._handle)

    @property
    def blocks(self) -> int:
        """How many blocks it has room for."""
        return len(self.held)

    def is_damaged(self) -> bool:
        """Whether bytes besides the rows, and what is said of them, are others than the layout's."""
        return bool(self._layout.damage(self._handle))

    def rows(self, block: int) -> slice:
        """The samples of a block."""
        start = block * self._rows_a_block
        return slice(start, min(start + self._rows_a_block, self._content.shape[0]))

    def _place(self, block: int) -> Place:
        """Where the rows of a block lie."""
        rows, before = self.rows(block), self.held.start * self._rows_a_block
        offset = self._layout.rows.offset + (rows.start - before) * self._sample_bytes
        return Place(offset, (rows.stop - rows.start) * self._sample_bytes)

    def missing(self) -> list[int]:
        """The blocks that are not there: those not done, and those whose rows do not fit CRC and count."""
        done = self._table(self._layout.block_done, "u1")
        return [block for block in self.held if done[block] != 1 or self.stored(block) is None]

    def stored(self, block: int) -> tuple[bytes, int] | None:
        """The rows of a block as bytes, and in how many of its views they are right.

        None where it is not done, or its rows do not match their CRC or are right in other views.
        """
        layout = self._layout
        if block not in self.held or read_at(self._handle, 1, layout.block_done.offset + block) != b"\1":
            return None
        wanted_crc, correct = (
            int.from_bytes(read_at(self._handle, 4, table.offset + 4 * block), "little")
            for table in (layout.block_crc32, layout.block_correct)
        )
        rows, place, row = self.rows(block), self._place(block), self._codec.row
        content = read_at(self._handle, place.size, place.offset)
        if len(content) != place.size:
            return None
        stored = np.frombuffer(content, row.base).reshape(rows.stop - rows.start, -1, *row.shape)
        sound = zlib.crc32(content) == wanted_crc and self._codec.confirms(
            stored, self._content.labels[rows], correct
        )
        return (content, correct) if sound else None

    def _table(self, place: Place, kind: str) -> np.ndarray:
        return np.frombuffer(read_at(self._handle, place.size, place.offset), kind)

    def _put(self, content: bytes | memoryview, offset: int) -> None:
        try:
            write_at(self._handle, content, offset)
        except OSError as error:
            error.filename = str(self.file)
            raise

    def _put_block(self, block: int, content: bytes | memoryview, correct: int) -> None:
        layout = self._layout
        self._put(content, self._place(block).offset)
        self._put(zlib.crc32(content).to_bytes(4, "little"), layout.block_crc32.offset + 4 * block)
        self._put(correct.to_bytes(4, "little"), layout.block_correct.offset + 4 * block)
        self._put(
            b"\1", layout.block_done.offset + block
        )  # the last: a kill before it costs this block alone
