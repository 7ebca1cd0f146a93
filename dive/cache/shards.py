"""Shards: files with some blocks of one cache, each written by its own process, merged at the end.

A shard is a part without the rows of other blocks. Its name has the numbers of its first and last block:
`NAME.h5.shard-FIRST-LAST`. A finished shard is sealed in place. `dive.cache.plan` has what the shards of a
cache must have in common.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

import h5py
import numpy as np

from dive import files, outputs
from dive.cache import seal
from dive.cache.layout import Content
from dive.cache.memory_file import MemoryFile
from dive.cache.part import DamagedError, OtherVersionError, Record, begun, ends_in_record, require_own_file
from dive.cache.plan import Plan, plan_path, planning
from dive.cache.seal import Seal
from dive.cache.tables import FOREIGN, read_tables
from dive.cache.writer import BlockWriter, new_record, require_same
from dive.errors import BusyError, CacheError
from dive.progress import Progress

_ENDING = r"\.shard-(\d{6,12})-(\d{6,12})"
_PIECE = 1 << 20


@dataclass(frozen=True)
class Share:
    """Share `number` (from 1) of `of` shares of a cache's blocks, divided as evenly as possible."""

    number: int
    of: int

    def __str__(self) -> str:
        """The share in the form that `--shard` takes.

        >>> str(Share(3, 16)), Share(3, 16).blocks(100)
        ('3/16', range(12, 18))
        """
        return f"{self.number}/{self.of}"

    def blocks(self, count: int) -> range:
        """Its blocks, of `count` blocks in all; may be empty if there are fewer blocks than shares."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


def is_own(file: Path) -> bool:
    """Whether a file begins or ends like a shard; the rest is not checked."""
    return is_sealed(file) or ends_in_record(file)


def is_sealed(file: Path) -> bool:
    """Whether a file begins like a finished shard."""
    try:
        with files.open_regular(file) as opened:
            return seal.is_sealed(opened.read(8), seal.SHARD)
    except OSError:
        return False


KIND = outputs.Kind("a shard of a logit cache", is_own)


def shard_path(path: Path, held: range) -> Path:
    """The path of the shard of the cache `path` that has the blocks `held`, at least one."""
    return path.with_name(f"{path.name}.shard-{held.start:06d}-{held.stop - 1:06d}")


@dataclass(frozen=True)
class Shard:
    """An existing shard, finished or not. held: the blocks that it has room for. record: how it was begun."""

    file: Path
    held: range
    record: Record

    @property
    def share(self) -> Share:
        """Its share of the cache's blocks."""
        assert self.record.share is not None
        return Share(*self.record.share)

    @property
    def sealed(self) -> bool:
        """Whether it begins like a finished shard; `require_sealed` verifies the seal."""
        return is_sealed(self.file)

    def require_sealed(self) -> Seal:
        """Its seal, verified; raises DamagedError if the shard is unfinished or does not match its seal."""
        try:
            return seal.check(self.file, seal.SHARD)
        except CacheError as error:
            raise DamagedError(
                f"{self.file} is unfinished or damaged; run the command that wrote it again (dive "
                f"export-logits --shard {self.share}, or torchrun): it writes what is missing or damaged"
            ) from error


def read_shard(file: Path) -> Shard | None:
    """The shard in a file, or None if the file does not exist.

    Raises DamagedError if the shard is damaged or does not have the blocks that its name states,
    OtherVersionError if another version of dive began it, OutputError if the file is not a shard written by
    dive.
    """
    require_own_file(file)
    outputs.refuse_foreign(file, KIND)
    if (record := begun(file)) is None:
        return None
    held = None if record.share is None else Share(*record.share).blocks(record.blocks)
    name = re.search(_ENDING + "$", file.name)
    if not held or name is None or (held.start, held.stop - 1) != tuple(map(int, name.groups())):
        raise DamagedError(f"{file} does not have the blocks that its name states; move it away")
    return Shard(file, held, record)


def shards_of(path: Path, progress: Progress, force: bool = False) -> list[Shard]:
    """The shards of the cache `path`; damaged ones are left out, with a warning.

    Raises OutputError if a file with the name of a shard was not written by dive, and OtherVersionError if
    another version of dive began one. With `force`, the latter is left out with a warning instead.
    """
    found = []
    for file in shard_files(path):
        try:
            if (shard := read_shard(file)) is not None:
                found.append(shard)
        except DamagedError:
            progress.warn(f"{file} is damaged and is not used")
        except OtherVersionError as error:
            if not force:
                raise
            progress.warn(f"{file} is not used: {error.reason}")
    return found


