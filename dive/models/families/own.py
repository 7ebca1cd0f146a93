"""`package.module:callable`: custom networks, from the user's own modules."""

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
    """Networks that `callable(classes=C)` returns, a `torch.nn.Module` each.

    The module is imported as usual, with the current directory searched first. An import runs code, so the
    name in a checkpoint is imported only if the user gives the same name.
    """

    runs_named_code: ClassVar[bool] = True

    def belongs(self, name: str) -> bool:
        """Whether a name is the dotted name of a module, a colon and a name in that module."""
        return OWN_NETWORK.fullmatch(name) is not None

    def names(self) -> list[str]:
        """An empty list, since no names can be suggested."""
        return []

    def has(self, name: str) -> bool:
        """True if the module can be imported and has the callable; else raises ModelError with the reason."""
        _callable(name)
        return True

    def build(self, name: str, classes: int, channels: int) -> "nn.Module":
        """The network that the callable returns; raises ModelError if it fails or returns anything else."""
        from torch import nn

        target = _callable(name)
        with _told(name, "cannot be built"):
            network = target(classes=classes)
        if not isinstance(network, nn.Module):
            kind = type(network).__name__
            raise ModelError(f"{name} must return a torch.nn.Module when called with classes, not a {kind}")
        return network

    def versions(self, name: str) -> dict[str, str]:
        """The SHA-256 of the source file that defines the callable, if there is one."""
        source = _source(_callable(name))
        return {} if source is None else {name: f"sha256:{source}"}


def _source(target: Any) -> str | None:
    found = inspect.unwrap(target)
    try:
        return _source_of(found)
    except TypeError:  # it is not hashable: an instance, which has no source file
        return None


@functools.cache  # of the file as it was imported: it may change during a run
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
    """Within it, modules are searched in the current directory first, and any error becomes a ModelError."""
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
    """The innermost file and line of an error, except in importlib and this file; empty if there is none."""
    frames = [f for f in traceback.extract_tb(error.__traceback__) if "importlib" not in f.filename]
    frames = [frame for frame in frames if frame.filename != __file__]
    return f" ({printable(frames[-1].filename)}, line {frames[-1].lineno})" if frames else ""
