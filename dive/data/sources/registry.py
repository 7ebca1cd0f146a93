"""Sources by the name that a recipe gives them: one module beside this one and one line here per source."""

from importlib import import_module
from typing import Any

from dive.data.sources.source import Source

# The arguments of each function are the keys of its kind that locate the data, such as `root`.
SOURCES = {
    "cifar100": "dive.data.sources.cifar:open_cifar100",
    "cifar10": "dive.data.sources.cifar:open_cifar10",
    "folder": "dive.data.sources.folder:open_folder",
    "list": "dive.data.sources.lists:open_lists",
    "digits": "dive.data.sources.digits:open_digits",
}


def open_source(kind: str, **place: Any) -> Source:
    """The source of a kind. place: the keys of `data` that locate it, such as `root`.

    Raises DataError if the data set is missing, incomplete or corrupt.

    >>> open_source("digits").classes[:3]
    ('0', '1', '2')
    """
    module, _, name = SOURCES[kind].partition(":")
    return getattr(import_module(module), name)(**place)
