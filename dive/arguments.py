"""Conversion and checks of arguments of the Python interface: strings to paths, names from a list."""

import dataclasses
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, get_args

from dive.errors import OptionError
from dive.printable import excerpt


def as_paths(given: str | Path | Iterable[str | Path]) -> tuple[Path, ...]:
    """A tuple of paths, from one path or several.

    >>> as_paths("one.pt"), len(as_paths(["one.pt", Path("other.pt")]))
    ((PosixPath('one.pt'),), 2)
    """
    return (Path(given),) if isinstance(given, str | Path) else tuple(map(Path, given))


def as_texts(given: str | Collection[str]) -> tuple[str, ...]:
    """A tuple of strings, from one string or several.

    >>> as_texts("package.module:net"), as_texts(["a:b", "c:d"])
    (('package.module:net',), ('a:b', 'c:d'))
    """
    return (given,) if isinstance(given, str) else tuple(given)


@dataclasses.dataclass(frozen=True)
class TakesTexts:
    """A dataclass that accepts strings for fields of paths, and one string for a field of several.

    >>> @dataclasses.dataclass(frozen=True)
    ... class Options(TakesTexts):
    ...     out: Path | None = None
    >>> Options("cache.h5").out
    PosixPath('cache.h5')
    """

    def __post_init__(self) -> None:
        """Convert the given values to the types of the fields."""
        for field in dataclasses.fields(self):
            value: Any = getattr(self, field.name)
            kinds = (field.type, *get_args(field.type))
            if Path in kinds and isinstance(value, str):
                object.__setattr__(self, field.name, Path(value))
            elif Sequence[Path] in kinds and isinstance(value, list | tuple):
                object.__setattr__(self, field.name, as_paths(value))
            elif Sequence[str] in kinds and isinstance(value, str):
                object.__setattr__(self, field.name, (value,))


def require_choice(what: str, given: object, choices: Collection[str]) -> None:
    """Raise OptionError, which names all choices, unless `given` is one. what: the argument's name.

    >>> require_choice("part", "test", ("test", "val"))
    """
    if given not in choices:
        raise OptionError(f"{what} must be one of {', '.join(choices)}, not {excerpt(given)}")
