"""An unfinished logit cache, `NAME.part`: its record, and how it is opened.

Behind the bytes that will be the cache stands a record of the export that began it: identity, facts,
the digest of its layout. It is checked by a SHA-256 of its own and is cut off when the cache is sealed.
A part is read and written as plain bytes; HDF5 never sees it, and a link is never followed.
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
# SHA-256 and length of the record, where it begins, version, magic: the last bytes of the file
_FOOTER = struct.Struct("<32sQQI8s")
_MAGIC = b"DIVEPART"
_LARGEST_RECORD = 1 << 20


@dataclass(frozen=True)
class Record:
    """What the export that began a part recorded.

    identity, facts, producer: as the finished cache has them. shape: (N, V, C). block_rows: samples in a
    block. block_done: where that table lies. layout: the digest of the layout, None of a part that is
    sealed already, whose seal vouches for it. share: of a shard, which of how many, from 1. launch: of a
    shard, the start of torchrun that began it.
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
        """How many blocks the cache has."""
        return -(-self.shape[0] // self.block_rows)

    def trailer(self, length: int) -> bytes:
        """The record as it stands behind a cache of this length."""
        told = {key: value for key, value in asdict(self).items() if value is not None}
        text = json.dumps({"format": FORMAT, **told}).encode()
        return text + _FOOTER.pack(hashlib.sha256(text).digest(), len(text), length, VERSION, _MAGIC)


class DamagedError(OutputError):
    """What lies in the place of an unfinished export does not tell how it was begun."""


class OtherVersionError(OutputError):
    """An unfinished export was begun by a version of dive whose record this one does not read."""

    def __init__(self, part: Path, reason: object) -> None:
        super().__init__(
            f"{part} was begun by another version of dive ({reason}); finish it with that one, or start over "
            "with --force"
        )
        self.reason = reason


class _VersionError(ValueError):
    """A record's version is not ours."""


def part_path(path: Path) -> Path:
    """Where a cache lies while it is written."""
    return path.with_name(path.name + ".part")


def is_own(part: Path) -> bool:
    """Whether a file begins or ends as an unfinished export does; it may be damaged in between."""
    try:
        with files.open_regular(part) as file:
            if seal.is_sealed(file.read(8)) or seal.holds_hdf5(file):
                return True
    except OSError:
        return False
    return ends_in_record(part)


def ends_in_record(part: Path) -> bool:
    """Whether a file ends as one does that has a record behind it."""
    try:
        with files.open_regular(part) as file:
            file.seek(max(0, os.fstat(file.fileno()).st_size - len(_MAGIC)))
            return file.read() == _MAGIC
    except OSError:
        return False


KIND = outputs.Kind("an unfinished export", is_own)


def require_own_files(path: Path) -> None:
    """Raise OutputError where an export to `path` would meet something that is not a file of its own.

    A FIFO would block it, a device has no end, through a link it would write elsewhere.
    """
    require_own_file(part_path(path))


def require_own_file(part: Path) -> None:
    """Raise OutputError where `part`, or its temporary name, is not a file of its own."""
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
        raise OSError(errno.ELOOP, "it is a symbolic link, not a file of its own", str(path))
    if not stat.S_ISREG(status.st_mode):
        files.open_regular(path).close()  # which says what it is
        raise OSError(errno.EINVAL, "it is not a regular file", str(path))


def open_part(part: Path, flags: int) -> int:
    """A descriptor of a part, opened with `os.O_RDONLY` or `os.O_RDWR`; raises OSError unless it is a file.

    Only then it is opened, and a link not even then.
    """
    _require_own(os.lstat(part), part)
    handle = os.open(part, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_own(os.fstat(handle), part)  # again: it may have been replaced meanwhile
    except BaseException:
        os.close(handle)
        raise
    return handle


def begun(part: Path) -> Record | None:
    """The record of an unfinished export, None where there is none.

    Raises DamagedError where it does not tell, OtherVersionError where it tells another version of dive,
    OutputError where it cannot be read.
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
    """Blocks done, blocks, shape (N, V, C) and identity of an unfinished export; raises CacheError."""
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
            raise ValueError("the record of how it was begun is missing")
    finally:
        os.close(handle)
    record = _of_sealed(LogitCache(part))  # an export that was stopped between its last two steps
    return record, record.blocks


def _record_text(handle: int, size: int) -> bytes | None:
    """The record's bytes, once they match their digest; None where the file does not end as a part does."""
    footer = read_at(handle, _FOOTER.size, max(0, size - _FOOTER.size))
    if len(footer) < _FOOTER.size:
        return None
    digest, length, begin, version, magic = _FOOTER.unpack(footer)
    if magic != _MAGIC:
        return None
    if version != VERSION:
        raise _VersionError(f"its record has version {version}; this one reads version {VERSION}")
    if length > _LARGEST_RECORD or begin + length + _FOOTER.size != size:
        raise ValueError("it is longer or shorter than it was begun")
    text = read_at(handle, length, begin)
    if hashlib.sha256(text).digest() != digest:
        raise ValueError("the record of how it was begun does not match its digest")
    return text


def _parse(document: Any, size: int) -> Record:
    repr(document)  # a RecursionError here, where it is expected, and not in a message later
    if not isinstance(document, dict) or document.pop("format", None) != FORMAT:
        raise ValueError(f"it is not of {FORMAT}")
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
        raise ValueError("its record is not as dive writes one")
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
