"""A file of logits that another program wrote: checks its arrays against each other and reads its rows.

Imports NumPy and h5py, but not torch.
"""

import lzma
import struct
import tokenize
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from dive.data.logit_files.registry import FORMATS
from dive.errors import DataError
from dive.printable import excerpt

NAMES = ("keys", "logits", "classes", "views")
MUST_HOLD = (
    "a file of logits holds keys (N strings <class>/<file name>), logits (floats of shape (N, C) or "
    "(N, V, C)), classes (C names, in the order of the logits' columns) and, unless the logits are of the "
    "clean view, views (view ids of shape (N, V) or (V,))"
)
# What h5py, NumPy and zipfile raise for a file that is damaged, or of another format than its name says.
_DAMAGED: tuple[type[Exception], ...] = (
    OSError,
    ValueError,
    KeyError,
    TypeError,
    AttributeError,
    RuntimeError,
)
_DAMAGED += (EOFError, OverflowError, SyntaxError, tokenize.TokenError)
_DAMAGED += (zipfile.BadZipFile, zlib.error, lzma.LZMAError, struct.error)


@dataclass(frozen=True)
class LogitFile:
    """An open file of logits whose arrays are consistent with each other.

    keys: N distinct strings. classes: C distinct names, in the order of the logits' columns. views: (N, V)
    int64 view ids; None if the file has no view ids, in which case V is 1. shape: (N, V, C). table: the
    logits, (N, V, C) or (N, C), a NumPy array or an HDF5 dataset.
    """

    path: Path
    keys: list[str]
    classes: tuple[str, ...]
    views: np.ndarray | None
    shape: tuple[int, int, int]
    table: Any

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The logits (B, V, C) of rows `places` (B,), in the dtype of the file.

        Consecutive rows are read together. Raises DataError if the file is damaged.
        """
        order = np.argsort(places, kind="stable")
        ascending = places[order]
        found = np.empty((len(places), *self.shape[1:]), self.table.dtype)
        ends = np.flatnonzero(np.diff(ascending) != 1) + 1
        with readable(self.path):
            for some in np.split(np.arange(len(places)), ends):
                start, stop = int(ascending[some[0]]), int(ascending[some[-1]]) + 1
                found[order[some]] = self.table[start:stop].reshape(-1, *self.shape[1:])
        return found


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Turn what reading a file of logits raises into a DataError of one line.

    That is if the file is missing or damaged, is of another format than its name says, or does not fit in
    memory.
    """
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no file of logits {path}") from None
    except MemoryError:
        raise DataError(f"{path} does not fit in memory; use an .h5, which is read block by block") from None
    except _DAMAGED as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise DataError(f"cannot read {path}: {reason or type(error).__name__}") from error


@contextmanager
def open_logits(path: Path) -> Iterator[LogitFile]:
    """The file of logits at `path`, a .npz, .h5 or .hdf5, open while the context lasts.

    Raises DataError if it cannot be read, lacks an array, or has arrays that contradict each other.
    """
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise DataError(f"{path} is neither a .npz nor an .h5; {MUST_HOLD}")
    with ExitStack() as stack:
        with readable(path):
            file = _checked(path, stack.enter_context(FORMATS[suffix](path, NAMES)))
        yield file


def _checked(path: Path, tables: Mapping[str, Any]) -> LogitFile:
    if missing := [name for name in NAMES[:-1] if name not in tables]:
        there = " and ".join(tables) or "none of them"
        raise DataError(f"{path} has no {' and no '.join(missing)} (it has {there}); {MUST_HOLD}")
    keys, classes = (_texts(path, name, tables[name]) for name in ("keys", "classes"))
    table = tables["logits"]
    if not (table.dtype.kind == "f" and table.dtype.itemsize <= 8):
        raise DataError(f"the logits of {path} are {_described(table)}, not float16, float32 or float64")
    shape = (table.shape[0], 1, table.shape[1]) if len(table.shape) == 2 else table.shape
    if len(shape) != 3 or 0 in shape or shape[0] != len(keys) or shape[2] != len(classes):
        raise DataError(
            f"the logits of {path} are {_described(table)}, but it has {len(keys)} keys and {len(classes)} "
            f"classes; {MUST_HOLD}"
        )
    views = _views(path, tables["views"], shape) if "views" in tables else None
    if views is None and shape[1] != 1:
        raise DataError(f"{path} has logits of {shape[1]} views but no array views; {MUST_HOLD}")
    return LogitFile(path, keys, tuple(classes), views, shape, table)


def _texts(path: Path, name: str, table: Any) -> list[str]:
    """The strings of a one-dimensional array; raises DataError unless they are distinct strings."""
    kind = table.dtype.kind
    if len(table.shape) != 1 or not (kind in "SU" or h5py.check_string_dtype(table.dtype) is not None):
        raise DataError(
            f"the {name} of {path} are {_described(table)}, not a one-dimensional array of strings; "
            f"{MUST_HOLD}"
        )
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in table[:].tolist()]
    if len(set(texts)) < len(texts):
        (twice, count), *_ = Counter(texts).most_common(1)
        raise DataError(f"{path} has {excerpt(twice)} {count} times in its {name}; each may occur only once")
    return texts


def _views(path: Path, table: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """View ids (N, V) int64; the file may give them once for all samples, as (V,)."""
    if table.dtype.kind not in "iu" or table.shape not in (shape[:2], shape[1:2]):
        raise DataError(
            f"the views of {path} are {_described(table)}, but its logits are of {shape[0]} samples in "
            f"{shape[1]} views; {MUST_HOLD}"
        )
    ids = table[...].astype(np.int64)  # ids above 2⁶³ − 1 become negative; no view space has such ids
    return np.broadcast_to(ids, shape[:2])


def _described(table: Any) -> str:
    return f"{tuple(table.shape)} of {table.dtype}"
