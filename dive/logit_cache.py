"""The logit cache: one HDF5 file that anyone can open, and that proves itself.

`/logits` (N, V, C) holds what the teacher said of every sample in every stored view, contiguous, so
that it can be memory-mapped. Each row is bound to its sample by key, label and a digest of the image,
and each block to its labels by how many views the teacher classified rightly. In front of the HDF5
file lies a user block with the **seal**: SHA-256 of every byte outside `/logits`, the place of
`/logits`, the file's length, and a CRC32 for each block of rows. The seal is checked before HDF5 code
reads the file; a block's CRC when it is used.

A cache is written as `NAME.part`, block by block, and can be gone on with after a kill: nothing but
raw data changes after the first flush, so every flushed block stays readable. NumPy and h5py alone.
"""

import json
import os
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive import __version__, files, seal
from dive.errors import CacheError, OutputError
from dive.recipe import differences

FORMAT = "dive-logits"
VERSION = 2
BLOCK_IMAGES = 2048  # views in a block; what a kill can cost, and what one CRC covers
DIGEST_BYTES = 16  # of an image's SHA-256
# What a student and `dive verify` need to be told, and its type.
_ORIGIN: dict[str, type] = {
    "identity/recipe": str,
    "identity/data": dict,
    "identity/data/mean": list,
    "identity/data/std": list,
    "identity/data fingerprint": str,
    "identity/view space": dict,
    "identity/view space/pad": int,
    "identity/teacher/weights hash": str,
    "facts/precision": str,
    "facts/clean id": int,
    "facts/teacher/kind": str,
    "facts/teacher/loss": str,
    "facts/teacher/seed": int,
    "facts/teacher/accuracy/all": float,
    "facts/teacher/recipe/distillation": dict,
    "facts/versions": dict,
}
_TABLES = ("keys", "classes", "labels", "views", "class_counts", "pixel_digests", "block_crc32")
_TABLES += ("block_done", "block_correct")


@dataclass(frozen=True)
class Content:
    """What a cache is made of besides the logits.

    views: (N, V) view ids. labels: (N,). keys: N texts. pixel_digests: (N, 16) uint8, of the images.
    classes: C names. class_counts: (C,). identity: nested plain values that must be equal for an
    unfinished export to be gone on with. facts: further plain values to record (precision, versions, …).
    """

    views: np.ndarray
    labels: np.ndarray
    keys: list[str]
    pixel_digests: np.ndarray
    classes: tuple[str, ...]
    class_counts: np.ndarray
    dtype: str
    identity: dict[str, Any]
    facts: dict[str, Any]

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, V, C)."""
        return (*self.views.shape, len(self.classes))

    @property
    def bytes(self) -> int:
        """Size of the file, but for some kilobytes of HDF5's own."""
        n, v, c = self.shape
        keys = n * max(len(key.encode()) for key in self.keys)
        tables = (self.views, self.labels, self.pixel_digests)
        return n * v * c * np.dtype(self.dtype).itemsize + sum(table.nbytes for table in tables) + keys


