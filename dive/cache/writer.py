"""Writing a logit cache: block by block as `NAME.part`, resumed after a stop, sealed at the end.

A part is laid out once, with every byte allocated; then only rows and what is said of their blocks
are written, as plain bytes at places that the layout gives. A resumed part has the identity, the facts
and the producer of the export that began it; everything else must be what would be laid out now.
`dive.cache.reader` says what the file holds.
"""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dive import files, outputs
from dive.cache import seal
from dive.cache.layout import Content, Layout, Place, lay_out, read_at, write_at
from dive.cache.part import Record, begun, open_part, part_path, require_own_files
from dive.cache.reader import crc
from dive.errors import CacheError, OutputError
from dive.progress import Progress
from dive.recipe.documents import differences
from dive.version import __version__

BLOCK_IMAGES = 2048  # views in a block; what a kill can cost, and what one CRC covers


def block_rows(views: int) -> int:
    """Samples in a block."""
    return max(1, BLOCK_IMAGES // views)


class CacheWriter:
    """Writes a cache block by block; use as a context manager, then `finish`.

    Opens `NAME.part` and resumes it where it is of the same identity. Raises OutputError where
    it is of another one, naming the keys that differ, or its record is damaged, or it is not a file of its
    own, and where the disk is too small.

    blocks: how many there are. repaired: whether bytes besides the rows were damaged and are right again.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self._path, self._part = path, part_path(path)
        require_own_files(path)
        n, v, _ = content.shape
        self._samples, self._rows_a_block = n, block_rows(v)
        self.blocks = -(-n // self._rows_a_block)
        self._labels, self._views, self._codec = content.labels, v, content.codec
        self._sample_bytes = v * self._codec.row.itemsize
        record, producer = begun(self._part), f"dive {__version__}"
        if record is not None:
            _require_same(self._part, record, content.identity)
            content = replace(content, identity=record.identity, facts=record.facts)
            producer = record.producer
        self._layout = lay_out(content, producer, self.blocks)
        if record is None:
            done, rows = self._layout.block_done.offset, self._rows_a_block
            record = Record(
                content.identity, content.facts, producer, content.shape, rows, done, self._layout.digest
            )
            _create(self._part, self._layout, record)
        self._handle = open_part(self._part, os.O_RDWR)
        try:
            self.repaired = self._repair(record)
        except BaseException:
            os.close(self._handle)
            raise

    def _repair(self, record: Record) -> bool:
        """Write what never changes and did as it was; whether there was any of it.

        Raises OutputError where the part was begun with other tables, or where they were laid out
        otherwise: its rows may be of other views or samples then.
        """
        damage = self._layout.damage(self._handle)
        if record.layout != self._layout.digest and (record.layout is not None or damage):
            raise OutputError(
                f"{self._part} was begun by {record.producer} with other tables, or laid out by another "
                f"h5py, than dive {__version__} writes here; finish it there, or --force to start over"
            )
        for offset, content in damage:
            self._put(content, offset)
        return bool(damage)

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._handle)

    def rows(self, block: int) -> slice:
        """The samples of a block."""
        start = block * self._rows_a_block
        return slice(start, min(start + self._rows_a_block, self._samples))

    def missing(self) -> list[int]:
        """Blocks still to be written: those not done, and those whose rows do not fit CRC and count."""
        done, crcs, correct = (
            self._table(self._layout.block_done, "u1"),
            self._table(self._layout.block_crc32, "<u4"),
            self._table(self._layout.block_correct, "<u4"),
        )
        return [
            block
            for block in range(self.blocks)
            if done[block] != 1 or not self._is_stored(block, crcs[block], int(correct[block]))
        ]

    def resumed(self, progress: Progress) -> list[int]:
        """The blocks that `missing` gives; says how many are there, and warns where the part was repaired."""
        if self.repaired:
            progress.warn("the unfinished cache was damaged outside its rows and is repaired; check the disk")
        missing = self.missing()
        if done := self.blocks - len(missing):
            progress.note(f"resuming: {done} of {self.blocks} blocks are written already")
        return missing

    def _is_stored(self, block: int, wanted_crc: int, correct: int) -> bool:
        """Whether a block's rows, as they lie on the disk, have this CRC32 and are right in so many views."""
        rows = self.rows(block)
        count = rows.stop - rows.start
        offset = self._layout.rows.offset + rows.start * self._sample_bytes
        content = read_at(self._handle, count * self._sample_bytes, offset)
        row = self._codec.row
        stored = np.frombuffer(content, row.base).reshape(count, self._views, *row.shape)
        return crc(stored) == wanted_crc and self._codec.confirms(stored, self._labels[rows], correct)

    def _table(self, place: Place, kind: str) -> np.ndarray:
        return np.frombuffer(read_at(self._handle, place.size, place.offset), kind)

    def _put(self, content: bytes | memoryview, offset: int) -> None:
        try:
            write_at(self._handle, content, offset)
        except OSError as error:
            error.filename = str(self._part)
            raise

    def write(self, block: int, values: np.ndarray) -> None:
        """Write a block's logits (rows, V, C) or, of an encoding of features, those (rows, V, D).

        Raises CacheError where they are not finite as they are stored.
        """
        rows, tables = self.rows(block), self._layout
        try:
            stored, correct = self._codec.encode_counted(values, self._labels[rows])
        except ValueError as error:
            raise CacheError(
                f"{self._path}: the teacher's {error} (samples {rows.start} to {rows.stop - 1}); "
                "try --store float32, or another teacher"
            ) from error
        self._put(stored.reshape(-1).view("u1").data, tables.rows.offset + rows.start * self._sample_bytes)
        self._put(crc(stored).to_bytes(4, "little"), tables.block_crc32.offset + 4 * block)
        self._put(correct.to_bytes(4, "little"), tables.block_correct.offset + 4 * block)
        self._put(
            b"\1", tables.block_done.offset + block
        )  # the last: a kill before it costs this block alone

    def finish(self) -> None:
        """Mark the cache complete, seal it, flush it to the disk (fsync) and rename it to its final name.

        The record is cut off once the seal is on the disk: a kill in between leaves one of the two whole.
        """
        layout = self._layout
        self._put(b"\1", layout.complete.offset)
        crcs = self._table(layout.block_crc32, "<u4")
        place = (layout.rows.offset, layout.rows.size)
        with os.fdopen(os.dup(self._handle), "r+b") as file:
            seal.write(file, crcs, place, self._rows_a_block * self._sample_bytes, layout.length)
        os.fsync(self._handle)
        os.ftruncate(self._handle, layout.length)
        os.fsync(self._handle)
        files.publish(self._part, self._path)


def unfinished(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the unfinished export of `path`, None where there is none.

    Raises OutputError where it is of another identity, naming the keys that differ, or damaged.
    """
    part = part_path(path)
    if (record := begun(part)) is None:
        return None
    _require_same(part, record, identity)
    return record.facts


def _require_same(part: Path, record: Record, identity: dict[str, Any]) -> None:
    if different := differences(record.identity, identity):
        raise OutputError(
            f"{part} is an unfinished export of another recipe ({'; '.join(different)}); "
            "resume it with that recipe, give another --out, or --force to start over"
        )
    if record.block_rows != (rows := block_rows(record.shape[1])):
        raise OutputError(
            f"{part} has blocks of {record.block_rows} samples, here of {rows}: its tables do not fit its "
            "rows; --force starts over"
        )


def _create(part: Path, layout: Layout, record: Record) -> None:
    """Lay a new file out whole, with every byte allocated, and force it to the disk before the first row."""
    trailer = record.trailer(layout.length)
    size = layout.length + len(trailer)
    outputs.require_space(part, size)
    fresh = files.temporary_name(part)
    fresh.unlink(missing_ok=True)
    handle = os.open(fresh, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666)
    try:
        try:
            os.posix_fallocate(handle, 0, size)
            layout.write(handle)
            write_at(handle, trailer, layout.length)
            os.fsync(handle)
        finally:
            os.close(handle)
        files.publish(fresh, part)
    except BaseException as error:
        fresh.unlink(missing_ok=True)
        if isinstance(error, OSError):
            raise OutputError(
                f"{part} needs {files.readable_size(size)} and cannot be laid out: {error.strerror}; "
                "make room or raise the limit, or choose fewer --views or another --out"
            ) from error
        raise
