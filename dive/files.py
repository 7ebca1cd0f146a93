"""Results on disk: written whole or not at all, by one process at a time.

A result is written beside its place under a temporary name, forced to the disk, and then moved
over its final name, so that a final name never holds half a file.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from dive.errors import OutputError

_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BinaryIO:
    """`path` opened for reading, if it is a regular file or a link to one.

    Raises OSError that says what it is where it is something else: a FIFO would block, a device may
    have no end, so neither is opened.
    """
    _require_regular(os.stat(path), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        _require_regular(os.fstat(handle), path)  # again: it may have been replaced meanwhile
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def read_regular(path: Path) -> bytes:
    """The content of a regular file; raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def _require_regular(status: os.stat_result, path: Path) -> None:
    if not stat.S_ISREG(status.st_mode):
        kind = _KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
        raise OSError(errno.EINVAL, f"it is {kind}, not a regular file", str(path))


def read_json_lines(path: Path) -> list[Any]:
    """The JSON documents of a regular file, one a line; raises OSError or ValueError."""
    return [_parsed(line) for line in read_regular(path).splitlines()]


def read_json(path: Path) -> Any:
    """The JSON document of a regular file; raises OSError or ValueError."""
    return _parsed(read_regular(path))


def _parsed(content: bytes) -> Any:
    try:
        return json.loads(content)
    except RecursionError as error:
        raise ValueError("it is nested too deeply") from error


def sync_folder(folder: Path) -> None:
    """Force a folder's entries to the disk, so that a rename in it survives a power cut.

    Some network file systems cannot, and say so with EINVAL; the rename stands all the same.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(handle)


def publish(temporary: Path, final: Path) -> None:
    """Move a finished temporary file over its final name; it must be synced already."""
    os.replace(temporary, final)
    sync_folder(final.parent)


def temporary_name(path: Path) -> Path:
    """Where a file lies while it is written."""
    return path.with_name(path.name + ".tmp")


def remove_stale(*paths: Path) -> None:
    """Remove what a killed writer left of files that nobody else may be writing now."""
    for path in paths:
        temporary_name(path).unlink(missing_ok=True)


def create(path: Path) -> BinaryIO:
    """A new file at `path`, opened for writing; a file or a link that lies there is removed first.

    What a link leads to is left alone. Raises OSError where something else lies there.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISLNK((status := os.lstat(path)).st_mode):
            _require_regular(status, path)
        path.unlink()
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w+b")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place when the block ends, and vanishes if it fails."""
    temporary = temporary_name(path)
    file = create(temporary)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        publish(temporary, path)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)  # of a full disk the system does not say which file it was
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Write `content` to `path`, whole or not at all."""
    with replacing(path) as file:
        file.write(content)


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, whole or not at all."""
    write_bytes(path, (json.dumps(document, indent=2, ensure_ascii=False) + "\n").encode())


def write_json_lines(path: Path, documents: list[Any]) -> None:
    """Write one JSON document a line to `path`, whole or not at all."""
    write_bytes(path, "".join(json.dumps(d, ensure_ascii=False) + "\n" for d in documents).encode())


def file_sha256(path: Path) -> str | None:
    """Hexadecimal SHA-256 of a file's content, None where there is no file."""
    try:
        with open(path, "rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def sha256(content: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


@dataclass(frozen=True)
class Kind:
    """A kind of file that dive writes. name: in words. is_own: whether a regular file is of it."""

    name: str
    is_own: Callable[[Path], bool]


def refuse_existing(
    path: Path, force: bool, kind: Kind, inputs: Iterable[Path] = (), option: str = "--out"
) -> None:
    """Raise OutputError where something stands at `path`, unless `force` and it is of the same kind.

    Only a regular file that dive wrote is ever replaced, and never one of `inputs`, which the command
    reads. A link is not written through and not replaced.
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
        what = _KINDS.get(stat.S_IFMT(os.stat(path).st_mode), "not a file")
        raise OutputError(f"{path} is {what}, not a regular file; give another {option}")
    for one in inputs:
        if one.exists() and one.samefile(path):
            raise OutputError(f"{option} {path} is a file that the command reads; give another file")
    if not force:
        _remove_stale_lock(path)
        raise OutputError(f"{path} exists already; give another {option}, or --force to replace it")
    refuse_foreign(path, kind, option)


def refuse_foreign(path: Path, kind: Kind, option: str = "--out") -> None:
    """Raise OutputError where there is anything at `path` but a file of the kind that dive writes there.

    An empty file is nobody's.
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
    """Make the folder that `path` will lie in; raise OutputError if it cannot be written to."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    probe = folder / f".{path.name}.probe-{os.getpid()}"
    try:
        probe.unlink(missing_ok=True)
        probe.touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise OutputError(f"cannot write to the folder {folder}: {error.strerror}") from error


def require_space(path: Path, needed: int) -> None:
    """Raise OutputError unless `needed` more bytes fit on the disk that holds `path`'s folder."""
    free = shutil.disk_usage(path.parent).free
    if needed > free:
        raise OutputError(
            f"{path} needs {readable_size(needed)} and the disk has {readable_size(free)} free; "
            "make room, or choose fewer --views or another --out"
        )


def readable_size(size: float) -> str:
    """A size in bytes as people write it: 351 MB, 7.1 GB (powers of ten)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:  # 999.5 is 1.0 of the next unit
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


@contextmanager
def only_writer(path: Path) -> Iterator[None]:
    """Hold the right to write `path`, its folder made; raise OutputError if another process has it.

    The lock belongs to the operating system and dies with its process. The lock file goes when
    the writer is done.
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
    """Remove the lock file of a writer that was killed when its result was already in place."""
    if _lock_file(path).exists():
        with suppress(OutputError, OSError), only_writer(path):
            pass


def _lock_file(path: Path) -> Path:
    return path.with_name(f".{path.name}.lock")


def _lock(lock: Path, path: Path) -> int:
    while True:
        with suppress(FileNotFoundError):
            _require_regular(os.lstat(lock), lock)
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            os.close(handle)
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise OutputError(f"{path} is being written by another process") from None
            raise
        if _still_there(handle, lock):
            return handle
        os.close(handle)  # its previous owner removed the file in between: take the new one


def _still_there(handle: int, lock: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(handle), os.stat(lock))
    except FileNotFoundError:
        return False