def block_rows(views: int) -> int:
    """Samples in a block."""
    return max(1, BLOCK_IMAGES // views)


def part_path(path: Path) -> Path:
    """Where a cache lies while it is written."""
    return path.with_name(path.name + ".part")


class CacheWriter:
    """Writes a cache block by block; use as a context manager, then `finish`.

    Opens `NAME.part` and goes on with it where it is of the same identity. Raises OutputError where
    it is of another one, naming the keys that differ, or damaged, and where the disk is too small.
    """

    def __init__(self, path: Path, content: Content) -> None:
        self._path, self._part = path, part_path(path)
        n, v, _ = content.shape
        self._rows_a_block = block_rows(v)
        self.blocks = -(-n // self._rows_a_block)
        if unfinished(path, content.identity) is None:
            _create(self._part, content, self.blocks)
        self._file = h5py.File(self._part, "r+", locking="best-effort")
        self._labels = content.labels
        self._logits, self._done = self._file["logits"], self._file["block_done"]
        self._crc, self._correct = self._file["block_crc32"], self._file["block_correct"]
        self._block_bytes = self._rows_a_block * v * len(content.classes) * np.dtype(content.dtype).itemsize

    def __enter__(self) -> "CacheWriter":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def rows(self, block: int) -> slice:
        """The samples of a block."""
        start = block * self._rows_a_block
        return slice(start, min(start + self._rows_a_block, self._logits.shape[0]))

    def missing(self) -> list[int]:
        """Blocks still to be written: those not done, and those whose rows do not match their CRC."""
        done = self._done[:]
        return [
            b for b in range(self.blocks) if not done[b] or self._crc[b] != _crc(self._logits[self.rows(b)])
        ]

    def write(self, block: int, logits: np.ndarray) -> None:
        """Write a block's logits (rows, V, C); raises CacheError where they are not finite."""
        with np.errstate(over="ignore"):
            stored = logits.astype(self._logits.dtype, copy=False)
        if not np.isfinite(stored).all():
            raise CacheError(
                f"{self._path}: the teacher's logits are not finite in {stored.dtype} "
                f"(samples {self.rows(block).start} to {self.rows(block).stop - 1}); "
                "try --dtype float32, or another teacher"
            )
        self._logits[self.rows(block)] = stored
        self._file.flush()
        self._crc[block] = _crc(stored)
        self._correct[block] = correct_views(stored, self._labels[self.rows(block)])
        self._done[block] = 1
        self._file.flush()

    def finish(self) -> None:
        """Mark the cache complete, seal it, force it to the disk and move it to its place."""
        self._file.attrs.modify("complete", np.bool_(True))  # in place: a kill here leaves a readable part
        crcs = self._crc[:]
        place = (self._logits.id.get_offset(), self._logits.id.get_storage_size())
        self._file.close()
        with open(self._part, "r+b") as file:
            seal.write(file, crcs, place, self._block_bytes)
            os.fsync(file.fileno())
        files.publish(self._part, self._path)


def unfinished(path: Path, identity: dict[str, Any]) -> dict[str, Any] | None:
    """The facts of the unfinished export of `path`, None where there is none.

    Raises OutputError where it is of another identity, naming the keys that differ, or damaged.
    """
    part = part_path(path)
    if not part.exists():
        return None
    try:
        with h5py.File(part, "r", locking="best-effort") as file:
            if (file.attrs["format"], file.attrs["version"]) != (FORMAT, VERSION):
                raise ValueError(f"it is not of {FORMAT} version {VERSION}")
            before, facts = (json.loads(file.attrs[key]) for key in ("identity", "facts"))
            blocks = -(-file["logits"].shape[0] // block_rows(file["logits"].shape[1]))
            if any(file[name].shape != (blocks,) for name in ("block_crc32", "block_done", "block_correct")):
                raise ValueError("its tables do not fit its logits")
    except _FOREIGN as error:
        raise OutputError(f"{part} is a damaged unfinished export ({error}); --force starts anew") from error
    if different := differences(before, identity):
        raise OutputError(
            f"{part} is an unfinished export of another recipe ({'; '.join(different)}); "
            "go on with that recipe, give another --out, or --force to start anew"
        )
    return facts


def progress_of_part(part: Path) -> tuple[int, int, tuple[int, int, int], dict[str, Any]]:
    """Blocks done, blocks, shape (N, V, C) and identity of an unfinished export; raises CacheError."""
    try:
        with h5py.File(part, "r", locking="best-effort") as file:
            _require_plain(file, part.stat().st_size)
            done = file["block_done"][:]
            return int(done.sum()), len(done), file["logits"].shape, json.loads(file.attrs["identity"])
    except _FOREIGN as error:
        raise CacheError(f"{part} is not an unfinished export of this dive's: {error}") from error


def _create(part: Path, content: Content, blocks: int) -> None:
    """Lay a new file out whole, with every byte allocated, and flush it before the first row."""
    files.require_space(part, content.bytes)
    fresh = files.temporary_name(part)
    with h5py.File(fresh, "w", userblock_size=seal.room_for(blocks), locking="best-effort") as file:
        for key, value in {
            "format": FORMAT,
            "version": VERSION,
            "producer": f"dive {__version__}",
            "identity": json.dumps(content.identity),
            "facts": json.dumps(content.facts),
            "complete": False,
        }.items():
            file.attrs[key] = value
        for name, texts in (("keys", content.keys), ("classes", content.classes)):
            encoded = [text.encode() for text in texts]
            file[name] = np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))
        file["labels"], file["views"] = content.labels, content.views
        file["class_counts"], file["pixel_digests"] = content.class_counts, content.pixel_digests
        file["block_crc32"] = np.zeros(blocks, dtype=np.uint32)
        file["block_done"] = np.zeros(blocks, dtype=np.uint8)
        file["block_correct"] = np.zeros(blocks, dtype=np.uint32)
        _allocate_logits(file, content)
    try:
        files.reserve(fresh)
    except OSError as error:
        fresh.unlink()
        raise OutputError(f"{part} cannot be laid out: {error.strerror}; choose another --out") from error
    with open(fresh, "rb") as written:
        os.fsync(written.fileno())
    files.publish(fresh, part)


# What h5py and json raise at files that are not what they say.
_FOREIGN = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError)


def _require_plain(file: h5py.File, length: int) -> None:
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


