"""Which file names are images of a class, and which of them are too much alike to be told apart.

An image is known by its name, so two files of one name, or of names that look the same, cannot both belong
to a data set.
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
PARTS_MEANT = {  # by folders of these names, however they are written
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
    """Whether `name`, a path from the root, is that of an image of a class; hidden files are not.

    parted: whether classes lie in train/, test/ and val/ and not below the root.
    """
    parts = name.split("/")
    placed = parts[0] in PARTS and len(parts) >= 3 if parted else len(parts) >= 2
    return placed and not is_hidden(name) and has_extension(name)


def class_of(name: str, parted: bool) -> str:
    """The class of an image by its path from the root; parted: as for `is_image`."""
    return name.split("/")[1 if parted else 0]


def is_hidden(name: str) -> bool:
    """Whether a file, or a folder it lies in, is hidden."""
    return any(part.startswith(".") for part in name.split("/"))


def has_extension(name: str) -> bool:
    """Whether a file is named as an image."""
    return name.lower().endswith(EXTENSIONS)


def collapsed(name: str) -> str:
    """A path without empty steps and `.` steps, which lead nowhere."""
    return "/".join(part for part in name.split("/") if part not in ("", "."))


def one_spelling(name: str) -> str:
    """What paths have in common that unpacking or people take for the same.

    Backslashes count as slashes, as where an archive was packed on Windows, and accents as one character
    each (Unicode NFC).
    """
    return unicodedata.normalize("NFC", collapsed(name.replace("\\", "/")))


def is_text(name: str) -> bool:
    """Whether the bytes of a name are UTF-8."""
    try:
        name.encode()
    except UnicodeEncodeError:
        return False
    return True


def check_names(root: Path, names: Iterable[str]) -> None:
    """Raise DataError where an image's name is not a text, or two are the same but for their spelling.

    names: as the folder or archive spells them.
    """
    spelled: dict[str, str] = {}
    for name in names:
        if not is_text(name):  # as keys are
            raise DataError(f"{root}: the file name {ascii(name)} is not UTF-8; rename the file")
        if (spelling := one_spelling(name)) in spelled:
            raise DataError(f"{root}: {_likeness(spelled[spelling], name)}; rename or remove one of them")
        spelled[spelling] = name


def check_classes(root: Path, classes: Iterable[str]) -> None:
    """Raise DataError where two classes differ in their Unicode form alone."""
    spelled: dict[str, str] = {}
    for label in sorted(set(classes)):
        if (spelling := unicodedata.normalize("NFC", label)) in spelled:
            raise DataError(
                f"{root}: of its classes {_likeness(spelled[spelling], label)}; rename one of them"
            )
        spelled[spelling] = label


def _likeness(one: str, other: str) -> str:
    """In what two names of one spelling differ; escaped where they would look the same."""
    if one == other:
        return f"two files are called {one}"
    if unicodedata.normalize("NFC", one) == unicodedata.normalize("NFC", other):
        return f"{ascii(one)} and {ascii(other)} differ in their Unicode normal form alone (NFC, NFD)"
    return f"{one} and {other} spell one path"


def read_class_names(path: Path) -> tuple[str, ...]:
    """The lines of a text file, each the name of a class.

    Raises DataError where it cannot be read or gives two classes one name.
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
