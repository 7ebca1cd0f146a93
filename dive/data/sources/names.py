"""Which file names are those of images of a class, and which names are too similar to be told apart.

An image is identified by its name, so a data set cannot contain two files with the same name, or with names
that look the same.
"""

import unicodedata
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from dive.errors import DataError
from dive.files import read_regular
from dive.printable import excerpt

SPLITS = ("train", "test")
PARTS = (*SPLITS, "val")  # the last may be missing
PARTS_MEANT = {  # by the lower-case names of folders that are probably meant as splits
    "train": "train",
    "training": "train",
    "test": "test",
    "testing": "test",
    "val": "val",
    "valid": "val",
    "validation": "val",
}
EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")


def is_image(name: str, parted: bool) -> bool:
    """Whether `name`, a path relative to the root, is that of an image of a class and not hidden.

    parted: whether class folders are in train/, test/ and val/, and not directly below the root.
    """
    parts = name.split("/")
    placed = parts[0] in PARTS and len(parts) >= 3 if parted else len(parts) >= 2
    return placed and not is_hidden(name) and has_extension(name)


def class_of(name: str, parted: bool) -> str:
    """The class of an image, by its path relative to the root. parted: as for `is_image`."""
    return name.split("/")[1 if parted else 0]


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder on its path, is hidden."""
    return any(part.startswith(".") for part in name.split("/"))


def has_extension(name: str) -> bool:
    """Whether a file name ends like that of an image."""
    return name.lower().endswith(EXTENSIONS)


def collapsed(name: str) -> str:
    """A path without its empty and `.` components."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def one_spelling(name: str) -> str:
    """A normal form of a path, equal for paths that an unpacking program or a person may confuse.

    Backslashes become slashes, because archives that were packed on Windows may have them. Letters with
    accents become one character each (Unicode NFC).
    """
    return unicodedata.normalize("NFC", collapsed(name.replace("\\", "/")))


def is_text(name: str) -> bool:
    """Whether a name can be encoded in UTF-8; one whose bytes are not UTF-8 has surrogate escapes."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(root: Path, names: Iterable[str]) -> None:
    """Raise DataError if the name of an image is not UTF-8, or if two names have the same normal form.

    names: as they are written in the folder or archive.
    """
    spelled: dict[str, str] = {}
    for name in names:
        if not is_text(name):  # keys must be
            raise DataError(f"{root}: the file name {ascii(name)} is not UTF-8; rename the file")
        if (spelling := one_spelling(name)) in spelled:
            raise DataError(f"{root}: {_likeness(spelled[spelling], name)}; rename or remove one of them")
        spelled[spelling] = name


def check_classes(root: Path, classes: Iterable[str]) -> None:
    """Raise DataError if the names of two classes differ only in their Unicode normal form."""
    spelled: dict[str, str] = {}
    for label in sorted(set(classes)):
        if (spelling := unicodedata.normalize("NFC", label)) in spelled:
            raise DataError(f"{root}: the classes {_likeness(spelled[spelling], label)}; rename one of them")
        spelled[spelling] = label


def _likeness(one: str, other: str) -> str:
    """A clause on how two names with one normal form differ; they are escaped if they would look the same."""
    if one == other:
        return f"two files are named {one}"
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return f"{ascii(one)} and {ascii(other)} differ only in their Unicode normal form (NFC, NFD)"
    return f"{one} and {other} are the same path"


def read_class_names(path: Path) -> tuple[str, ...]:
    """The class names in a text file, one per line; empty lines are skipped.

    Raises DataError if the file cannot be read, or if two classes have the same name.
    """
    try:
        lines = [line.strip() for line in read_regular(path).decode("utf-8-sig").splitlines()]
    except OSError as error:
        raise DataError(f"cannot read the class names {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise DataError(f"the class names {path} are not a text file in UTF-8") from error
    names = tuple(line for line in lines if line)
    if twice := [name for name, count in Counter(names).items() if count > 1]:
        raise DataError(
            f"the class names {path} have {excerpt(twice[0])} twice; rename one of the two classes"
        )
    return names
