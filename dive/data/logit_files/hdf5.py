"""An HDF5 file of plain data sets, of which rows are read as they are needed.

A file of any origin may lead to other files or promise more than it holds: links, virtual and external data
sets are refused, and so are those whose size its own length does not explain.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from dive.files import open_regular, readable_size

LARGEST_CHUNK = (
    1 << 27
)  # bytes; so much of a data set in chunks is held, that none is unpacked again for each row
_PACKED = 1100  # times as much as its bytes: what deflate can make of zeros is 1032


@contextmanager
def opened(path: Path, names: Collection[str]) -> Iterator[Mapping[str, h5py.Dataset]]:
    """Those of some data sets that an HDF5 file has, by name, open for reading.

    Raises ValueError where one is not plain, and what h5py raises where the file is damaged.
    """
    with open_regular(path) as file:
        length = file.seek(0, 2)
    with h5py.File(path, "r", locking="best-effort", rdcc_nbytes=LARGEST_CHUNK) as file:
        there = [name for name in names if file.get(name, getlink=True) is not None]
        yield {name: _plain(file, name, length) for name in there}


def _plain(file: h5py.File, name: str, length: int) -> h5py.Dataset:
    """A data set of this very file; ValueError where it is elsewhere, or cannot hold what it promises."""
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"its {name} are a link; they must be a data set of the file itself")
    table = file[name]
    if not isinstance(table, h5py.Dataset) or table.shape is None:
        raise ValueError(f"its {name} are not a data set")
    if table.is_virtual or table.id.get_create_plist().get_external_count():
        raise ValueError(f"its {name} are virtual or external; they must be in the file itself")
    if table.size and not 0 < table.nbytes <= _PACKED * min(length, table.id.get_storage_size()):
        raise ValueError(f"its {name} were not written whole: {table.shape} is more than the file holds")
    if table.chunks is not None:
        chunk = table.dtype.itemsize
        for side in table.chunks:
            chunk *= side
        if chunk > LARGEST_CHUNK:
            raise ValueError(
                f"its {name} are in chunks of {readable_size(chunk)}; write them without chunks, or in such "
                f"of {readable_size(LARGEST_CHUNK)} at most"
            )
    return table
