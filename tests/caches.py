"""Small logit caches of any content, for tests that need no teacher."""

import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive.cache import seal
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, Content, block_rows

IDENTITY = {
    "recipe": "small",
    "data": {"kind": "folder", "seed": 0, "imbalance": 10.0},
    "teacher": {"weights_hash": "abc"},
}


def random_logits(n: int, v: int, c: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """Logits (N, V, C), float32, of a generator of their own."""
    return (np.random.default_rng(seed).standard_normal((n, v, c)) * scale).astype(np.float32)


def content_for(
    logits: np.ndarray,
    *,
    labels: Iterable[int] | None = None,
    views: np.ndarray | None = None,
    dtype: str = "float16",
    clean_id: int = 0,
    **changes: Any,
) -> Content:
    """Everything of a cache besides its logits (N, V, C); labels go round the classes if not given."""
    n, v, c = logits.shape
    labels = np.arange(n) % c if labels is None else np.asarray(labels, dtype=np.int64)
    return Content(
        views=np.tile(np.arange(v, dtype=np.int32), (n, 1)) if views is None else views,
        labels=labels,
        keys=changes.get("keys", [f"class {label}/image {i}.png" for i, label in enumerate(labels)]),
        digests=changes.get("digests", np.zeros((n, 16), dtype=np.uint8)),
        classes=changes.get("classes", tuple(f"class {label}" for label in range(c))),
        class_counts=np.bincount(labels, minlength=c),
        dtype=dtype,
        identity=changes.get("identity", IDENTITY),
        facts=changes.get("facts", {"precision": "fp32", "clean_id": clean_id, "teacher": {}}),
    )


def write_blocks(
    path: Path, content: Content, logits: np.ndarray, blocks: Iterable[int] | None = None
) -> None:
    """Write some blocks (all that are missing if not given) of a cache and leave it unfinished."""
    with CacheWriter(path, content) as writer:
        for block in writer.missing() if blocks is None else blocks:
            writer.write(block, logits[writer.rows(block)])


def finish(path: Path, content: Content) -> None:
    """Finish a cache whose blocks are all there."""
    with CacheWriter(path, content) as writer:
        assert writer.missing() == []
        writer.finish()


def resealed(path: Path, change: Callable[[h5py.File], None]) -> None:
    """Change a finished cache's file and seal it again, CRCs and all, as a forger would."""
    with h5py.File(path, "r+") as file:
        change(file)
    with h5py.File(path, "r+") as file:
        logits = file["logits"]
        rows = block_rows(logits.shape[1])
        blocks = [logits[start : start + rows] for start in range(0, logits.shape[0], rows)]
        crcs = np.array([zlib.crc32(block.tobytes()) for block in blocks], dtype=np.uint32)
        file["block_crc32"][:] = crcs
        place = (logits.id.get_offset(), logits.id.get_storage_size())
        block_bytes = rows * logits.shape[1] * logits.shape[2] * logits.dtype.itemsize
    with open(path, "r+b") as file:
        seal.write(file, crcs, place, block_bytes)


def edited(part: Path, change: Callable[[h5py.File], None]) -> None:
    """Change an unfinished cache with h5py and keep the record behind it, which HDF5 cuts off."""
    whole = part.read_bytes()
    with h5py.File(part, "r+") as file:
        change(file)
    length = struct.unpack("<32sQQI8s", whole[-60:])[2]  # of the cache; the record stands behind it
    part.write_bytes(part.read_bytes().ljust(length, b"\0")[:length] + whole[length:])


def stored(path: Path) -> np.ndarray:
    """The logits (N, V, C) that a cache's file holds, as h5py reads them."""
    with h5py.File(path, "r") as file:
        return file["logits"][:]


def offset(path: Path) -> int:
    """Where the logits begin in a cache's file, in bytes."""
    with h5py.File(path, "r") as file:
        return file["logits"].id.get_offset()


def write_cache(path: Path, logits: np.ndarray, **options: Any) -> LogitCache:
    """A finished cache of these logits (N, V, C), opened for reading."""
    content = content_for(logits, **options)
    with CacheWriter(path, content) as writer:
        for block in writer.missing():
            writer.write(block, logits[writer.rows(block)])
        writer.finish()
    return LogitCache(path)
