"""Logits in an HDF5 file of plain datasets, whose rows are read when they are needed.

A file of unknown origin may refer to other files, or declare shapes larger than its content. Therefore links,
virtual datasets and external datasets are refused, and so are datasets too large for the length of the file.
"""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import h5py

from dive.files import open_regular, readable_size

LARGEST_CHUNK = (
    1 << 27
)  # bytes of the chunk cache: a chunk that fits is not decompressed again for each of its rows
_PACKED = 1100  # the largest compression ratio that is believed; deflate reaches 1032, on zeros


@contextmanager
def opened(path: Path, names: Collection[str]) -> Iterator[Mapping[str, h5py.Dataset]]:
    """The datasets of an HDF5 file that are among `names`, by name, open for reading.

    Raises ValueError if one is not a plain dataset, and whatever h5py raises if the file is damaged.
    """
    with open_regular(path) as file:
        length = file.seek(0, 2)
    with h5py.File(path, "r", locking="best-effort", rdcc_nbytes=LARGEST_CHUNK) as file:
        there = [name for name in names if file.get(name, getlink=True) is not None]
        yield {name: _plain(file, name, length) for name in there}


def _plain(file: h5py.File, name: str, length: int) -> h5py.Dataset:
    """A dataset stored in this file itself.

    Raises ValueError if it is stored elsewhere, if its shape is larger than its content can be, or if its
    chunks are larger than `LARGEST_CHUNK`.
    """
    if not isinstance(file.get(name, getlink=True), h5py.HardLink):
        raise ValueError(f"its {name} are a link; they must be a dataset of the file itself")
    table = file[name]
    if not isinstance(table, h5py.Dataset) or table.shape is None:
        raise ValueError(f"its {name} are not a dataset")
    if table.is_virtual or table.id.get_create_plist().get_external_count():
        raise ValueError(f"its {name} are virtual or external; they must be in the file itself")
    if table.size and not 0 < table.nbytes <= _PACKED * min(length, table.id.get_storage_size()):
        raise ValueError(f"its {name} are incomplete: {table.shape} does not fit into the file")
    if table.chunks is not None:
        chunk = table.dtype.itemsize
        for side in table.chunks:
            chunk *= side
        if chunk > LARGEST_CHUNK:
            raise ValueError(
                f"its {name} are in chunks of {readable_size(chunk)}; write them without chunks, or in "
                f"chunks of at most {readable_size(LARGEST_CHUNK)}"
            )
    return table
