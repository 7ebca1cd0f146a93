"""The blocks of an unfinished cache, read from and written to a file as plain bytes.

The file has all blocks (a part) or some of them (a shard). A layout gives the place of each table. HDF5 never
opens the file.
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
    """An open file with blocks of an unfinished cache; use as a context manager.

    layout: the layout of this file. rows_a_block: samples in a block. held: the blocks that the file has room
    for, numbered as in the finished cache. flags: os.O_RDONLY or os.O_RDWR. Raises OSError if the file cannot
    be opened.
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
        """How many blocks the file has room for."""
        return len(self.held)

    def is_damaged(self) -> bool:
        """Whether a byte that must never change differs from the layout."""
        return bool(self._layout.damage(self._handle))

    def rows(self, block: int) -> slice:
        """The samples of a block, as a slice."""
        start = block * self._rows_a_block
        return slice(start, min(start + self._rows_a_block, self._content.shape[0]))

    def _place(self, block: int) -> Place:
        """The place of a block's rows in the file."""
        rows, before = self.rows(block), self.held.start * self._rows_a_block
        offset = self._layout.rows.offset + (rows.start - before) * self._sample_bytes
        return Place(offset, (rows.stop - rows.start) * self._sample_bytes)

    def missing(self) -> list[int]:
        """The blocks still to be written: not done, or with rows that do not match their CRC or count."""
        done = self._table(self._layout.block_done, "u1")
        return [block for block in self.held if done[block] != 1 or self.stored(block) is None]

    def stored(self, block: int) -> tuple[bytes, int] | None:
        """The rows of a block as bytes, and the number of its views that the teacher classifies correctly.

        None if the block is not done, or if its rows do not match their CRC or that number.
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
        )  # last, so that a kill before it loses only this block
