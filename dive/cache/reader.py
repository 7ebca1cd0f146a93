"""Reading a logit cache: one HDF5 file that any HDF5 library can open, protected by checksums.

`/logits` or `/features` (N, V, …) has a row for each sample in each stored view. It is contiguous, so that it
can be memory-mapped. An encoding (`dive.cache.encodings`) defines how a row is decoded to the teacher's
logits. Each row is tied to its sample by a key, a label and a digest of the image. Each block of rows is tied
to its labels by the number of views that the teacher classified correctly. A user block in front of the HDF5
data holds the **seal**: the SHA-256 of every byte outside the rows, the offset and size of the rows, the
length of the file, and a CRC32 of each block. The seal is verified before HDF5 reads the file, and the CRC of
a block when the block is first used.

`dive.cache.writer` writes the file. This module needs NumPy and h5py only.
"""

import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from dive import structure as s
from dive.cache import seal
from dive.cache.mapping import mapped
from dive.cache.tables import FOREIGN, read_tables
from dive.errors import CacheError
from dive.recipe.teachers import identity_checks, teacher_checks, teachers_in

# What training a student and `dive verify` need of `identity` and `facts`.
_ORIGIN: dict[str, s.Check] = {
    "identity/recipe": s.text,
    "identity/data/kind": s.text,
    "identity/data_fingerprint": s.text,
    "identity/picture_size": s.or_none(s.whole(1)),
    "identity/view_space/kind": s.text,
    "identity/view_space/image": s.list_of(s.whole(1)),
    "identity/views": s.text,
    "identity/view_seed": s.whole(),
    "identity/store": s.text,
    "facts/precision": s.text,
    "facts/clean_id": s.whole(),
    "facts/versions": s.mapping,
}
_OF_ENSEMBLE: dict[str, s.Check] = {"identity/teacher_weights": s.list_of(s.share)}
_OF_MERGED: dict[str, s.Check] = {"facts/rounding": s.number(0)}


def crc(rows: np.ndarray) -> int:
    """The CRC32 of the bytes of a block's rows, as the seal lists it."""
    return zlib.crc32(np.ascontiguousarray(rows).reshape(-1).view(np.uint8).data)


def open_cache(path: str | Path) -> "LogitCache":
    """The logit cache at `path`, opened for reading after its seal is verified.

    The rows stay in the file. A block of rows is read when it is needed, and its CRC is verified the first
    time.

    Raises CacheError if there is no cache at `path`, or it is incomplete, corrupt or of another version.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> cache.shape, cache.views.shape, len(cache.keys), cache.classes[:2]  # (N, V, C)
    ((399, 9, 10), (399, 9), 399, ('0', '1'))
    >>> cache.logits([0, 1], [4, 4]).shape  # of two samples, each in the view of column 4
    (2, 10)
    """
    return LogitCache(Path(path))


def _opened_again(path: Path, expected: str) -> "LogitCache":
    """The cache that was pickled; raises CacheError if the file has been replaced by another cache."""
    cache = LogitCache(path)
    if cache.hash != expected:
        raise CacheError(
            f"{path} was replaced after it was opened: its hash is {cache.hash[:12]}, not {expected[:12]}; "
            "open it again"
        )
    return cache


