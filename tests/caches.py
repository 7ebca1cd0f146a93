"""Small logit caches of any content and encoding, for tests that need no teacher."""

import struct
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive.cache import seal
from dive.cache.encodings.codec import Head
from dive.cache.encodings.registry import ENCODINGS
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


STORES = list(ENCODINGS)
MORE_FEATURES = 3  # than classes, of caches of features


def values(store: str, n: int, v: int, c: int, seed: int = 0, scale: float = 3.0) -> np.ndarray:
    """What an encoding stores: logits (N, V, C), or features (N, V, C + 3), of both signs."""
    width = c + MORE_FEATURES if ENCODINGS[store].of_features else c
    return random_logits(n, v, width, seed, scale)


def head(classes: int, seed: int = 5) -> Head:
    """The head of caches of features with so many classes."""
    generator = np.random.default_rng(seed)
    weight = generator.standard_normal((classes, classes + MORE_FEATURES)).astype(np.float32)
    return Head(weight, generator.standard_normal(classes).astype(np.float32))


def content_for(
    logits: np.ndarray,
    *,
    labels: Iterable[int] | None = None,
    views: np.ndarray | None = None,
    store: str = "float16",
    clean_id: int = 0,
    **changes: Any,
) -> Content:
    """Everything of a cache besides its `values` (N, V, …); labels go round the classes if not given."""
    n, v, c = logits.shape
    of_features = ENCODINGS[store].of_features
    c -= MORE_FEATURES if of_features else 0
    labels = np.arange(n) % c if labels is None else np.asarray(labels, dtype=np.int64)
    return Content(
        views=np.tile(np.arange(v, dtype=np.int32), (n, 1)) if views is None else views,
        labels=labels,
        keys=changes.get("keys", [f"class {label}/image {i}.png" for i, label in enumerate(labels)]),
        digests=changes.get("digests", np.zeros((n, 16), dtype=np.uint8)),
        classes=changes.get("classes", tuple(f"class {label}" for label in range(c))),
        class_counts=np.bincount(labels, minlength=c),
        store=store,
        head=changes.get("head", head(c)) if of_features else None,
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
        table = file[table_of(file)]
        rows = block_rows(table.shape[1])
        blocks = [table[start : start + rows] for start in range(0, table.shape[0], rows)]
        crcs = np.array([zlib.crc32(block.tobytes()) for block in blocks], dtype=np.uint32)
        file["block_crc32"][:] = crcs
        place = (table.id.get_offset(), table.id.get_storage_size())
        block_bytes = rows * table.nbytes // table.shape[0]
    with open(path, "r+b") as file:
        seal.write(file, crcs, place, block_bytes)


def edited(part: Path, change: Callable[[h5py.File], None]) -> None:
    """Change an unfinished cache with h5py and keep the record behind it, which HDF5 cuts off."""
    whole = part.read_bytes()
    with h5py.File(part, "r+") as file:
        change(file)
    length = struct.unpack("<32sQQI8s", whole[-60:])[2]  # of the cache; the record stands behind it
    part.write_bytes(part.read_bytes().ljust(length, b"\0")[:length] + whole[length:])


def table_of(file: h5py.File) -> str:
    """The name of the data set that holds the rows."""
    return "features" if "features" in file else "logits"


def stored(path: Path) -> np.ndarray:
    """The rows (N, V, …) that a cache's file holds, as h5py reads them."""
    with h5py.File(path, "r") as file:
        return file[table_of(file)][:]


def decoded(path: Path) -> np.ndarray:
    """The logits (N, V, C) of a cache's file in float64, computed by the formulas of the format."""
    with h5py.File(path, "r") as file:
        rows = file[table_of(file)][:]
        if rows.dtype.names:
            found = rows["values"].astype(np.float64) * rows["scale"].astype(np.float64)[..., None]
            if "offset" in rows.dtype.names:
                found += rows["offset"].astype(np.float64)[..., None]
        else:
            found = rows.astype(np.float64)
        if "head_weight" not in file:
            return found
        weight, bias = (file[name][:].astype(np.float64) for name in ("head_weight", "head_bias"))
        return np.einsum("nvd,cd->nvc", found, weight) + bias


def offset(path: Path) -> int:
    """Where the rows begin in a cache's file, in bytes."""
    with h5py.File(path, "r") as file:
        return file[table_of(file)].id.get_offset()


def write_cache(path: Path, logits: np.ndarray, **options: Any) -> LogitCache:
    """A finished cache of these `values` (N, V, …), opened for reading."""
    content = content_for(logits, **options)
    with CacheWriter(path, content) as writer:
        for block in writer.missing():
            writer.write(block, logits[writer.rows(block)])
        writer.finish()
    return LogitCache(path)


def of_two_classes(
    path: Path, kinds: Iterable[tuple[int, float]], counts: tuple[int, int] | None = None
) -> LogitCache:
    """A float32 cache of two classes whose curves are known by hand, one view of each image.

    kinds: how many images have which logits: a strength s stands for (0, s), a negative one for (-s, 0). At T
    the second class has Σ tanh(s/2T) virtual examples more than the first. counts: images of either class,
    10 of the second if not given.
    """
    strengths = np.array([strength for count, strength in kinds for _ in range(count)])
    counts = counts or (len(strengths) - 10, 10)
    logits = np.stack([np.maximum(-strengths, 0), np.maximum(strengths, 0)], axis=1)[:, None]
    return write_cache(path, logits.astype(np.float32), labels=np.repeat((0, 1), counts), store="float32")
