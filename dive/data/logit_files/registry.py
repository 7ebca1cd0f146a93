"""The formats of files of logits by the end of their names: a line each."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dive.data.logit_files import hdf5, npz

# Some arrays of a file by name: what has a shape, a dtype and slices that are NumPy arrays.
Opener = Callable[[Path, Collection[str]], AbstractContextManager[Mapping[str, Any]]]
FORMATS: dict[str, Opener] = {
    ".npz": npz.opened,
    ".h5": hdf5.opened,
    ".hdf5": hdf5.opened,
}
