"""The logit cache: one HDF5 file that anyone can open, and that proves itself.

`/logits` (N, V, C) holds the teacher's logits of every sample in every stored view, contiguous, so
that it can be memory-mapped. Each row is bound to its sample by key, label and a digest of the image,
and each block to its labels by how many views the teacher classified rightly. In front of the HDF5
file lies a user block with the **seal**: SHA-256 of every byte outside `/logits`, the place of
`/logits`, the file's length, and a CRC32 for each block of rows. The seal is checked before HDF5 code
reads the file; a block's CRC when it is used.

Here it is read; `dive.cache.writer` writes it. NumPy and h5py alone.
"""

import json
import zlib
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import ArrayLike

from dive import structure as s
from dive.cache import seal
from dive.errors import CacheError
from dive.recipe.records import TEACHER

FORMAT = "dive-logits"
VERSION = 3
DIGEST_BYTES = 16  # of an image's SHA-256
# What a student and `dive verify` need to be told.
_ORIGIN: dict[str, s.Check] = {
    "identity/recipe": s.text,
    "identity/data/kind": s.text,
    "identity/data_fingerprint": s.text,
    "identity/picture_size": s.or_none(s.whole(1)),
    "identity/view_space/kind": s.text,
    "identity/view_space/image": s.list_of(s.whole(1)),
    "identity/views": s.text,
    "identity/view_seed": s.whole(),
    "identity/dtype": s.text,
    "identity/teacher/weights_hash": s.text,
    "facts/precision": s.text,
    "facts/clean_id": s.whole(),
    "facts/teacher": s.record_of(TEACHER),
    "facts/versions": s.mapping,
}
_TABLES: tuple[str, ...] = ("keys", "classes", "labels", "views", "class_counts", "digests", "block_crc32")
_TABLES += ("block_done", "block_correct")


# What h5py and json raise at files that are not what they say.
FOREIGN = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError)


def require_plain(file: h5py.File, length: int) -> None:
    """Raise ValueError unless every table lies in this very file, whole, unfiltered and no larger than it.

    A foreign file could otherwise make HDF5 read other files, or allocate what it pleases.
    """
    for name in (*_TABLES, "logits"):
        if not isinstance(file.get(name, getlink=True), h5py.HardLink):
            raise ValueError(f"/{name} is not in the file itself")
        table = file[name]
        if not isinstance(table, h5py.Dataset):
            raise ValueError(f"/{name} is not a dataset")
        plan = table.id.get_create_plist()
        if table.is_virtual or plan.get_external_count() or plan.get_nfilters() or table.chunks:
            raise ValueError(f"/{name} is virtual, external, chunked or filtered")
        if table.dtype.hasobject or table.size * table.dtype.itemsize > length:
            raise ValueError(f"/{name} is larger than the file")


def crc(rows: np.ndarray) -> int:
    """The CRC32 of the bytes of a block's logits, as the seal lists it."""
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)


def correct_views(logits: np.ndarray, labels: np.ndarray) -> int:
    """In how many of the views of logits (rows, V, C) the first of the largest is the label's (rows,)."""
    return int((logits.astype(np.float32, copy=False).argmax(axis=2) == labels[:, None]).sum())


def open_cache(path: str | Path) -> "LogitCache":
    """The logit cache at `path`, its seal checked; logits are read, and checked, when they are asked for.

    Raises CacheError where there is none, or it is not whole.

    >>> import dive
    >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
    >>> cache.shape, cache.views.shape, len(cache.keys), cache.classes[:2]  # (N, V, C)
    ((399, 9, 10), (399, 9), 399, ('0', '1'))
    >>> cache.logits([0, 1], [4, 4]).shape  # of two samples, each in the view of column 4
    (2, 10)
    """
    return LogitCache(Path(path))


