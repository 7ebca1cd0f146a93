"""The images below a directory, each real file once.

Links to files and folders elsewhere are followed, because people build subsets of them. A link back to a
folder above it, or links that make one file or folder appear under two names, would count images twice, and
may carry training images into the test; both names are reported instead. Hard links are files of their own,
as copies are: programs that save disk space make them of equal files unasked, and a data set on such a disk
is the same data set.
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
    """A folder to look into.

    name: from the root. real: its path without links. above: the real paths of the folders whose links,
    or the root's, led here.
    """

    name: str
    real: str
    above: tuple[str, ...] = ()


def walk(root: Path, parted: bool = True) -> list[str]:
    """The images `<part>/<class>/…` of a directory, in an order that depends on the names alone.

    parted: whether classes lie in train/, test/ and val/; if not the images are `<class>/…`. Raises
    DataError, naming what is in the way: a folder that cannot be read, a link that leads nowhere or back to a
    folder above it, an image that is not a file, and one real file or folder under two names.
    """
    return _Walk(root, parted).names


class _Walk:
    def __init__(self, root: Path, parted: bool) -> None:
        self._root = root
        self._without_class = PARTS if parted else ()  # folders whose own images are of no class
        self.names: list[str] = []
        self._image_of: dict[str, str] = {}  # by real path
        self._visited: dict[tuple[int, int], tuple[str, int]] = {}  # device, inode: name, images before it
        above = (os.path.realpath(root),)
        waiting = [
            _Folder(top, os.path.realpath(root / top), above)
            for top in reversed(PARTS if parted else self._folders())
            if os.path.lexists(root / top)  # one that is missing is reported with the layout
        ]
        while waiting:  # depth first, so that the images below a folder are found one after the other
            folder = waiting.pop()
            if self._enter(folder):
                waiting += reversed(self._look_into(folder))

    def _folders(self) -> list[str]:
        """The folders of the root that are not hidden, sorted."""
        try:
            found = sorted(name for name in os.listdir(self._root) if not name.startswith("."))
        except OSError as error:
            raise self._cannot_read("", error) from error
        return [name for name in found if os.path.isdir(self._root / name)]

    def _enter(self, folder: _Folder) -> bool:
        """Whether a folder is new; one that was visited and holds images is refused."""
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
        """The folders of a folder; its images are noted."""
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
                        open_regular(Path(real)).close()  # which says what it is
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
