"""Writing a logit cache: block by block as `NAME.part`, gone on with after a kill, sealed at the end.

Nothing but raw data changes after the first flush, so every flushed block stays readable. What the
file holds is said in `logit_cache`.
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive import __version__, files, seal
from dive.documents import differences
from dive.errors import CacheError, OutputError
from dive.logit_cache import FOREIGN, FORMAT, VERSION, correct_views, crc, require_plain

BLOCK_IMAGES = 2048  # views in a block; what a kill can cost, and what one CRC covers


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
            b for b in range(self.blocks) if not done[b] or self._crc[b] != crc(self._logits[self.rows(b)])
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
        self._crc[block] = crc(stored)
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
    except FOREIGN as error:
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
            require_plain(file, part.stat().st_size)
            done = file["block_done"][:]
            return int(done.sum()), len(done), file["logits"].shape, json.loads(file.attrs["identity"])
    except FOREIGN as error:
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


def _allocate_logits(file: h5py.File, content: Content) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)  # the same content makes the same bytes
    kind = h5py.h5t.py_create(np.dtype(content.dtype).newbyteorder("<"))
    h5py.h5d.create(file.id, b"logits", kind, h5py.h5s.create_simple(content.shape), plan)
