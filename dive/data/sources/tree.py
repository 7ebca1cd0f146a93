"""The image files of a folder, or of a .zip of one: their names and their bytes."""

import os
import threading
import weakref
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from dive.data.sources.names import (
    SPLITS,
    check_classes,
    check_names,
    class_of,
    collapsed,
    is_image,
    one_spelling,
)
from dive.data.sources.positioned import positioned
from dive.data.sources.walk import walk
from dive.errors import DataError
from dive.files import open_regular

LARGEST_FILE = 1 << 28  # bytes of one unpacked file; a larger one may be a decompression bomb
# What reading damaged files, or files of another format, raises. zipfile passes on zlib's errors, and raises
# RuntimeErrors itself (encryption, unknown compression).
READ_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Stamp:
    """Shows whether a file has changed, without reading its content.

    size: in bytes. changed: the modification time in nanoseconds; the CRC for a file in a .zip.
    """

    size: int
    changed: int


class Files(Protocol):
    """The files below a root, by name. It can be pickled; unpickling it opens the folder or archive again."""

    @property
    def root(self) -> Path:
        """The folder or archive."""

    def content(self, name: str) -> bytes:
        """The bytes of a file; raises one of `READ_ERRORS` if it cannot be read."""

    def stamp(self, name: str) -> Stamp:
        """The stamp of a file; raises OSError."""


def read(files: Files, name: str) -> bytes:
    """A file's bytes; raises a DataError that names the file if it cannot be read."""
    try:
        return files.content(name)
    except MemoryError as error:
        raise DataError(f"{files.root}: there is not enough memory to read {name}") from error
    except READ_ERRORS as error:
        raise DataError(f"{files.root}: {name} cannot be read: {_reason(error)}") from error


def stamp(files: Files, name: str) -> Stamp:
    """A file's stamp; raises a DataError that names the file if it cannot be found."""
    try:
        return files.stamp(name)
    except OSError as error:
        raise DataError(f"{files.root}: {name} cannot be read: {_reason(error)}") from error


@dataclass(frozen=True)
class FolderFiles:
    """The files of a folder."""

    root: Path

    def content(self, name: str) -> bytes:
        """The bytes of a file; raises OSError."""
        return read_file(self.root / name)

    def stamp(self, name: str) -> Stamp:
        """Size and time of the last change; raises OSError."""
        status = os.stat(self.root / name)
        return Stamp(status.st_size, status.st_mtime_ns)


class ArchiveFiles:
    """The image files of a .zip; names are relative to the one folder at its top, if there is one."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._lock = threading.Lock()  # one file position is shared by all threads
        self._archive = _open_zip(root)
        self.spelled = [entry.filename for entry in self._archive.infolist() if not entry.is_dir()]
        self.top = _common_top([collapsed(name) for name in self.spelled])
        entries = (self._archive.getinfo(name) for name in self.spelled)
        named = [(collapsed(entry.filename).removeprefix(self.top), entry) for entry in entries]
        self.parted = any(name.startswith(tuple(f"{split}/" for split in SPLITS)) for name, _ in named)
        self._images = {name: entry for name, entry in named if is_image(name, self.parted)}

    def __reduce__(self) -> tuple[type["ArchiveFiles"], tuple[Path]]:
        return ArchiveFiles, (self.root,)

    @property
    def names(self) -> list[str]:
        """The names of the images, in the order of the archive."""
        return list(self._images)

    def content(self, name: str) -> bytes:
        """The bytes of a file; raises one of `READ_ERRORS`."""
        entry = self._images[name]
        if entry.file_size > LARGEST_FILE:
            raise OSError(f"it unpacks to {entry.file_size} bytes, more than any image should")
        with self._lock:
            return self._archive.read(entry)

    def stamp(self, name: str) -> Stamp:
        """A file's unpacked size, and its CRC instead of a time."""
        entry = self._images[name]
        return Stamp(entry.file_size, entry.CRC)


@dataclass(frozen=True)
class Tree:
    """The images below a root: their names, no two of which can be confused, and their files.

    parted: whether names are `<split>/<class>/…`, because there is a train/ or a test/; otherwise they are
    `<class>/…`.
    """

    names: list[str]
    files: Files
    parted: bool

    @property
    def root(self) -> Path:
        """The folder or archive."""
        return self.files.root


def open_tree(path: Path) -> Tree:
    """The images of the folder or .zip at `path`.

    Raises DataError if there is neither or it cannot be read, if links form a cycle or lead to one file
    twice, or if two names are too similar to be told apart (`check_names`, `check_classes`).
    """
    return _folder(path) if os.path.isdir(path) else _archive(path)


def read_file(path: Path) -> bytes:
    """The content of a regular file of at most `LARGEST_FILE` bytes; raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > LARGEST_FILE else file.read(size + 1)
        if len(content) > size:  # it grew, or its size is unknown; asking for the largest size first is slow
            content += file.read(LARGEST_FILE + 1 - len(content))
    if (size := max(size, len(content))) > LARGEST_FILE:
        raise OSError(f"it has {size} bytes, more than any image should")
    return content


def _folder(path: Path) -> Tree:
    parted = any(os.path.lexists(path / split) for split in SPLITS)
    names = walk(path, parted)
    check_classes(path, (class_of(name, parted) for name in names))
    check_names(path, names)
    return Tree(names, FolderFiles(path), parted)


def _archive(path: Path) -> Tree:
    files = ArchiveFiles(path)
    check_classes(path, (class_of(name, files.parted) for name in files.names))
    check_names(
        path,
        [
            name
            for name in files.spelled
            if is_image(one_spelling(name).removeprefix(files.top), files.parted)
        ],
    )
    return Tree(files.names, files, files.parted)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise DataError(f"there is no {path}; name the image folder, or a .zip of it, with --data") from None
    except OSError as error:
        raise DataError(f"{path} is neither a folder nor a readable .zip: {_reason(error)}") from error
    try:
        archive = zipfile.ZipFile(positioned(file))
    except BaseException as error:
        file.close()
        if isinstance(error, (*READ_ERRORS, UnicodeDecodeError)):
            raise DataError(f"{path} is neither a folder nor a readable .zip: {_reason(error)}") from error
        raise
    weakref.finalize(archive, file.close)
    return archive


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _common_top(names: list[str]) -> str:
    """The one folder at the top of an archive, with its slash; empty if there are several, or it is a split.

    Hidden entries, __MACOSX and files at the top are ignored. Only the first level is considered, since a
    class may itself be called train.
    """
    tops = {name.split("/", 1)[0] for name in names if "/" in name and not name.startswith(".")} - {
        "__MACOSX"
    }
    return f"{tops.pop()}/" if len(tops) == 1 and not tops & set(SPLITS) else ""
