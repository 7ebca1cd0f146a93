"""Reading regular files, and writing files whole or not at all.

A result is written under a temporary name in the same folder, synced to the disk, and then renamed to its
final name. The final name therefore never has an incomplete file.
"""

import errno
import hashlib
import json
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from io import BufferedReader
from pathlib import Path
from typing import Any, BinaryIO

from dive.errors import DataError

KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


def open_regular(path: Path) -> BufferedReader:
    """Open `path` for reading if it is a regular file or a link to one.

    Raises OSError for anything else, with a message that says what it is. A FIFO would block and a device
    may be unbounded, so neither is opened.
    """
    require_regular(os.stat(path), path)
    handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        require_regular(os.fstat(handle), path)  # again: it may have been replaced meanwhile
        return os.fdopen(handle, "rb")
    except BaseException:
        os.close(handle)
        raise


def user_path(path: str | Path, option: str) -> Path:
    """A path given with an option, with `~` expanded; raises DataError if `~name` has no home folder."""
    try:
        return Path(path).expanduser()
    except RuntimeError as error:  # ~name of an unknown user
        raise DataError(f"{path}: there is no such home folder; give another {option}") from error


def read_regular(path: Path) -> bytes:
    """The content of a regular file; raises OSError as `open_regular` does."""
    with open_regular(path) as file:
        return file.read()


def require_regular(status: os.stat_result, path: Path) -> None:
    """Raise OSError, which says what `path` is, unless its status is that of a regular file."""
    if not stat.S_ISREG(status.st_mode):
        kind = KINDS.get(stat.S_IFMT(status.st_mode), "of an unknown kind")
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

    Some network file systems do not support this and return EINVAL or ENOTSUP, which is ignored: the rename
    itself has succeeded.
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
    """The path of a file while it is written; no other program uses such a name."""
    return path.with_name(f".{path.name}.dive-tmp")


def remove_stale(*paths: Path) -> None:
    """Remove the temporary files of killed writers. No other process may be writing these paths."""
    for path in paths:
        temporary_name(path).unlink(missing_ok=True)


def create(path: Path) -> BinaryIO:
    """Create a file at `path`, opened for writing; an existing file or link is removed first.

    The target of a link is left alone. Raises OSError if `path` is anything else, such as a folder.
    """
    with suppress(FileNotFoundError):
        if not stat.S_ISLNK((status := os.lstat(path)).st_mode):
            require_regular(status, path)
        path.unlink()
    return os.fdopen(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666), "w+b")


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """A new binary file that replaces `path` when the block ends, and is removed if the block fails."""
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
            error.filename = str(path)  # the system does not name the file if the disk is full
        raise


def write_bytes(path: Path, content: bytes | memoryview) -> None:
    """Write `content` to `path`, whole or not at all."""
    write_together([(path, content)])


def write_together(contents: Sequence[tuple[Path, bytes | memoryview]]) -> None:
    """Write several files, each whole or not at all.

    All are on the disk before the first is renamed to its final name. They are renamed in the order given.
    """
    path, made = Path(), []
    try:
        for path, content in contents:
            file = create(temporary_name(path))
            made.append(path)
            with file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
        for path, _ in contents:
            publish(temporary_name(path), path)
    except BaseException as error:
        remove_stale(*made)
        if isinstance(error, OSError) and error.filename is None:
            error.filename = str(path)
        raise


def write_json(path: Path, document: Any) -> None:
    """Write `document` to `path` as indented JSON, whole or not at all."""
    write_bytes(path, json_text(document, indent=2))


def write_json_lines(path: Path, documents: list[Any]) -> None:
    """Write one JSON document a line to `path`, whole or not at all."""
    write_bytes(path, b"".join(map(json_text, documents)))


def json_text(document: Any, indent: int | None = None) -> bytes:
    """A document as JSON and a newline; in ASCII if it has bytes of a file name that are not UTF-8."""
    try:
        return (json.dumps(document, indent=indent, ensure_ascii=False) + "\n").encode()
    except UnicodeEncodeError:
        return (json.dumps(document, indent=indent) + "\n").encode()


def file_sha256(path: Path) -> str | None:
    """Hexadecimal SHA-256 of a regular file's content, None if it does not exist; raises OSError."""
    try:
        with open_regular(path) as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        return None


def sha256(content: bytes | memoryview) -> str:
    """Hexadecimal SHA-256 of `content`."""
    return hashlib.sha256(content).hexdigest()


def readable_size(size: float) -> str:
    """A size in bytes as people write it: 351 MB, 7.1 GB (powers of ten)."""
    for unit in ("bytes", "kB", "MB", "GB"):
        if size < 999.5:  # 999.5 is 1.0 of the next unit
            return f"{size:.0f} {unit}" if unit == "bytes" or size >= 99.95 else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"