def _state(path: Path) -> tuple[int, ...] | None:
    """Device, inode, size and mtime of a file, to detect that it was replaced; None if there is no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns


class LogitCache:
    """A finished logit cache, as `dive.open_cache` returns it. Its rows are memory-mapped, not loaded.

    It can be pickled: its path and hash are pickled, and the file is opened again. N is the number of
    samples, V that of stored views of each, C that of classes.

    path: the file.
    keys: the key of each sample, `<class>/<file name>`, N texts.
    labels: (N,) integers, positions in `classes`.
    views: (N, V) integers, the id of the view in each column.
    digests: (N, 16) uint8, a digest of each image: of its pixels, or of the bytes of its file.
    classes: C names.
    class_counts: (C,) integers, the samples of each class.
    block_correct: (blocks,) integers, the views in each block that the teacher classified correctly.
    codec: decodes stored rows to logits.
    identity: the images, views, teacher and encoding of the cache, in plain values.
    facts: how it was made (precision, versions, the teacher's accuracy and more), in plain values.
    version: the version of the file format.
    producer: the program that wrote the file, with its version.

    Raises:
        CacheError: the file is missing, incomplete, corrupt or of another version.
    """

    def __init__(self, path: Path) -> None:
        """Open the cache at `path`; raises CacheError unless its seal and its tables are valid."""
        self.path = path
        before = _state(path)
        self._seal = seal.check(path)
        self._checked = np.zeros(len(self._seal.crcs), dtype=bool)
        try:
            with h5py.File(path, "r", locking="best-effort") as file:
                tables = read_tables(path, file, self._seal, path.stat().st_size)
        except FOREIGN as error:
            raise CacheError(
                f"{path} is not a logit cache that this version of dive can read: {error}"
            ) from error
        self.producer, self.version, self.codec = tables.producer, tables.version, tables.codec
        self.identity, self.facts = tables.identity, tables.facts
        self.keys, self.classes, self.labels = tables.keys, tables.classes, tables.labels
        self.views, self.digests = tables.views, tables.digests
        self.class_counts, self.block_correct = tables.class_counts, tables.block_correct
        # Mapped now, so that a file that replaces this one later has no effect; CRCs are not verified yet.
        row, shape = self.codec.row, (*self.views.shape, *self.codec.row.shape)
        self._mapped = mapped(path, self._seal.offset, row.base, shape)
        if _state(path) != before:
            raise CacheError(f"{path} was replaced while it was opened; run the command again")

    def __reduce__(self) -> tuple[Callable[[Path, str], "LogitCache"], tuple[Path, str]]:
        """Pickles the path and the hash: unpickling opens the file again and compares the hash."""
        return _opened_again, (self.path, self.hash)

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, V, C): the numbers of samples, of stored views of each sample, and of classes."""
        return (*self.views.shape, len(self.classes))

    @property
    def store(self) -> str:
        """The name of the encoding: `float16`, `float32`, `int8`, `features` or `features-int8`."""
        return self.codec.encoding.name

    def require_origin(self) -> None:
        """Raise CacheError unless `identity` and `facts` name the images, the views and the teacher.

        A cache that dive exported always does. The file format alone does not require it.
        """
        needed = _ORIGIN | (_OF_ENSEMBLE if "teachers" in self.identity else {})
        needed |= {f"identity/{key}": check for key, check in identity_checks(self.identity).items()}
        needed |= {f"facts/{key}": check for key, check in teacher_checks(self.facts).items()}
        fault = s.fault_of({"identity": self.identity, "facts": self.facts}, needed, _OF_MERGED)
        if not fault and len({len(self.teachers), len(self.shares), len(teachers_in(self.facts))}) > 1:
            fault = "its identity, its teacher weights and its facts are of different numbers of teachers"
        if fault:
            raise CacheError(f"{self.path} does not state its origin: {fault}; export it again")

    @property
    def teachers(self) -> list[dict[str, Any]]:
        """The entries of the teachers in `identity`: one, or several of an ensemble.

        `require_origin` checks them.
        """
        return teachers_in(self.identity)

    @property
    def shares(self) -> list[float]:
        """The weight of each teacher in the mean of their logits; the weights sum to 1."""
        shares: list[float] = self.identity.get("teacher_weights", [1.0])
        return shares

    @property
    def accuracy(self) -> float:
        """The teacher's accuracy over all stored views, in [0, 1], as counted when the cache was written."""
        return float(self.block_correct.sum()) / (self.shape[0] * self.shape[1])

    @property
    def hash(self) -> str:
        """The digest of the seal in hexadecimal, which identifies the cache in every result made from it.

        It covers every byte of the file; the rows are covered by their CRCs.
        """
        return self._seal.digest.hex()

    @property
    def nbytes(self) -> int:
        """The size of all rows in bytes."""
        return self._seal.size

    @property
    def block_rows(self) -> int:
        """The number of samples in a block; the last block may have fewer."""
        return self._seal.block_bytes // (self.shape[1] * self.codec.row.itemsize)

    @property
    def block_count(self) -> int:
        """The number of blocks."""
        return len(self._seal.crcs)

    def encoded_block(self, number: int) -> tuple[slice, np.ndarray]:
        """The samples of block `number`, as a slice, and their rows (rows, V, …) as they are stored.

        The CRC is verified at the first use of the block. Raises CacheError if it does not match.
        """
        start = number * self.block_rows
        rows = slice(start, min(start + self.block_rows, self.shape[0]))
        stored = self._mapped[rows]
        if not self._checked[number]:
            if crc(stored) != self._seal.crcs[number]:
                raise CacheError(
                    f"{self.path} is corrupt: samples {rows.start} to {rows.stop - 1} do not match "
                    "their CRC; export it again"
                )
            self._checked[number] = True
        return rows, stored

    def encoded(self, rows: np.ndarray, columns: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The stored rows of samples `rows` (B,) in the views `columns` (B,): (B, words) integers.

        `codec.unpacked` turns them into rows, `codec.decode` those into logits. The CRC of every block that
        is read is verified. Unlike `logits`, it does not check the indices against the shape.

        rows, columns: integer arrays.
        out: the array to write to; a new one if not given.

        Raises CacheError if a block is corrupt.
        """
        if not self._checked.all():
            for number in np.unique(rows // self.block_rows):
                self.encoded_block(int(number))
        places = rows * self.shape[1] + columns
        return np.take(self.codec.words(self._mapped), places, axis=0, out=out, mode="clip")

    def encoded_whole(self) -> np.ndarray:
        """All rows (N, V, …) as they are stored, memory-mapped, after the CRC of every block is verified.

        Raises CacheError if a block is corrupt.
        """
        for number in range(self.block_count):
            self.encoded_block(number)
        return self._mapped

    def block(self, number: int) -> tuple[slice, np.ndarray]:
        """The samples of block `number`, as a slice, and their logits (rows, V, C) float32.

        Raises CacheError if the block is corrupt.
        """
        rows, stored = self.encoded_block(number)
        return rows, self.codec.decode(stored)

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """An iterator over all blocks in order, of what `block` returns of each."""
        return map(self.block, range(self.block_count))

    def whole(self) -> np.ndarray:
        """All logits (N, V, C) float32, in memory; raises CacheError if a block is corrupt."""
        logits = np.empty(self.shape, np.float32)
        for rows, some in self.blocks():
            logits[rows] = some
        return logits

    def logits(self, rows: ArrayLike, columns: ArrayLike) -> np.ndarray:
        """The logits of samples `rows` (B,) in the stored views `columns` (B,): (B, C) float32.

        Item b is sample `rows[b]` in the view of column `columns[b]`. Negative indices are not accepted.

        Raises IndexError if a row or column is out of range, CacheError if a block is corrupt.
        """
        places = [np.atleast_1d(np.asarray(index, dtype=np.int64)) for index in (rows, columns)]
        for name, index, count in zip(("row", "column"), places, self.shape[:2], strict=True):
            if index.size and not (0 <= index.min() and index.max() < count):
                wrong = index.min() if index.min() < 0 else index.max()
                raise IndexError(f"{self.path} has no {name} {wrong}: there are {count}, counted from 0")
        return self.codec.decode(self.codec.unpacked(self.encoded(*places)))
