"""A .npz as NumPy's `savez` writes it: every array is read into memory whole, and none is unpickled."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dive import memory
from dive.files import open_regular, readable_size

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second of one without a member


@contextmanager
def opened(path: Path, names: Collection[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """Those of some arrays that a .npz has, by name.

    Raises OSError or ValueError where it is none, holds Python objects or needs more memory than there is,
    and what zipfile and NumPy raise where it is damaged.
    """
    with open_regular(path) as file:
        if file.read(4) not in _ZIP:
            raise ValueError("it is not a .npz")
        file.seek(0)
        with np.load(file, allow_pickle=False) as archive:
            sizes = {info.filename: info.file_size for info in archive.zip.infolist()}
            there = [name for name in names if f"{name}.npy" in sizes]
            needed, free = sum(sizes[f"{name}.npy"] for name in there), memory.available()
            if needed > free:
                raise ValueError(
                    f"its arrays take {readable_size(needed)} of memory and {readable_size(free)} are free; "
                    "an .h5 is read block by block"
                )
            yield {name: _array(archive, name) for name in there}


def _array(archive: "np.lib.npyio.NpzFile", name: str) -> np.ndarray:
    try:
        array: np.ndarray = archive[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise ValueError(
                f"its {name} are Python objects, which are never unpickled; save texts by "
                f"np.array({name}, dtype=str)"
            ) from error
        raise
    return array