def shard_files(path: Path) -> list[Path]:
    """The files beside the cache `path` that have the name of one of its shards, sorted by name."""
    return _named(path, re.compile(f"({re.escape(path.name)}{_ENDING})"))


def _named(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """The first group of `pattern` in each matching file name beside `path`: paths, sorted and unique."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return []
    found = (pattern.fullmatch(name) for name in names)
    return [path.with_name(name) for name in sorted({match[1] for match in found if match})]


class ShardWriter(BlockWriter):
    """Writes the blocks of a share of the cache `path`; use as a context manager, then call `finish`.

    Resumes the file of the share if it exists; a damaged file is replaced, with a warning. share: with at
    least one block. plan: what all shards have in common. launch: a string that identifies this start of
    torchrun, None without it. Raises OutputError if the file belongs to another export (the error names the
    keys that differ), if it is not a regular file, or if the disk is too small.
    """

    def __init__(
        self, path: Path, content: Content, share: Share, plan: Plan, launch: str | None, progress: Progress
    ) -> None:
        content = replace(content, identity=plan.identity, facts=plan.facts)
        new = new_record(content, plan.producer)
        new = replace(new, share=(share.number, share.of), launch=launch)
        held = share.blocks(new.blocks)
        file = shard_path(path, held)
        record = None
        try:
            if (shard := read_shard(file)) is not None:
                record = shard.record
                require_same(file, record, new)
        except DamagedError:
            progress.warn(f"{file} is damaged and is written again")
            file.unlink(missing_ok=True)
        self._may_be_sealed = record is not None
        super().__init__(path, file, content, record, new, held)

    def _put_block(self, block: int, content: bytes | memoryview, correct: int) -> None:
        if self._may_be_sealed:  # the shard is no longer finished, so its seal must go first
            self._put(bytes(8), 0)
            self._may_be_sealed = False
        super()._put_block(block, content, correct)

    def finish(self) -> None:
        """Seal the shard and force it to the disk (fsync)."""
        self._seal(seal.SHARD, os.fstat(self._handle).st_size)


def content_of(shard: Shard) -> Content:
    """The content of the cache of a finished shard, besides the rows.

    Raises DamagedError if the shard is unfinished, damaged, or cannot be read by this version of dive.
    """
    sealed = shard.require_sealed()
    record = shard.record
    cut = record.shape[0] * (sealed.block_bytes // record.block_rows) - sealed.size
    memory = MemoryFile()
    try:
        with files.open_regular(shard.file) as file:
            _copy(file, memory, 0, sealed.offset, 0)
            _copy(file, memory, sealed.offset + sealed.size, os.fstat(file.fileno()).st_size, cut)
        whole = replace(sealed, size=sealed.size + cut, crcs=np.zeros(record.blocks, "<u4"))
        with h5py.File(memory, "r") as opened:
            tables = read_tables(shard.file, opened, whole, len(memory))
    except (*FOREIGN, CacheError) as error:
        raise DamagedError(
            f"{shard.file} is not a shard that this version of dive can read: {error}"
        ) from error
    return Content(
        views=tables.views,
        labels=tables.labels,
        keys=tables.keys,
        digests=tables.digests,
        classes=tables.classes,
        class_counts=tables.class_counts,
        store=tables.codec.encoding.name,
        identity=record.identity,
        facts=record.facts,
        head=tables.codec.head,
    )


def _copy(file: BinaryIO, memory: MemoryFile, start: int, stop: int, shift: int) -> None:
    file.seek(start)
    memory.seek(start + shift)
    while start < stop and (piece := file.read(min(_PIECE, stop - start))):
        memory.write(piece)
        start += len(piece)


def discard_plan(path: Path) -> None:
    """Remove the plan of the cache `path`, so that its shards belong to no export."""
    with without_plan(path):
        pass


@contextmanager
def without_plan(path: Path) -> Iterator[None]:
    """Remove the plan of the cache `path`; until the context ends, no other process can write one."""
    with planning(path):
        plan_path(path).unlink(missing_ok=True)
        yield


def discard(path: Path, progress: Progress) -> None:
    """Remove the plan and the shards of the cache `path`, and temporary files left by killed processes.

    A shard that another process is writing is kept, with a warning. Files not written by dive are kept too.
    """
    discard_plan(path)
    remains = re.compile(rf"\.?({re.escape(path.name)}{_ENDING})(?:\.dive-tmp|\.lock)?")
    for file in _named(path, remains):
        try:
            with outputs.only_writer(file):
                files.remove_stale(file)
                if is_own(file):
                    file.unlink()
        except BusyError:
            progress.warn(f"{file} is being written by another process and is not removed")
