"""An unfinished logit cache, `NAME.part`: its record, and how it is opened.

The bytes of the future cache are followed by a record of the export that began it: identity, facts and the
digest of the layout. The record has its own SHA-256 and is removed when the cache is sealed. A part is read
and written as plain bytes. HDF5 never opens it, and a symbolic link is never followed.
"""

import errno
import hashlib
import json
import os
import stat
import struct
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive.cache import seal
from dive.cache.layout import read_at
from dive.cache.reader import LogitCache
from dive.cache.tables import FOREIGN, FORMAT
from dive.errors import CacheError, OutputError

VERSION = 1
# The last bytes of the file: SHA-256, length and offset of the record, version, magic.
_FOOTER = struct.Struct("<32sQQI8s")
_MAGIC = b"DIVEPART"
_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True)
class Record:
    """The record of the export that began a part or a shard.

    identity, facts, producer: those of the finished cache. shape: (N, V, C). block_rows: samples in a block.
    block_done: the offset of that table in bytes. layout: the digest of the layout; None for a part that is
    sealed already, since its seal covers the layout. share: for a shard, its number (from 1) and the number
    of shards. launch: for a shard, a string that identifies the start of torchrun that began it.
    """

    identity: dict[str, Any]
    facts: dict[str, Any]
    producer: str
    shape: tuple[int, int, int]
    block_rows: int
    block_done: int
    layout: str | None
    share: tuple[int, int] | None = None
    launch: str | None = None

    @property
    def blocks(self) -> int:
        """The number of blocks of the cache."""
        return -(-self.shape[0] // self.block_rows)

    def trailer(self, length: int) -> bytes:
        """The bytes of the record, as they follow a cache of this length."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        text = json.dumps({"format": FORMAT, **told}).encode()
        return text + _FOOTER.pack(hashlib.sha256(text).digest(), len(text), length, VERSION, _MAGIC)


class DamagedError(OutputError):
    """An unfinished export is damaged: how it was begun cannot be read from it."""


class OtherVersionError(OutputError):
    """An unfinished export was begun by a version of dive whose records this version cannot read."""

    def __init__(self, part: Path, reason: object) -> None:
        super().__init__(
            f"{part} was begun by another version of dive ({reason}); finish it with that one, or start over "
            "with --force"
        )
        self.reason = reason


class _VersionError(ValueError):
    """A record has a version that this version of dive does not read."""


def part_path(path: Path) -> Path:
    """The path of the cache `path` while it is written."""
    return path.with_name(path.name + ".part")


def is_own(part: Path) -> bool:
    """Whether a file begins or ends like an unfinished export; the rest is not checked."""
    try:
        with files.open_regular(part) as file:
            if seal.is_sealed(file.read(8)) or seal.holds_hdf5(file):
                return True
    except OSError:
        return False
    return ends_in_record(part)


def ends_in_record(part: Path) -> bool:
    """Whether a file ends like one with a record."""
    try:
        with files.open_regular(part) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_MAGIC)))
            return file.read() == _MAGIC
    except OSError:
        return False


KIND = outputs.Kind("an unfinished export", is_own)


def require_own_files(path: Path) -> None:
    """Raise OutputError if an export to `path` would open something other than a regular file.

    A FIFO would block the export, a device has no end, and a symbolic link would redirect what is written.
    """
    require_own_file(part_path(path))


def require_own_file(part: Path) -> None:
    """Raise OutputError if `part`, or its temporary name, exists and is not a regular file."""
    for place in (part, files.temporary_name(part)):
        try:
            _require_own(os.lstat(place), place)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise OutputError(
                f"{place} is in the way: {error.strerror}; remove it, or give another --out"
            ) from error


def _require_own(status: os.stat_result, path: Path) -> None:
    if stat.S_ISLNK(status.st_mode):
        raise OSError(errno.ELOOP, "it is a symbolic link, not a regular file", str(path))
    if not stat.S_ISREG(status.st_mode):
        files.open_regular(path).close()  # its error names the type of the file
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def open_part(part: Path, flags: int) -> int:
    """A descriptor of a part, opened with `os.O_RDONLY` or `os.O_RDWR`.

    Raises OSError unless it is a regular file. Nothing else is opened, and a symbolic link is not followed.
    """
    _require_own(os.lstat(part), part)
    handle = os.open(part, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_own(os.fstat(handle), part)  # again, since the file may have been replaced since `lstat`
    except BaseException:
        os.close(handle)
        raise
    return handle


def begun(part: Path) -> Record | None:
    """The record of an unfinished export, or None if `part` does not exist.

    Raises DamagedError if the export is damaged, OtherVersionError if the record is of another version of
    dive, OutputError if the file cannot be read.
    """
    try:
        return _read(part)[0]
    except FileNotFoundError:
        return None
    except _VersionError as error:
        raise OtherVersionError(part, error) from error
    except OSError as error:
        raise OutputError(f"cannot read {part}: {error.strerror}; give another --out") from error
    except (*FOREIGN, CacheError) as error:
        raise DamagedError(f"{part} is a damaged unfinished export ({error}); --force starts over") from error


def progress_of_part(part: Path) -> tuple[int, int, tuple[int, int, int], dict[str, Any]]:
    """The blocks done, all blocks, the shape (N, V, C) and the identity of an unfinished export.

    Raises CacheError if the file is not an unfinished export that this version of dive can read.
    """
    try:
        record, done = _read(part)
    except FOREIGN as error:
        reason = getattr(error, "strerror", None) or error
        raise CacheError(
            f"{part} is not an unfinished export written by this version of dive: {reason}"
        ) from error
    return done, record.blocks, record.shape, record.identity


def _read(part: Path) -> tuple[Record, int]:
    """The record of a part and how many of its blocks are done; raises one of FOREIGN, or CacheError."""
    handle = open_part(part, os.O_RDONLY)
    try:
        size = os.fstat(handle).st_size
        if (text := _record_text(handle, size)) is not None:
            record = _parse(json.loads(text), size)
            return record, read_at(handle, record.blocks, record.block_done).count(1)
        if not seal.is_sealed(read_at(handle, 8, 0)):
            raise ValueError("its record is missing")
    finally:
        os.close(handle)
    record = _of_sealed(LogitCache(part))  # the export was stopped between removing its record and the move
    return record, record.blocks


def _record_text(handle: int, size: int) -> bytes | None:
    """The bytes of the record, after their digest is verified; None if the file does not end with a record.

    Raises ValueError if the record is damaged or of another version.
    """
    footer = read_at(handle, _FOOTER.size, max(0, size - _FOOTER.size))
    if len(footer) < _FOOTER.size:
        return None
    digest, length, begin, version, magic = _FOOTER.unpack(footer)
    if magic != _MAGIC:
        return None
    if version != VERSION:
        raise _VersionError(f"its record has version {version}; this version of dive reads version {VERSION}")
    if length > _LARGEST_RECORD or begin + length + _FOOTER.size != size:
        raise ValueError("its length does not match its record")
    text = read_at(handle, length, begin)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("its record does not match its digest")
    return text


def _parse(document: Any, size: int) -> Record:
    repr(document)  # deep nesting raises RecursionError here, where it is caught, and not in a later message
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ValueError(f"its record is not of the format {FORMAT}")
    share = document.get("share")
    record = Record(
        **{
            **document,
            "shape": tuple(document["shape"]),
            "share": None if share is None else tuple(share),
        }
    )
    numbers = [*record.shape, record.block_rows, *(record.share or ())]
    sound = (
        all(isinstance(value, dict) for value in (record.identity, record.facts))
        and all(isinstance(value, str) for value in (record.producer, record.layout))
        and len(record.shape) == 3
        and all(type(number) is int and number > 0 for number in numbers)
        and type(record.block_done) is int
        and 0 <= record.block_done <= size - record.blocks
        and (record.share is None or (len(record.share) == 2 and record.share[0] <= record.share[1]))
        and isinstance(record.launch, str | None)
    )
    if not sound:
        raise ValueError("its record is malformed")
    return record


def _of_sealed(cache: LogitCache) -> Record:
    return Record(
        identity=cache.identity,
        facts=cache.facts,
        producer=cache.producer,
        shape=cache.shape,
        block_rows=cache.block_rows,
        block_done=0,
        layout=None,
    )
