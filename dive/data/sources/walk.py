"""The images below a directory, each real file once.

Links to files and folders elsewhere are followed, because people build subsets from links. A link to a
folder above it is an error, and so are links that give one file or folder two names: they would count images
twice, and could put training images into the test set. The error names both. Hard links are treated as
copies, because programs that save disk space replace equal files by hard links unasked; this must not change
the data set.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from dive.data.sources.names import PARTS, has_extension
from dive.errors import DataError
from dive.files import open_regular
from dive.printable import printable


@dataclass(frozen=True)
class _Folder:
    """A folder to search.

    name: its path relative to the root. real: its path with all links resolved. above: the real paths of the
    root and of the folders that contain the links on the way here.
    """

    name: str
    real: str
    above: tuple[str, ...] = ()


def walk(root: Path, parted: bool = True) -> list[str]:
    """The names `<split>/<class>/…` of the images in a directory, in an order that depends on the names only.

    parted: whether class folders are in train/, test/ and val/; otherwise names are `<class>/…`. Raises a
    DataError that names the file or folder if a folder cannot be read, a link leads nowhere or to a folder
    above it, an image is not a regular file, or one real file or folder has two names.
    """
    return _Walk(root, parted).names


class _Walk:
    def __init__(self, root: Path, parted: bool) -> None:
        self._root = root
        self._without_class = PARTS if parted else ()  # images directly in these have no class
        self.names: list[str] = []
        self._image_of: dict[str, str] = {}  # by real path
        self._visited: dict[tuple[int, int], tuple[str, int]] = {}  # device, inode: name, images before it
        above = (os.path.realpath(root),)
        waiting = [
            _Folder(top, os.path.realpath(root / top), above)
            for top in reversed(PARTS if parted else self._folders())
            if os.path.lexists(root / top)  # a missing one is reported when the layout is checked
        ]
        while waiting:  # depth first, so that the images below one folder are adjacent in `names`
            folder = waiting.pop()
            if self._enter(folder):
                waiting += reversed(self._look_into(folder))

    def _folders(self) -> list[str]:
        """The names of the folders in the root that are not hidden, sorted."""
        try:
            found = sorted(name for name in os.listdir(self._root) if not name.startswith("."))
        except OSError as error:
            raise self._cannot_read("", error) from error
        return [name for name in found if os.path.isdir(self._root / name)]

    def _enter(self, folder: _Folder) -> bool:
        """Whether a folder is visited for the first time.

        Raises DataError if it was visited before and has images, or if it is above the link that led to it.
        """
        for real in folder.above:
            if os.path.commonpath([real, folder.real]) == folder.real:
                raise self._error(
                    f"{printable(folder.name)} is a link to {printable(folder.real)}, a folder above it; "
                    "remove the link"
                )
        try:
            status = os.stat(folder.real)
        except OSError as error:
            raise self._cannot_read(folder.name, error) from error
        name, before = self._visited.setdefault(
            (status.st_dev, status.st_ino), (folder.name, len(self.names))
        )
        if name == folder.name:
            return True
        if any(found.startswith(f"{name}/") for found in self.names[before : before + 1]):
            raise self._error(
                f"{printable(name)} and {printable(folder.name)} are one folder, {printable(folder.real)}; "
                "remove one of them"
            )
        return False

    def _look_into(self, folder: _Folder) -> list[_Folder]:
        """Add the images in a folder to `names`, and return the folders in it."""
        try:
            with os.scandir(folder.real) as entries:
                found = sorted((e for e in entries if not e.name.startswith(".")), key=lambda e: e.name)
        except OSError as error:
            raise self._cannot_read(folder.name, error) from error
        folders = []
        for entry in found:
            name, real = f"{folder.name}/{entry.name}", f"{folder.real}/{entry.name}"
            above: tuple[str, ...] = ()
            try:
                if entry.is_symlink():
                    real, above = os.path.realpath(entry.path, strict=True), (*folder.above, folder.real)
                if entry.is_dir():
                    folders.append(_Folder(name, real, above or folder.above))
                elif folder.name not in self._without_class and has_extension(name):
                    if not entry.is_file():
                        open_regular(Path(real)).close()  # raises an OSError that says what it is
                    self._note(name, real)
            except OSError as error:
                raise self._cannot_read(name, error) from error
        return folders

    def _note(self, name: str, real: str) -> None:
        other = self._image_of.setdefault(real, name)
        if other != name:
            raise self._error(
                f"{printable(other)} and {printable(name)} are one file, {printable(real)}; "
                "remove one of them"
            )
        self.names.append(name)

    def _cannot_read(self, name: str, error: OSError) -> DataError:
        path = self._root / name
        link = f", a link to {printable(os.readlink(path))}" if path.is_symlink() else ""
        return DataError(f"cannot read {printable(str(path))}{link}: {error.strerror}")

    def _error(self, fault: str) -> DataError:
        return DataError(f"{self._root}: {fault}")
