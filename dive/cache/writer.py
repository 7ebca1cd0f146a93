"""Writing a logit cache: block by block as `NAME.part`, resumed after a stop, sealed at the end.

A part is laid out once, with every byte allocated; then only rows and what is said of their blocks
are written, as plain bytes at places that the layout gives. A resumed part has the identity, the facts
and the producer of the export that began it; everything else must be what would be laid out now.
`dive.cache.reader` says what the file holds, `dive.cache.shards` how several processes write one.
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

BLOCK_IMAGES = 2048  # views in a block; what a kill can cost, and what one CRC covers


def block_rows(views: int) -> int:
    """Samples in a block."""
    return max(1, BLOCK_IMAGES // views)


class BlockWriter(BlockFile):
    """Writes blocks into a part or a shard, which is laid out anew or resumed; use as a context manager.

    path: the cache to be. record: how the file was begun, None where it is not there yet; it must be of the
    same identity. new: how it is begun then, with `block_done` and `layout` to be filled in. held: the blocks
    that the file is for. Raises OutputError where it was begun with other tables, or is not a file of its
    own, and where the disk is too small.

    repaired: whether bytes besides the rows were damaged and are right again.
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
        """Write what never changes and did as it was; whether there was any of it.

        Raises OutputError where the file was begun with other tables, or where they were laid out
        otherwise: its rows may be of other views or samples then.
        """
        damage, record = self._layout.damage(self._handle), self._record
        if record.layout != self._layout.digest and (record.layout is not None or damage):
            raise OutputError(
                f"{self.file} was begun by {record.producer} with other tables, or laid out by another "
                f"h5py, than dive {__version__} writes here; finish it there, or --force to start over"
            )
        for offset, content in damage:
            self._put(content, offset)
        return bool(damage)

    def resumed(self, progress: Progress) -> list[int]:
        """The blocks that `missing` gives; says how many are there, and warns where the file was repaired."""
        if self.repaired:
            progress.warn("the unfinished cache was damaged outside its rows and is repaired; check the disk")
        missing = self.missing()
        if done := self.blocks - len(missing):
            progress.note(f"resuming: {done} of {self.blocks} blocks are written already")
        return missing

    def take(self, file: Path, record: Record, held: range, wanted: Iterable[int]) -> list[int]:
        """Copy those of the wanted blocks that another file has; returns the others.

        record: how that file was begun, and held: the blocks that it is for. Raises OutputError, which says
        what differs, unless it is of the same identity, facts and tables.
        """
        require_same(file, record, self._record)
        layout = self._layout.narrowed(_held_bytes(self._content, record, held))
        rest = []
        with BlockFile(file, os.O_RDONLY, self._content, layout, record.block_rows, held) as other:
            if record.layout is None and other.is_damaged():  # it is sealed, which does not tell its layout
                raise OutputError(f"{file} was begun with other tables; give another --out, or --force")
            for block in wanted:
                if (found := other.stored(block)) is None:
                    rest.append(block)
                else:
                    self._put_block(block, *found)
        return rest

    def write(self, block: int, values: np.ndarray) -> None:
        """Write a block's logits (rows, V, C) or, of an encoding of features, those (rows, V, D).

        Raises CacheError where they are not finite as they are stored.
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
        """What helps where values, or the logits that they make, are not finite as they are stored."""
        head = self._codec.head
        with np.errstate(over="ignore", invalid="ignore"):
            logits = values if head is None else head.logits(values)
        if np.isfinite(logits).all():
            return "--store float32 --force starts over and holds larger ones"
        return "they are not in float32 either: try another --precision, or another teacher"

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

    Opens `NAME.part` and resumes it where it is of the same identity. producer: of a cache that is begun,
    this dive if not given. Raises OutputError where it is of another identity, naming the keys that differ,
    or its record is damaged, or it is not a file of its own, and where the disk is too small.
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

        The record is cut off once the seal is on the disk: a kill in between leaves one of the two whole.
        publishing: entered when the seal is on the disk, left when the cache is at its place.
        """
        self._seal(seal.CACHE, self._layout.length)
        os.ftruncate(self._handle, self._layout.length)
        os.fsync(self._handle)
        with publishing or nullcontext():
            files.publish(self.file, self._path)


def new_record(content: Content, producer: str | None = None) -> Record:
    """How an export of some content begins; `block_done` and `layout` are told when it is laid out."""
    producer, rows = producer or f"dive {__version__}", block_rows(content.shape[1])
    return Record(content.identity, content.facts, producer, content.shape, rows, 0, None)


def unfinished(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the unfinished export of `path`, None where there is none.

    Raises OutputError where it is of another identity, naming the keys that differ, or damaged.
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
            f"{part} has blocks of {record.block_rows} samples, here of {rows}: its tables do not fit its "
            "rows; --force starts over"
        )


def require_same(file: Path, record: Record, wanted: Record) -> None:
    """Raise OutputError, which says what differs, where a file has blocks of another export."""
    theirs, ours = ({"producer": one.producer} | one.facts for one in (record, wanted))
    different = differences(record.identity, wanted.identity) + differences(theirs, ours)
    if different:
        raise OutputError(
            f"{file} is of another export ({'; '.join(different)}); finish that one as it was begun, give "
            "another --out, or --force to start over"
        )
    same = (record.shape, record.block_rows) == (wanted.shape, wanted.block_rows)
    if not same or (None not in (record.layout, wanted.layout) and record.layout != wanted.layout):
        raise OutputError(
            f"{file} was begun with other tables, or laid out by another h5py; give another --out, or "
            "--force to start over"
        )


def _held_bytes(content: Content, record: Record, held: range) -> int:
    """Bytes of the rows of a run of blocks."""
    n, v, _ = content.shape
    samples = min(n, held.stop * record.block_rows) - min(n, held.start * record.block_rows)
    return samples * v * content.codec.row.itemsize


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