class LogitCache:
    """A finished cache, opened for reading; the logits stay in the file and are memory-mapped.

    views: (N, V). labels: (N,). keys: N texts. digests: (N, 16) uint8. classes: C names.
    class_counts: (C,). block_correct: (blocks,) views classified rightly, as the export counted them.
    hash: the seal's digest in hexadecimal, which covers every byte (the logits by their CRCs).
    """

    def __init__(self, path: Path) -> None:
        """Open the cache at `path`; raises CacheError unless its seal and layout are whole."""
        self.path = path
        self._seal = seal.check(path)
        self._checked = np.zeros(len(self._seal.crcs), dtype=bool)
        try:
            with h5py.File(path, "r", locking="best-effort") as file:
                self._read(file)
        except FOREIGN as error:
            raise CacheError(
                f"{path} is not a logit cache that this version of dive can read: {error}"
            ) from error

    def __reduce__(self) -> tuple[type["LogitCache"], tuple[Path]]:
        """Pickled as its path: who unpickles it opens the file anew."""
        return LogitCache, (self.path,)

    def _read(self, file: h5py.File) -> None:
        form, version = file.attrs["format"], file.attrs["version"]
        if form == FORMAT and version != VERSION:
            raise CacheError(
                f"{self.path} is of another version of dive ({FORMAT} {version}; this one reads {VERSION}); "
                f"make it again with its recipe and data: dive export-logits --out {self.path} --force"
            )
        if form != FORMAT or not file.attrs["complete"]:
            raise CacheError(
                f"{self.path} is not a complete {FORMAT} file of version {VERSION} (it says {form} "
                f"{version}); export it again"
            )
        require_plain(file, self.path.stat().st_size)
        self.identity: dict[str, Any] = json.loads(file.attrs["identity"])
        self.facts: dict[str, Any] = json.loads(file.attrs["facts"])
        if not (isinstance(self.identity, dict) and isinstance(self.facts, dict)):
            raise ValueError("its identity and facts are not mappings")
        self.producer: str = file.attrs["producer"]
        self.keys = [key.decode() for key in file["keys"][:].tolist()]
        self.classes = tuple(name.decode() for name in file["classes"][:].tolist())
        self.labels, self.views, self.class_counts = (file[k][:] for k in ("labels", "views", "class_counts"))
        self.digests, self.block_correct = file["digests"][:], file["block_correct"][:]
        logits = file["logits"]
        self.dtype: np.dtype[Any] = logits.dtype
        self.shape: tuple[int, int, int] = logits.shape
        if not self._is_consistent(logits):
            raise CacheError(
                f"{self.path} contradicts itself: its tables do not fit its logits; export it again"
            )

    def _is_consistent(self, logits: h5py.Dataset) -> bool:
        """Whether tables, logits and seal agree on shapes, types and places, and labels on counts."""
        n, classes = len(self.keys), len(self.classes)
        blocks = len(self._seal.crcs)
        return (
            self.shape == (n, *self.views.shape[1:], classes)
            and len(self.shape) == 3
            and 0 not in self.shape
            and self.dtype in (np.float16, np.float32)
            and (logits.id.get_offset(), logits.id.get_storage_size()) == (self._seal.offset, self._seal.size)
            and self._seal.block_bytes % (self.dtype.itemsize * self.shape[1] * classes) == 0
            and all(table.dtype.kind in "iu" for table in (self.labels, self.views, self.class_counts))
            and self.views.shape[0] == n
            and self.labels.shape == (n,)
            and self.digests.shape == (n, DIGEST_BYTES)
            and self.block_correct.shape == (blocks,)
            and 0 <= self.labels.min() <= self.labels.max() < classes
            and np.array_equal(np.bincount(self.labels, minlength=classes), self.class_counts)
        )

    def require_origin(self) -> None:
        """Raise CacheError unless the cache states of which images, views and teacher it is.

        What dive exports always does; its format alone does not ask for it.
        """
        if fault := s.fault_of({"identity": self.identity, "facts": self.facts}, _ORIGIN):
            raise CacheError(f"{self.path} does not state its origin: {fault}; export it again")

    @property
    def accuracy(self) -> float:
        """The teacher's accuracy over all stored views, as the export counted it; in [0, 1]."""
        return float(self.block_correct.sum()) / (self.shape[0] * self.shape[1])

    @property
    def hash(self) -> str:
        """The seal's digest in hexadecimal: the cache's name in every result made from it."""
        return self._seal.digest.hex()

    @cached_property
    def _mapped(self) -> np.ndarray:
        """The logits (N, V, C), memory-mapped, unchecked.

        Mapped copy-on-write, so that torch takes them without a copy; the file cannot change.
        """
        place, kind = self._seal.offset, self.dtype
        return np.asarray(np.memmap(self.path, kind, mode="c", offset=place, shape=self.shape))

    @property
    def nbytes(self) -> int:
        """Bytes of all logits."""
        return self._seal.size

    @property
    def block_rows(self) -> int:
        """Samples in a block."""
        return self._seal.block_bytes // (self.shape[1] * self.shape[2] * self.dtype.itemsize)

    @property
    def block_count(self) -> int:
        """How many blocks there are."""
        return len(self._seal.crcs)

    def block(self, number: int) -> tuple[slice, np.ndarray]:
        """The samples of a block, and their logits (rows, V, C), whose CRC is checked at its first use.

        Raises CacheError where it does not match.
        """
        start = number * self.block_rows
        rows = slice(start, min(start + self.block_rows, self.shape[0]))
        logits = self._mapped[rows]
        if not self._checked[number]:
            if crc(logits) != self._seal.crcs[number]:
                raise CacheError(
                    f"{self.path} is corrupt: samples {rows.start} to {rows.stop - 1} do not match "
                    "their CRC; export it again"
                )
            self._checked[number] = True
        return rows, logits

    def blocks(self) -> Iterator[tuple[slice, np.ndarray]]:
        """The samples of each block and their logits (rows, V, C), in order, each checked."""
        return map(self.block, range(self.block_count))

    def gather(self, rows: np.ndarray, columns: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
        """The logits (B, C) of samples and columns, each (B,), as they are stored; in `out` if it is given.

        Every block that is read from is checked. Raises CacheError where one is corrupt.
        """
        if not self._checked.all():
            for number in np.unique(rows // self.block_rows):
                self.block(int(number))
        flat = self._mapped.reshape(-1, self.shape[2])
        return np.take(flat, rows * self.shape[1] + columns, axis=0, out=out, mode="clip")

    def whole(self) -> np.ndarray:
        """All logits (N, V, C), memory-mapped, every block checked; raises CacheError."""
        for number in range(self.block_count):
            self.block(number)
        return self._mapped

    def logits(self, rows: ArrayLike, columns: ArrayLike) -> np.ndarray:
        """The logits of samples `rows` (B,) in the stored views `columns` (B,): (B, C) float32.

        Raises IndexError where there is no such row or column, CacheError where the file is corrupt.
        """
        places = [np.atleast_1d(np.asarray(index, dtype=np.int64)) for index in (rows, columns)]
        for name, index, count in zip(("row", "column"), places, self.shape[:2], strict=True):
            if index.size and not (0 <= index.min() and index.max() < count):
                wrong = index.min() if index.min() < 0 else index.max()
                raise IndexError(f"{self.path} has no {name} {wrong}: there are {count}, from 0")
        return self.gather(*places).astype(np.float32)
