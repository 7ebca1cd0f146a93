"""Sources by the name that a recipe gives them: a source is a module beside this one and a line here."""

from pathlib import Path

from dive.data.sources.source import Source
from dive.errors import DataError
from dive.recipe.recipe import Data


def _cifar(path: Path, data: Data) -> Source:
    from dive.data.sources.cifar import open_cifar

    return open_cifar(data.source, path)


def _folder(path: Path, data: Data) -> Source:
    from dive.data.sources.folder import open_folder

    return open_folder(path, data.size or 32)


def _digits(path: Path, data: Data) -> Source:
    from dive.data.sources.digits import open_digits

    return open_digits()


SOURCES = {"cifar100": _cifar, "cifar10": _cifar, "folder": _folder, "digits": _digits}


def open_source(data: Data) -> Source:
    """The source a recipe names; raises DataError where it is missing, incomplete or corrupt."""
    try:
        path = Path(data.path).expanduser()
    except RuntimeError as error:  # ~name of nobody
        raise DataError(f"{data.path}: there is no such home folder; give another --data") from error
    return SOURCES[data.source](path, data)
