"""The tables of a cache, everything besides its rows, read from HDF5 and checked against each other.

A file with a valid seal may still be forged. Tables that are links, virtual, external, filtered, larger than
the file or inconsistent with each other are refused before they are used.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive.cache.encodings.codec import Codec, Head
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.seal import Seal
from dive.errors import CacheError
from dive.printable import excerpt

FORMAT = "dive-logits"
VERSION = 4
_PLAIN = 3  # the previous version, which has only logits in float16 and float32
DIGEST_BYTES = 16  # of an image's SHA-256
HEAD = ("head_weight", "head_bias")
_NAMES: tuple[str, ...] = ("keys", "classes", "labels", "views", "class_counts", "digests", "block_crc32")
_NAMES += ("block_done", "block_correct")

# What h5py and json raise for malformed files.
FOREIGN = (OSError, KeyError, ValueError, TypeError, AttributeError, RuntimeError, RecursionError)


@dataclass(frozen=True)
class Tables:
    """A cache without its rows.

    views: (N, V). labels: (N,). class_counts: (C,). digests: (N, 16). block_correct: (blocks,).
    """

    producer: str
    version: int
    identity: dict[str, Any]
    facts: dict[str, Any]
    keys: list[str]
    classes: tuple[str, ...]
    labels: np.ndarray
    views: np.ndarray
    class_counts: np.ndarray
    digests: np.ndarray
    block_correct: np.ndarray
    codec: Codec


def read_tables(path: Path, file: h5py.File, seal: Seal, length: int) -> Tables:
    """The tables of the cache at `path`, opened as `file`.

    length: of the file in bytes. Raises CacheError if the cache is of another version, incomplete or
    inconsistent, and one of FOREIGN if it is malformed.
    """
    form, version = file.attrs["format"], file.attrs["version"]
    if form == FORMAT and version not in (_PLAIN, VERSION):
        raise CacheError(
            f"{path} is of another version of dive ({FORMAT} {version}; this one reads {_PLAIN} and "
            f"{VERSION}); make it again with its recipe and data: dive export-logits --out {path} --force"
        )
    if form != FORMAT or not file.attrs["complete"]:
        raise CacheError(
            f"{path} is not a complete {FORMAT} file of version {VERSION} (its format is {form} "
            f"{version}); export it again"
        )
    for name in _NAMES:
        _require_plain(file, name, length)
    identity, facts = json.loads(file.attrs["identity"]), json.loads(file.attrs["facts"])
    if not (isinstance(identity, dict) and isinstance(facts, dict)):
        raise ValueError("its identity and facts are not mappings")
    if version == _PLAIN and "dtype" in identity:
        identity = {("store" if key == "dtype" else key): value for key, value in identity.items()}
    classes = tuple(name.decode() for name in file["classes"][:].tolist())
    tables = Tables(
        producer=file.attrs["producer"],
        version=int(version),
        identity=identity,
        facts=facts,
        keys=[key.decode() for key in file["keys"][:].tolist()],
        classes=classes,
        **{name: file[name][:] for name in ("labels", "views", "class_counts", "digests", "block_correct")},
        codec=_codec(file, int(version), len(classes), length),
    )
    if not _are_consistent(tables, file[tables.codec.encoding.table], seal):
        raise CacheError(f"{path} contradicts itself: its tables do not match its rows; export it again")
    return tables


def _require_plain(file: h5py.File, name: str, length: int) -> None:
    """Raise ValueError unless a table is contiguous and unfiltered in this file, and no larger than it.

    Otherwise a forged file could make HDF5 read other files or allocate any amount of memory.
    """
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


def _codec(file: h5py.File, version: int, classes: int, length: int) -> Codec:
    """The codec of the encoding that the file states; reads the head but not the rows."""
    if version == _PLAIN:
        _require_plain(file, "logits", length)
        named = file["logits"].dtype.name
    else:
        named = file.attrs["encoding"]
    encoding = ENCODINGS.get(named) if isinstance(named, str) else None
    if encoding is None or (version == _PLAIN and named not in ("float16", "float32")):
        raise ValueError(f"its encoding is {excerpt(named)}, which this version of dive does not know")
    _require_plain(file, encoding.table, length)
    if not encoding.of_features:
        return Codec(encoding, classes)
    for name in HEAD:
        _require_plain(file, name, length)
    weight, bias = (file[name][()] for name in HEAD)
    sound = weight.dtype == bias.dtype == np.float32 and weight.ndim == 2 and weight.shape[1] > 0
    sound = sound and weight.shape[0] == classes and bias.shape == (classes,)
    if not (sound and np.isfinite(weight).all() and np.isfinite(bias).all()):
        raise ValueError("its head is not a finite float32 matrix and vector for its classes")
    return Codec(encoding, classes, Head(weight, bias))


def _are_consistent(tables: Tables, rows: h5py.Dataset, seal: Seal) -> bool:
    """Whether tables, rows and seal agree on shapes, dtypes and offsets, and the labels with the counts."""
    n, classes, row = len(tables.keys), len(tables.classes), tables.codec.row
    views = tables.views.shape[1] if tables.views.ndim == 2 else 0
    return (
        0 not in (n, views, classes)
        and rows.shape == (n, views, *row.shape)
        and rows.dtype == row.base
        and (rows.id.get_offset(), rows.id.get_storage_size()) == (seal.offset, seal.size)
        and seal.block_bytes % (row.itemsize * views) == 0
        and all(table.dtype.kind in "iu" for table in (tables.labels, tables.views, tables.class_counts))
        and tables.views.shape[0] == n
        and tables.labels.shape == (n,)
        and tables.digests.shape == (n, DIGEST_BYTES)
        and tables.block_correct.shape == (len(seal.crcs),)
        and 0 <= tables.labels.min() <= tables.labels.max() < classes
        and np.array_equal(np.bincount(tables.labels, minlength=classes), tables.class_counts)
    )