def _allocate_logits(file: h5py.File, content: Content) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)  # the same content makes the same bytes
    kind = h5py.h5t.py_create(np.dtype(content.dtype).newbyteorder("<"))
    h5py.h5d.create(file.id, b"logits", kind, h5py.h5s.create_simple(content.shape), plan)


def _crc(rows: np.ndarray) -> int:
    return zlib.crc32(np.ascontiguousarray(rows).view(np.uint8).reshape(-1).data)


def correct_views(logits: np.ndarray, labels: np.ndarray) -> int:
    """In how many of the views of logits (rows, V, C) the first of the largest is the label's (rows,)."""
    return int((logits.astype(np.float32, copy=False).argmax(axis=2) == labels[:, None]).sum())


class LogitCache:
    """A finished cache, opened for reading; the logits stay in the file and are memory-mapped.

    views: (N, V). labels: (N,). keys: N texts. pixel_digests: (N, 16) uint8. classes: C names.
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
        except _FOREIGN as error:
            raise CacheError(f"{path} is not a logit cache this dive can read: {error}") from error

    def _read(self, file: h5py.File) -> None:
        if file.attrs["format"] != FORMAT or file.attrs["version"] != VERSION or not file.attrs["complete"]:
            raise CacheError(
                f"{self.path} is not a complete {FORMAT} file of version {VERSION} (it says "
                f"{file.attrs['format']} {file.attrs['version']}); export it again"
            )
        _require_plain(file, self.path.stat().st_size)
        self.identity: dict[str, Any] = json.loads(file.attrs["identity"])
        self.facts: dict[str, Any] = json.loads(file.attrs["facts"])
        if not (isinstance(self.identity, dict) and isinstance(self.facts, dict)):
            raise ValueError("its identity and facts are not mappings")
        self.producer: str = file.attrs["producer"]
        self.keys = [key.decode() for key in file["keys"][:].tolist()]
        self.classes = tuple(name.decode() for name in file["classes"][:].tolist())
        self.labels, self.views, self.class_counts = (file[k][:] for k in ("labels", "views", "class_counts"))
        self.pixel_digests, self.block_correct = file["pixel_digests"][:], file["block_correct"][:]
        logits = file["logits"]
        self.dtype, self.shape = logits.dtype, logits.shape
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
            and self.pixel_digests.shape == (n, DIGEST_BYTES)
            and self.block_correct.shape == (blocks,)
            and 0 <= self.labels.min() <= self.labels.max() < classes
            and np.array_equal(np.bincount(self.labels, minlength=classes), self.class_counts)
        )

    def require_origin(self) -> None:
        """Raise CacheError unless the cache says of which images, views and teacher it is.

        What dive exports always does; its format alone does not ask for it.
        """
        documents = {"identity": self.identity, "facts": self.facts}
        for path, kind in _ORIGIN.items():
            value: Any = documents
            for key in path.split("/"):
                value = value.get(key) if isinstance(value, dict) else None
            if not isinstance(value, kind) or isinstance(value, bool):
                raise CacheError(f"{self.path} does not say its {path} as dive's exports do; export it again")

    @property
    def accuracy(self) -> float:
        """The teacher's accuracy over all stored views, as the export counted it; in [0, 1]."""
        return float(self.block_correct.sum()) / (self.shape[0] * self.shape[1])

    @property
    def hash(self) -> str:
        """The seal's digest in hexadecimal: the cache's name in every result made from it."""
        return self._seal.digest.hex()

    @cached_property
    def logits(self) -> np.ndarray:
        """The logits (N, V, C), memory-mapped, unchecked: see `blocks` and `check`.

        Mapped copy-on-write, so that torch takes them without a copy; the file cannot change.
        """
        return np.memmap(self.path, self.dtype, mode="c", offset=self._seal.offset, shape=self.shape)

    def blocks(self) -> Iterator[slice]:
        """The samples of each block, in order."""
        n, v, c = self.shape
        rows = self._seal.block_bytes // (v * c * self.dtype.itemsize)
        for start in range(0, n, rows):
            yield slice(start, min(start + rows, n))

    def checked(self, block: int, rows: slice) -> np.ndarray:
        """A block's logits (rows, V, C), its CRC checked at its first use; raises CacheError."""
        logits = self.logits[rows]
        if not self._checked[block]:
            if _crc(logits) != self._seal.crcs[block]:
                raise CacheError(
                    f"{self.path} is corrupt: samples {rows.start} to {rows.stop - 1} do not match "
                    "their CRC; export it again"
                )
            self._checked[block] = True
        return logits

    def check(self) -> None:
        """Check every block; raises CacheError at the first that does not match its CRC."""
        for block, rows in enumerate(self.blocks()):
            self.checked(block, rows)
