"""`package.module:callable`: networks of your own."""

import contextlib
import functools
import hashlib
import importlib
import inspect
import os
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from dive.errors import ModelError
from dive.models.families.family import Family
from dive.printable import printable, shortened
from dive.recipe.bounds import OWN_NETWORK

if TYPE_CHECKING:
    from torch import nn


class Own(Family):
    """A callable that is called as `callable(classes=C)` and returns a `torch.nn.Module`.

    Its module is imported as Python imports one, the current directory first. That runs it: a checkpoint's
    name is followed only where the user gives the same one.
    """

    runs_named_code: ClassVar[bool] = True

    def belongs(self, name: str) -> bool:
        """Whether it is a module's dotted name, a colon and a name in it."""
        return OWN_NETWORK.fullmatch(name) is not None

    def names(self) -> list[str]:
        """None to suggest."""
        return []

    def has(self, name: str) -> bool:
        """Whether the module can be imported and has such a callable; raises ModelError that says why not."""
        _callable(name)
        return True

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """What the callable returns."""
        from torch import nn

        target = _callable(name)
        with _told(name, "cannot be built"):
            network = target(classes=classes)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise ModelError(f"{name} must return a torch.nn.Module when called with classes, not a {kind}")
        return network

    def versions(self, name: str) -> dict[str, str]:
        """The SHA-256 of the source file that the callable stands in, where it has one."""
        source = _source(_callable(name))
        return {} if source is None else {name: f"sha256:{source}"}


def _source(target: Any) -> str | None:
    found = inspect.unwrap(target)
    try:
        return _source_of(found)
    except TypeError:  # it is not hashable: an instance, which no file is the source of
        return None


@functools.cache  # as it was when it was imported: the file may change while a run goes on
def _source_of(found: Any) -> str | None:
    try:
        content = Path(inspect.getsourcefile(found) or "").read_bytes()
    except (OSError, TypeError):
        return None
    return hashlib.sha256(content).hexdigest()


def _callable(name: str) -> Any:
    module_name, _, path = name.partition(":")
    with _told(name, f"cannot be imported from {printable(os.getcwd())} or the installed packages"):
        found: Any = importlib.import_module(module_name)
    for part in path.split("."):
        if not hasattr(found, part):
            raise ModelError(f"the module {module_name} has no {path}{_nearest(part, found)}")
        found = getattr(found, part)
    if not callable(found):
        raise ModelError(f"{name} is {type(found).__name__}, not a callable that returns a network")
    return found


def _nearest(part: str, owner: Any) -> str:
    from difflib import get_close_matches

    near = get_close_matches(part, [name for name in dir(owner) if not name.startswith("_")], 1)
    return f"; did you mean {near[0]}?" if near else ""


@contextlib.contextmanager
def _told(name: str, what: str) -> Iterator[None]:
    """The current directory is searched for modules; whatever goes wrong is a ModelError of one line."""
    here = os.getcwd()
    sys.path.insert(0, here)
    importlib.invalidate_caches()
    try:
        yield
    except (Exception, SystemExit) as error:
        text = shortened(printable(" ".join(f"{type(error).__name__}: {error}".split())), 300)
        raise ModelError(f"{name} {what}: {text}{_place(error)}") from error
    finally:
        with contextlib.suppress(ValueError):
            sys.path.remove(here)


def _place(error: BaseException) -> str:
    """Where an error was raised, if not in Python's own machinery of imports."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frames = [frame for frame in frames if frame.filename != __file__]
    return f" ({printable(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
