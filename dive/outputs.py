"""Outputs of commands: where they may be written, what they may replace, and the lock on each."""

import errno
import fcntl
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from dive.errors import BusyError, OptionError, OutputError
from dive.files import KINDS, readable_size, require_regular


@dataclass(frozen=True)
class Kind:
    """A kind of file that dive writes. name: for messages. is_own: whether a regular file is of this kind."""

    name: str
    is_own: Callable[[Path], bool]


def require_suffix(path: Path, suffixes: Sequence[str], option: str = "--out") -> None:
    """Raise OptionError unless the name of a file to write ends in one of `suffixes`, in any case."""
    if path.suffix.lower() not in suffixes:
        raise OptionError(f"{option} {path} must end in {', '.join(suffixes)}")


def refuse_existing(
    path: Path, force: bool, kind: Kind, inputs: Iterable[Path] = (), option: str = "--out"
) -> None:
    """Raise OutputError if `path` exists, unless `force` is given and it is a file of this kind.

    Only a regular file that dive wrote is ever replaced, and never one of `inputs`, which the command reads.
    A symbolic link is not replaced, and its target is not written.
    """
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    except OSError as error:
        raise OutputError(f"cannot write {path}: {error.strerror}") from error
    if stat.S_ISDIR(status.st_mode):
        raise OutputError(f"{path} is a folder; give a file name with {option}")
    if stat.S_ISLNK(status.st_mode) and (force or not path.exists()):
        raise OutputError(f"{path} is a symbolic link; give the file that it leads to with {option}")
    if not stat.S_ISREG(os.stat(path).st_mode):
        what = KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "not a file")
        raise OutputError(f"{path} is {what}, not a regular file; give another {option}")
    for one in inputs:
        if one.exists() and one.samefile(path):
            raise OutputError(f"{option} {path} is a file that the command reads; give another file")
    if not force:
        _remove_stale_lock(path)
        raise OutputError(f"{path} exists already; give another {option}, or --force to replace it")
    refuse_foreign(path, kind, option)


def refuse_foreign(path: Path, kind: Kind, option: str = "--out") -> None:
    """Raise OutputError if `path` exists and is not a regular file of the kind that dive writes there.

    An empty file is accepted, since it has nothing to lose.
    """
    if not os.path.lexists(path):
        return
    regular = path.is_file() and not path.is_symlink()
    if not regular or not (path.stat().st_size == 0 or kind.is_own(path)):
        raise OutputError(
            f"{path} is in the way: it is not {kind.name} written by dive, or is damaged; move it away, or "
            f"give another {option}"
        )


def prepare_folder(path: Path) -> None:
    """Create the folder of `path`; raise OutputError if it cannot be created or written to."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    _probe(folder, path)


def _probe(folder: Path, path: Path) -> None:
    """Raise OutputError if no file can be created in a folder. path: the file it is needed for."""
    probe = folder / f".{path.name}.probe-{uuid4().hex}"  # a process id may be in use on another machine too
    try:
        probe.unlink(missing_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror}") from error


def require_place(path: Path) -> None:
    """Raise OutputError if `path` could probably not be written; creates no folder."""
    there = next(folder for folder in path.absolute().parents if os.path.lexists(folder))
    if not there.is_dir():
        raise OutputError(f"cannot make the folder {path.parent}: {os.strerror(errno.ENOTDIR)}")
    try:
        _probe(there, path)
    except OutputError as error:
        if path.parent.exists():
            raise
        raise OutputError(f"cannot make the folder {path.parent}: {error}") from error


def require_space(path: Path, needed: int) -> None:
    """Raise OutputError unless `needed` more bytes fit on the disk that holds `path`'s folder."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OutputError(
            f"{path} needs {readable_size(needed)} and the disk has {readable_size(free)} free; "
            "make room, or choose fewer --views or another --out"
        )


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Create the folder of `path` and hold the lock on `path`; raise BusyError if another process holds it.

    The operating system releases the lock when the process ends. The lock file is removed when the block
    ends.
    """
    prepare_folder(path)
    lock = _lock_file(path)
    handle = _lock(lock, path)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def _remove_stale_lock(path: Path) -> None:
    """Remove the lock file of a writer that was killed after it had published its result."""
    if _lock_file(path).exists():
        with suppress(OutputError, OSError), only_writer(path):
            pass


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _lock(lock: Path, path: Path) -> int:
    while True:
        with suppress(FileNotFoundError):
            require_regular(os.lstat(lock), lock)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise BusyError(f"{path} is being written by another process") from None
            raise
        if _still_there(handle, lock):
            return handle
        os.close(handle)  # the previous owner has removed this file in between: lock the new one


def _still_there(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
