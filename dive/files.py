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
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from dive.errors import OutputError

_KINDS = {
    stat.S_IFDIR: "a folder",
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


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A binary file that takes `path`'s place when the block ends, and vanishes if it fails."""
    temporary = temporary_name(path)
    try:
        with open(temporary, "wb") as file:
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


def refuse_existing(path: Path, force: bool, option: str = "--out") -> None:
    """Raise OutputError where a finished result stands at `path`, unless `force`."""
    if path.is_dir():
        raise OutputError(f"{path} is a folder; give a file name with {option}")
    if path.exists() and not force:
        _remove_stale_lock(path)
        raise OutputError(f"{path} exists already; give another {option}, or --force to replace it")


def prepare_folder(path: Path) -> None:
    """Make the folder that `path` will lie in; raise OutputError if it cannot be written to."""
    folder = path.parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"cannot make the folder {folder}: {error.strerror}") from error
    probe = folder / f".{path.name}.probe-{os.getpid()}"
    try:
        probe.touch()
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
        handle = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
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
