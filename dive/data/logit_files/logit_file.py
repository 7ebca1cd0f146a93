"""The logits that another program wrote: which arrays a file must hold, checked, and its rows.

NumPy and h5py alone.
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
    "a file of logits holds keys (N texts <class>/<file name>), logits (N, C) or (N, V, C) of floating type, "
    "classes (C names, in the order of the logits' columns) and, unless they are of the clean view, "
    "views (N, V) or (V,) of view ids"
)
# What h5py, NumPy and zipfile raise at files that are not what they say.
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
    """An open file of logits whose arrays fit each other.

    keys: N distinct texts. classes: C distinct names, in the order of the logits' columns. views: (N, V)
    int64 view ids; None where the file has none and V is 1. shape: (N, V, C).
    """

    path: Path
    keys: list[str]
    classes: tuple[str, ...]
    views: np.ndarray | None
    shape: tuple[int, int, int]
    table: Any

    def rows(self, places: np.ndarray) -> np.ndarray:
        """The logits (B, V, C) of rows `places` (B,), in the type of the file; raises DataError.

        Rows that lie beside each other are read at once.
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
    """Raise DataError in one line where a file is missing, or is not what its name says."""
    try:
        yield
    except FileNotFoundError:
        raise DataError(f"there is no file of logits {path}") from None
    except MemoryError:
        raise DataError(f"{path} needs more memory than there is; an .h5 is read block by block") from None
    except _DAMAGED as error:
        reason = " ".join(str(getattr(error, "strerror", None) or error).split())
        raise DataError(f"cannot read {path}: {reason or type(error).__name__}") from error


@contextmanager
def open_logits(path: Path) -> Iterator[LogitFile]:
    """The file of logits at `path`, a .npz or an .h5, while the context lasts.

    Raises DataError where it cannot be read, lacks an array, or its arrays do not fit each other.
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
            f"the logits of {path} are {_described(table)} where it has {len(keys)} keys and {len(classes)} "
            f"classes; {MUST_HOLD}"
        )
    views = _views(path, tables["views"], shape) if "views" in tables else None
    if views is None and shape[1] != 1:
        raise DataError(f"{path} has logits of {shape[1]} views and no views; {MUST_HOLD}")
    return LogitFile(path, keys, tuple(classes), views, shape, table)


def _texts(path: Path, name: str, table: Any) -> list[str]:
    """The texts of an array, which are distinct."""
    kind = table.dtype.kind
    if len(table.shape) != 1 or not (kind in "SU" or h5py.check_string_dtype(table.dtype) is not None):
        raise DataError(f"the {name} of {path} are {_described(table)}, not a row of texts; {MUST_HOLD}")
    texts = [text.decode() if isinstance(text, bytes) else str(text) for text in table[:].tolist()]
    if len(set(texts)) < len(texts):
        (twice, count), *_ = Counter(texts).most_common(1)
        raise DataError(f"{path} has {excerpt(twice)} {count} times among its {name}; give each once")
    return texts


def _views(path: Path, table: Any, shape: tuple[int, int, int]) -> np.ndarray:
    """View ids (N, V), which may be given once for all samples."""
    if table.dtype.kind not in "iu" or table.shape not in (shape[:2], shape[1:2]):
        raise DataError(
            f"the views of {path} are {_described(table)} where its logits are of {shape[0]} samples in "
            f"{shape[1]} views; {MUST_HOLD}"
        )
    ids = table[...].astype(np.int64)  # larger ones become negative, and no space has either
    return np.broadcast_to(ids, shape[:2])


def _described(table: Any) -> str:
    return f"{tuple(table.shape)} of {table.dtype}"
