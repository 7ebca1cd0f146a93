"""The image files of a folder or a .zip of one: which there are, and what they hold."""

import os
import threading
import weakref
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from dive.data.sources.names import SPLITS, check_classes, check_names, collapsed, is_image, one_spelling
from dive.data.sources.walk import walk
from dive.errors import DataError
from dive.files import open_regular

LARGEST_FILE = 1 << 28  # bytes of one file, unpacked: a bomb is larger
# What damaged or foreign files raise when read: zipfile lets zlib's errors and its own RuntimeErrors
# (encryption, unknown compression) through.
_READ_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class Tree:
    """The images below a root and what they hold.

    names: `<split>/<class>/…` from the root, no two of them alike. content: the bytes under a name.
    """

    root: Path
    names: list[str]
    content: Callable[[str], bytes]

    def read(self, name: str) -> bytes:
        """A file's content; raises DataError that names it."""
        try:
            return self.content(name)
        except MemoryError as error:
            raise DataError(f"{self.root}: there is not enough memory to read {name}") from error
        except _READ_ERRORS as error:
            raise DataError(f"{self.root}: {name} cannot be read: {_reason(error)}") from error


def open_tree(path: Path) -> Tree:
    """The images of the folder or .zip at `path`.

    Raises DataError where there is neither or it cannot be read, where links lead in a circle or to one
    file twice, and where two names are the same but for their spelling.
    """
    return _folder(path) if os.path.isdir(path) else _archive(path)


def read_file(path: Path) -> bytes:
    """The content of a regular file no larger than any image; raises OSError."""
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        content = b"" if size > LARGEST_FILE else file.read(LARGEST_FILE + 1)
    if (size := max(size, len(content))) > LARGEST_FILE:
        raise OSError(f"it has {size} bytes, more than any image should")
    return content


def _folder(path: Path) -> Tree:
    names = walk(path)
    check_classes(path, names)
    check_names(path, names)
    return Tree(path, names, lambda name: read_file(path / name))


def _archive(path: Path) -> Tree:
    archive = _open_zip(path)
    entries = [entry for entry in archive.infolist() if not entry.is_dir()]
    top = _common_top([collapsed(entry.filename) for entry in entries])
    named = ((collapsed(entry.filename).removeprefix(top), entry) for entry in entries)
    images = {name: entry for name, entry in named if is_image(name)}
    check_classes(path, images)
    spelled = [entry.filename for entry in entries]
    check_names(path, [name for name in spelled if is_image(one_spelling(name).removeprefix(top))])
    lock = threading.Lock()  # one file position is shared by all readers

    def content(name: str) -> bytes:
        entry = images[name]
        if entry.file_size > LARGEST_FILE:
            raise OSError(f"it unpacks to {entry.file_size} bytes, more than any image should")
        with lock:
            return archive.read(entry)

    return Tree(path, list(images), content)


def _open_zip(path: Path) -> zipfile.ZipFile:
    try:
        file = open_regular(path)
    except FileNotFoundError:
        raise DataError(f"there is no {path}; name the image folder, or a .zip of it, with --data") from None
    except OSError as error:
        raise DataError(f"{path} is neither a folder nor a readable .zip: {_reason(error)}") from error
    try:
        archive = zipfile.ZipFile(file)
    except BaseException as error:
        file.close()
        if isinstance(error, (*_READ_ERRORS, UnicodeDecodeError)):
            raise DataError(f"{path} is neither a folder nor a readable .zip: {_reason(error)}") from error
        raise
    weakref.finalize(archive, file.close)
    return archive


def _reason(error: Exception) -> str:
    return getattr(error, "strerror", None) or str(error)


def _common_top(names: list[str]) -> str:
    """The folder (with its slash) in which an archive keeps train/ and test/; empty if at its top.

    Only the first level is looked at: a class may itself be called train.
    """
    tops = {name.split("/", 1)[0] for name in names if "/" in name and not name.startswith(".")} - {
        "__MACOSX"
    }
    return f"{tops.pop()}/" if len(tops) == 1 and not tops & set(SPLITS) else ""
