"""Writing a logit cache: block by block as `NAME.part`, resumed after a stop, sealed at the end.

A part is allocated whole, and its layout is written first. After that only rows and the tables of their
blocks are written, as plain bytes at the places that the layout gives. A resumed part keeps the identity, the
facts and the producer of the export that began it; the rest of its layout must be the one computed now.
`dive.cache.reader` describes the content of the file, `dive.cache.shards` how several processes write one
cache.
"""

import os
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from dive import files, outputs
from dive.cache import seal
from dive.cache.block_file import BlockFile
from dive.cache.layout import Content, Layout, lay_out, write_at
from dive.cache.part import Record, begun, part_path, require_own_file
from dive.errors import CacheError, OutputError
from dive.progress import Progress
from dive.recipe.documents import differences
from dive.version import __version__

BLOCK_IMAGES = 2048  # views in a block: the most that a kill can lose, and what one CRC covers


def block_rows(views: int) -> int:
    """The number of samples in a block if each has `views` views."""
    return max(1, BLOCK_IMAGES // views)


class BlockWriter(BlockFile):
    """Writes blocks to a part or a shard, which is created or resumed; use as a context manager.

    path: the future cache. file: the part or shard. record: the record of the file, None if the file does not
    exist yet; the caller checks that its identity is the same. new: the record of a new file, in which
    `block_done` and `layout` are filled in here. held: the blocks that the file has room for. Raises
    OutputError if the file was begun with other tables, if it is not a regular file, or if the disk is too
    small.

    repaired: whether bytes outside the rows were damaged and have been repaired.
    """

    def __init__(
        self, path: Path, file: Path, content: Content, record: Record | None, new: Record, held: range
    ) -> None:
        self._path = path
        require_own_file(file)
        begun_as = new if record is None else record
        content = replace(content, identity=begun_as.identity, facts=begun_as.facts)
        whole = lay_out(content, begun_as.producer, begun_as.blocks)
        layout = whole.narrowed(_held_bytes(content, begun_as, held))
        if record is None:
            begun_as = replace(new, block_done=layout.block_done.offset, layout=layout.digest)
            _create(file, layout, begun_as)
        self._record = begun_as
        super().__init__(file, os.O_RDWR, content, layout, begun_as.block_rows, held)
        try:
            self.repaired = self._repair()
        except BaseException:
            os.close(self._handle)
            raise

    def _repair(self) -> bool:
        """Restore changed bytes that must never change; returns whether there were any.

        Raises OutputError if the file was begun with other tables or another layout, since its rows may then
        be of other views or samples.
        """
        damage, record = self._layout.damage(self._handle), self._record
        if record.layout != self._layout.digest and (record.layout is not None or damage):
            raise OutputError(
                f"{self.file} was begun by {record.producer} with other tables, or with another version of "
                f"h5py, than dive {__version__} uses here; finish it there, or --force to start over"
            )
        for offset, content in damage:
            self._put(content, offset)
        return bool(damage)

    def resumed(self, progress: Progress) -> list[int]:
        """The blocks still to be written; reports how many are done, and warns if the file was repaired."""
        if self.repaired:
            progress.warn("the unfinished cache was damaged outside its rows, now repaired; check the disk")
        missing = self.missing()
        if done := self.blocks - len(missing):
            progress.note(f"resuming: {done} of {self.blocks} blocks are written already")
        return missing

    def take(self, file: Path, record: Record, held: range, wanted: Iterable[int]) -> list[int]:
        """Copy the wanted blocks that another file has; returns those that it does not have.

        record: the record of the other file. held: the blocks that it has room for. Raises OutputError unless
        its identity, facts, producer and tables are the same; the error names what differs.
        """
        require_same(file, record, self._record)
        layout = self._layout.narrowed(_held_bytes(self._content, record, held))
        rest = []
        with BlockFile(file, os.O_RDONLY, self._content, layout, record.block_rows, held) as other:
            if record.layout is None and other.is_damaged():  # a sealed part has no digest of its layout
                raise OutputError(f"{file} was begun with other tables; give another --out, or --force")
            for block in wanted:
                if (found := other.stored(block)) is None:
                    rest.append(block)
                else:
                    self._put_block(block, *found)
        return rest

    def write(self, block: int, values: np.ndarray) -> None:
        """Write a block's logits (rows, V, C) or, for an encoding of features, its features (rows, V, D).

        Raises CacheError if a value is not finite in the encoding, or gives a logit that is not finite.
        """
        rows = self.rows(block)
        try:
            stored, correct = self._codec.encode_counted(values, self._content.labels[rows])
        except ValueError as error:
            raise CacheError(
                f"{self._path}: the teacher's {error} (samples {rows.start} to {rows.stop - 1}); "
                f"{self._remedy(values)}"
            ) from error
        self._put_block(block, stored.reshape(-1).view("u1").data, correct)

    def _remedy(self, values: np.ndarray) -> str:
        """The advice to the user if values, or their logits, are not finite in the encoding."""
        head = self._codec.head
        with np.errstate(over="ignore", invalid="ignore"):
            logits = values if head is None else head.logits(values)
        if np.isfinite(logits).all():
            return "--store float32 --force starts over and can store larger values"
        return "no encoding can store them: try another --precision, or another teacher"

    def _seal(self, magic: bytes, length: int) -> None:
        """Mark the blocks complete and seal a file of this length; force it to the disk (fsync)."""
        layout = self._layout
        self._put(b"\1", layout.complete.offset)
        crcs = self._table(layout.block_crc32, "<u4")[self.held.start : self.held.stop]
        place = (layout.rows.offset, layout.rows.size)
        with os.fdopen(os.dup(self._handle), "r+b") as file:
            seal.write(file, crcs, place, self._rows_a_block * self._sample_bytes, length, magic)
        os.fsync(self._handle)


class CacheWriter(BlockWriter):
    """Writes a cache block by block; use as a context manager, then `finish`.

    Creates `NAME.part`, or resumes it if its identity is the same. producer: the program that a new cache
    names; this version of dive if not given. Raises OutputError if the part has another identity (the error
    names the keys that differ), if its record is damaged, if it is not a regular file, or if the disk is too
    small.
    """

    def __init__(self, path: Path, content: Content, producer: str | None = None) -> None:
        part = part_path(path)
        require_own_file(part)
        if (record := begun(part)) is not None:
            _require_same_identity(part, record, content.identity)
        new = new_record(content, producer)
        super().__init__(path, part, content, record, new, range(new.blocks))

    def finish(self, publishing: AbstractContextManager[None] | None = None) -> None:
        """Mark the cache complete, seal it, flush it to the disk (fsync) and rename it to its final name.

        The record is removed only when the seal is on the disk, so that a kill leaves at least one of the two
        valid. publishing: entered when the seal is on the disk, left when the cache has its final name.
        """
        self._seal(seal.CACHE, self._layout.length)
        os.ftruncate(self._handle, self._layout.length)
        os.fsync(self._handle)
        with publishing or nullcontext():
            files.publish(self.file, self._path)


def new_record(content: Content, producer: str | None = None) -> Record:
    """The record of a new export of this content; `BlockWriter` fills in `block_done` and `layout`.

    producer: this version of dive if not given.
    """
    producer, rows = producer or f"dive {__version__}", block_rows(content.shape[1])
    return Record(content.identity, content.facts, producer, content.shape, rows, 0, None)


def unfinished(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the unfinished export of `path`, or None if there is none.

    Raises OutputError if it is damaged or has another identity; the error names the keys that differ.
    """
    part = part_path(path)
    if (record := begun(part)) is None:
        return None
    _require_same_identity(part, record, identity)
    return record.facts


def _require_same_identity(part: Path, record: Record, identity: dict[str, Any]) -> None:
    if record.share is not None:
        raise OutputError(f"{part} is a shard under another name; move it away")
    if different := differences(record.identity, identity):
        raise OutputError(
            f"{part} is an unfinished export of another recipe ({'; '.join(different)}); "
            "resume it with that recipe, give another --out, or --force to start over"
        )
    if record.block_rows != (rows := block_rows(record.shape[1])):
        raise OutputError(
            f"{part} has blocks of {record.block_rows} samples, but this version of dive writes blocks of "
            f"{rows}; --force starts over"
        )


def require_same(file: Path, record: Record, wanted: Record) -> None:
    """Raise OutputError, which names what differs, if a file has blocks of another export.

    record: the record of the file. wanted: the record of this export.
    """
    theirs, ours = ({"producer": one.producer} | one.facts for one in (record, wanted))
    different = differences(record.identity, wanted.identity) + differences(theirs, ours)
    if different:
        raise OutputError(
            f"{file} is of another export ({'; '.join(different)}); finish that export as it was begun, give "
            "another --out, or --force to start over"
        )
    same = (record.shape, record.block_rows) == (wanted.shape, wanted.block_rows)
    if not same or (None not in (record.layout, wanted.layout) and record.layout != wanted.layout):
        raise OutputError(
            f"{file} was begun with other tables, or with another version of h5py; give another --out, or "
            "--force to start over"
        )


def _held_bytes(content: Content, record: Record, held: range) -> int:
    """The size in bytes of the rows of the blocks `held`."""
    n, v, _ = content.shape
    samples = min(n, held.stop * record.block_rows) - min(n, held.start * record.block_rows)
    return samples * v * content.codec.row.itemsize


def _create(part: Path, layout: Layout, record: Record) -> None:
    """Create a file with all its bytes allocated, layout and record written, and flushed (fsync).

    It gets its name only then. Raises OutputError if there is no room for it.
    """
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
                f"{part} needs {files.readable_size(size)} and cannot be allocated: {error.strerror}; "
                "make room or raise the limit, or choose fewer --views or another --out"
            ) from error
        raise
