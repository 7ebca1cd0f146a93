"""The index of image files: size, modification time, digest and height and width of each, kept on disk.

Every file is read once: its bytes are digested and its header is parsed, so that a file that is not an image
is found before a run begins. An interrupted index resumes from the files that it has. An entry of an existing
index is used if the file still has the size and modification time of the entry.
"""

import io
import os
import time
import zipfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from dive import files as written
from dive.data.on_demand import file_digest
from dive.data.pictures import DIGEST_BYTES
from dive.data.sources.decode import check_header, refusing_huge_images
from dive.data.sources.picture_files import PictureFiles
from dive.data.sources.tree import stamp
from dive.errors import BusyError
from dive.outputs import only_writer
from dive.progress import Progress

VERSION = 1
SAVE_EVERY = 30.0  # seconds; a killed process loses at most about this much work
_PIECE = 256  # files that a thread indexes at a time
_COLUMNS = {"sizes": np.int64, "changed": np.int64, "sides": np.int32, "digests": np.uint8}


@dataclass(frozen=True)
class Index:
    """The entries of N files.

    names: N, below the root. sizes: (N,) in bytes. changed: (N,) modification times in nanoseconds; in a .zip
    the CRC instead. sides: (N, 2) height and width in pixels, after the EXIF orientation is applied. digests:
    (N, 16) uint8, of the files' bytes. known: (N,) bool, whether the file is indexed; if not, its entry is
    meaningless.
    """

    names: Sequence[str]
    sizes: np.ndarray
    changed: np.ndarray
    sides: np.ndarray
    digests: np.ndarray
    known: np.ndarray


def index(pictures: PictureFiles, place: Path, progress: Progress, check: bool = False) -> Index:
    """The index of some files, read from and saved to the file `place`.

    check: decode every image, also those that are indexed already. Raises DataError that names a file that
    cannot be read or is not an image.
    """
    n = len(pictures)
    found = Index(
        pictures.names,
        np.zeros(n, np.int64),
        np.zeros(n, np.int64),
        np.zeros((n, 2), np.int32),
        np.zeros((n, DIGEST_BYTES), np.uint8),
        np.zeros(n, bool),
    )
    others = _take_over(found, place)
    _drop_changed(found, pictures)
    missing = np.flatnonzero(~found.known | check)  # an index does not record which files were decoded
    if len(missing) == 0:
        return found
    doing = "checking" if check else "indexing"
    progress.note(f"{doing} {len(missing)} of {n} images below {pictures.files.root}")
    pieces = [missing[i : i + _PIECE] for i in range(0, len(missing), _PIECE)]
    saved = time.monotonic()
    try:
        with (
            refusing_huge_images(),
            ThreadPoolExecutor(os.cpu_count() or 1) as pool,
            progress.bar("index", n, n - len(missing)) as bar,
        ):
            try:
                for done in _in_order(pool, found, pictures, pieces, check):
                    bar.advance(len(done))
                    if time.monotonic() - saved > SAVE_EVERY:
                        _save(found, others, place)
                        saved = time.monotonic()
            finally:
                pool.shutdown(cancel_futures=True)
    finally:
        _save(found, others, place)
    return found


def _in_order(
    pool: ThreadPoolExecutor, found: Index, pictures: PictureFiles, pieces: list[np.ndarray], check: bool
) -> Iterator[np.ndarray]:
    def work(rows: np.ndarray) -> np.ndarray:
        for row in rows:
            _look_at(found, pictures, int(row), check)
        return rows

    yield from pool.map(work, pieces)


def _look_at(found: Index, pictures: PictureFiles, row: int, check: bool) -> None:
    before = stamp(pictures.files, pictures.names[row])
    content = pictures.content(row)
    height, width = check_header(content, pictures.where(row), pictures.side)
    if check:
        pictures.picture(row)
    found.sizes[row], found.changed[row] = before.size, before.changed
    found.sides[row] = height, width
    found.digests[row] = np.frombuffer(file_digest(content), np.uint8)
    found.known[row] = True


def _drop_changed(found: Index, pictures: PictureFiles) -> None:
    for row in np.flatnonzero(found.known):
        now = stamp(pictures.files, pictures.names[row])
        found.known[row] = (now.size, now.changed) == (found.sizes[row], found.changed[row])


def _take_over(found: Index, place: Path) -> dict[str, np.ndarray] | None:
    """Copy the entries of these files from the index at `place`, and return its entries of other files.

    Returns None if there is no index, or if it is damaged or of another version.
    """
    try:
        with np.load(io.BytesIO(written.read_regular(place)), allow_pickle=False) as document:
            if int(document["version"]) != VERSION:
                return None
            columns = {name: document[name].astype(kind, copy=False) for name, kind in _COLUMNS.items()}
            names = document["names"].tobytes().decode().split("\0")
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None  # missing or damaged: a new index is made
    if any(len(column) != len(names) for column in columns.values()):
        return None
    row_of = {name: row for row, name in enumerate(names)}
    rows = np.array([row_of.get(name, -1) for name in found.names], dtype=np.int64)
    known = rows >= 0
    for name, column in columns.items():
        getattr(found, name)[known] = column[rows[known]]
    found.known[:] = known
    left = np.setdiff1d(np.arange(len(names)), rows)
    return {name: column[left] for name, column in columns.items()} | {
        "names": np.array([names[row] for row in left])
    }


def _save(found: Index, others: dict[str, np.ndarray] | None, place: Path) -> None:
    """Write the known entries, together with an earlier index's entries of other files."""
    rows = np.flatnonzero(found.known)
    columns = {name: getattr(found, name)[rows] for name in _COLUMNS}
    names = [found.names[int(row)] for row in rows]
    if others is not None and len(others["names"]):
        columns = {name: np.concatenate([column, others[name]]) for name, column in columns.items()}
        names += others["names"].tolist()
    buffer = io.BytesIO()
    texts = np.frombuffer("\0".join(names).encode(), np.uint8)
    np.savez(buffer, version=np.int64(VERSION), names=texts, **columns)
    with suppress(BusyError), only_writer(place):  # another process is saving an index of the same files
        written.write_bytes(place, buffer.getvalue())
