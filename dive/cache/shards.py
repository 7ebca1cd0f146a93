"""Shards: files of some blocks of one cache, each written by a process of its own, merged at the end.

A shard is a part without the rows of other blocks. Its name tells its blocks: `NAME.h5.shard-FIRST-LAST`. A
finished one is sealed in place. `dive.cache.plan` is what the shards of a cache have in common.
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
    """A share of a cache's blocks: number `number`, from 1, of `of` shares, as even as can be."""

    number: int
    of: int

    def __str__(self) -> str:
        """As `--shard` takes it.

        >>> str(Share(3, 16)), Share(3, 16).blocks(100)
        ('3/16', range(12, 18))
        """
        return f"{self.number}/{self.of}"

    def blocks(self, count: int) -> range:
        """Its blocks of so many; none where there are fewer blocks than shares, perhaps."""
        return range(count * (self.number - 1) // self.of, count * self.number // self.of)


def is_own(file: Path) -> bool:
    """Whether a file begins or ends as a shard does; it may be damaged in between."""
    return is_sealed(file) or ends_in_record(file)


def is_sealed(file: Path) -> bool:
    """Whether a file begins as a finished shard does."""
    try:
        with files.open_regular(file) as opened:
            return seal.is_sealed(opened.read(8), seal.SHARD)
    except OSError:
        return False


KIND = outputs.Kind("a shard of a logit cache", is_own)


def shard_path(path: Path, held: range) -> Path:
    """Where the shard with these blocks, one or more, of the cache `path` lies."""
    return path.with_name(f"{path.name}.shard-{held.start:06d}-{held.stop - 1:06d}")


@dataclass(frozen=True)
class Shard:
    """A shard that is there, finished or not. held: the blocks that it is for. record: how it was begun."""

    file: Path
    held: range
    record: Record

    @property
    def share(self) -> Share:
        """Which it is of how many."""
        assert self.record.share is not None
        return Share(*self.record.share)

    @property
    def sealed(self) -> bool:
        """Whether it looks finished; `require_sealed` makes sure."""
        return is_sealed(self.file)

    def require_sealed(self) -> Seal:
        """Its seal; raises DamagedError where it does not match."""
        try:
            return seal.check(self.file, seal.SHARD)
        except CacheError as error:
            raise DamagedError(
                f"{self.file} is not finished, or damaged; run what made it again, dive export-logits "
                f"--shard {self.share} or torchrun: it writes anew what is damaged"
            ) from error


def read_shard(file: Path) -> Shard | None:
    """The shard in a file, None where there is none.

    Raises DamagedError where it does not tell how it was begun, OtherVersionError where another version of
    dive began it, OutputError where it is not dive's.
    """
    require_own_file(file)
    outputs.refuse_foreign(file, KIND)
    if (record := begun(file)) is None:
        return None
    held = None if record.share is None else Share(*record.share).blocks(record.blocks)
    name = re.search(_ENDING + "$", file.name)
    if not held or name is None or (held.start, held.stop - 1) != tuple(map(int, name.groups())):
        raise DamagedError(f"{file} is not the shard that its name says; move it away")
    return Shard(file, held, record)


def shards_of(path: Path, progress: Progress, force: bool = False) -> list[Shard]:
    """The shards of the cache `path` that tell how they were begun; a damaged one is warned of.

    Raises OutputError where one is not dive's, or of another version of it; the latter is left out with
    `force`, with a warning.
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
    """The files beside the cache `path` that have the name of a shard of it, in order."""
    return _named(path, re.compile(f"({re.escape(path.name)}{_ENDING})"))


def _named(path: Path, pattern: re.Pattern[str]) -> list[Path]:
    """What the first group of a pattern is in the names beside a path that match it, each once, as paths."""
    try:
        names = [entry.name for entry in os.scandir(path.parent)]
    except OSError:
        return []
    found = (pattern.fullmatch(name) for name in names)
    return [path.with_name(name) for name in sorted({match[1] for match in found if match})]


class ShardWriter(BlockWriter):
    """Writes the blocks of a share, one or more, of the cache `path`: a context manager, then `finish`.

    Opens the file of the share and resumes it; a damaged one is warned of and written again. plan: what it
    has in common with others. launch: the start of torchrun that this is. Raises OutputError where the file
    was begun otherwise, naming the keys that differ, or is not of its own, and where the disk is too small.
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
        if self._may_be_sealed:  # it is not finished after all
            self._put(bytes(8), 0)
            self._may_be_sealed = False
        super()._put_block(block, content, correct)

    def finish(self) -> None:
        """Seal the shard and force it to the disk (fsync)."""
        self._seal(seal.SHARD, os.fstat(self._handle).st_size)


def content_of(shard: Shard) -> Content:
    """What a finished shard says of its cache besides the rows; raises DamagedError where it is not whole."""
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
    """Remove the plan of the cache `path`: shards are of no export then."""
    with without_plan(path):
        pass


@contextmanager
def without_plan(path: Path) -> Iterator[None]:
    """Remove the plan of the cache `path`: shards are of no export then. Within it nobody makes another."""
    with planning(path):
        plan_path(path).unlink(missing_ok=True)
        yield


def discard(path: Path, progress: Progress) -> None:
    """Remove the plan and the shards of the cache `path`, and what killed writers of them left.

    A shard that another process is writing stays, with a warning; what is not dive's stays too.
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
            progress.warn(f"{file} is being written by another process and stays")
