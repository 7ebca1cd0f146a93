"""Logits in a .npz as NumPy's `savez` writes it. The arrays are held in memory; nothing is unpickled."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from dive import memory
from dive.files import open_regular, readable_size

_ZIP = (b"PK\x03\x04", b"PK\x05\x06")  # the second is that of an archive without members


@contextmanager
def opened(path: Path, names: Collection[str]) -> Iterator[Mapping[str, np.ndarray]]:
    """The arrays of a .npz that are among `names`, by name.

    Raises OSError or ValueError if the file is not a .npz, has arrays of Python objects or needs more memory
    than is free, and whatever zipfile and NumPy raise if it is damaged.
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
                    f"its arrays need {readable_size(needed)} of memory, but {readable_size(free)} are free; "
                    "use an .h5, which is read block by block"
                )
            yield {name: _array(archive, name) for name in there}


def _array(archive: "np.lib.npyio.NpzFile", name: str) -> np.ndarray:
    try:
        array: np.ndarray = archive[name]
    except ValueError as error:
        if "pickle" in str(error):
            raise ValueError(
                f"its {name} are Python objects, which are never unpickled; save strings with "
                f"np.array({name}, dtype=str)"
            ) from error
        raise
    return array
