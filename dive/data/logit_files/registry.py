"""The formats of files of logits, by the suffix of the file: one line each."""

from collections.abc import Callable, Collection, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from dive.data.logit_files import hdf5, npz

# Opens the arrays of a file that have some names, by name. An array has a shape and a dtype, and its slices
# are NumPy arrays.
Opener = Callable[[Path, Collection[str]], AbstractContextManager[Mapping[str, Any]]]
FORMATS: dict[str, Opener] = {
    ".npz": npz.opened,
    ".h5": hdf5.opened,
    ".hdf5": hdf5.opened,
}
