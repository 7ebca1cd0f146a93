"""Image folders: `train/<class>/*` and `test/<class>/*`, in a directory or a .zip of one.

Images are decoded only when drawn, brought to RGB and to one size: the shorter side is resized,
then the centre is cropped. Images that have the size already are taken as they are.
"""

import io
import os
import threading
import warnings
import zipfile
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps

from dive.errors import DataError
from dive.sources import Source, Split

EXTENSIONS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".ppm", ".pgm", ".tif", ".tiff", ".gif")
LARGEST_FILE = 1 << 28  # bytes of one packed file, unpacked: a bomb is larger
# What damaged or foreign files raise when read: zipfile lets zlib's errors and its own RuntimeErrors
# (encryption, unknown compression) through.
_READ_ERRORS = (OSError, EOFError, RuntimeError, zlib.error, zipfile.BadZipFile)


@dataclass(frozen=True)
class _Tree:
    """Files below a root: names relative to it, and how to read one."""

    root: Path
    names: list[str]
    read: Callable[[str], bytes]


def open_folder(path: Path, size: int, resize: bool = True) -> Source:
    """The image folder at `path`, its images to be decoded at size×size pixels.

    Without `resize` an image of another size is an error when it is decoded. Raises DataError where
    the folder is missing, has no such layout, or train and test name different classes.
    """
    tree = _open_tree(path)
    members = {split: _members(tree, split) for split in ("train", "test")}
    classes = tuple(sorted(members["train"]))
    _check_classes(tree.root, members)
    train, test = (_split(tree, split, members[split], classes, size, resize) for split in ("train", "test"))
    note = f"every image is resized and centre-cropped to {size}×{size} pixels; data.size sets another size"
    return Source(classes=classes, train=train, test=test, note=note)


def _open_tree(path: Path) -> _Tree:
    if path.is_dir():
        return _open_directory(path)
    if not path.exists():
        raise DataError(f"there is no {path}; name the image folder, or a .zip of it, with --data")
    try:
        archive = zipfile.ZipFile(path)
    except (*_READ_ERRORS, UnicodeDecodeError) as error:
        raise DataError(f"{path} is neither a folder nor a readable .zip: {error}") from error
    names = sorted({info.filename for info in archive.infolist() if not info.is_dir()})
    top = _common_top(names)
    lock = threading.Lock()  # one file position is shared by all readers

    def read(name: str) -> bytes:
        if (size := archive.getinfo(top + name).file_size) > LARGEST_FILE:
            raise OSError(f"it unpacks to {size} bytes, more than any image should")
        with lock:
            return archive.read(top + name)

    inside = [name.removeprefix(top) for name in names if name.startswith(top)]
    return _Tree(path, inside, read)


def _open_directory(path: Path) -> _Tree:
    names = []
    for split in ("train", "test"):
        for folder, _, files in os.walk(path / split, followlinks=True, onerror=_unreadable):
            below = Path(folder).relative_to(path)
            names += [str(below / file) for file in files]
    return _Tree(path, names, lambda name: (path / name).read_bytes())


def _unreadable(error: OSError) -> None:
    if not isinstance(error, FileNotFoundError):  # a missing split is reported with its layout
        raise DataError(f"cannot read {error.filename}: {error.strerror}") from error


def _common_top(names: list[str]) -> str:
    """The folder (with its slash) in which an archive keeps train/ and test/; empty if at its top.

    Only the first level is looked at: a class may itself be called train.
    """
    tops = {name.split("/", 1)[0] for name in names if "/" in name and not name.startswith(".")} - {
        "__MACOSX"
    }
    return f"{tops.pop()}/" if len(tops) == 1 and not tops & {"train", "test"} else ""


def _members(tree: _Tree, split: str) -> dict[str, list[str]]:
    """Class name to file names (relative to the class's folder), images alone, sorted."""
    found: dict[str, list[str]] = {}
    for name in tree.names:
        parts = name.split("/")
        hidden = any(part.startswith(".") for part in parts)
        if parts[0] == split and len(parts) >= 3 and not hidden and name.lower().endswith(EXTENSIONS):
            found.setdefault(parts[1], []).append("/".join(parts[2:]))
    if not found:
        raise DataError(
            f"{tree.root} has no images in {split}/<class>/; lay them out so, for training and for test"
        )
    for label, files in found.items():
        for file in files:
            _check_name(tree.root, f"{split}/{label}/{file}")
    return {label: sorted(files) for label, files in found.items()}


def _check_name(root: Path, name: str) -> None:
    """Keys are texts, which a name of undecodable bytes is not."""
    try:
        name.encode()
    except UnicodeEncodeError:
        raise DataError(f"{root}: the file name {ascii(name)} is not UTF-8; rename the file") from None


def _check_classes(root: Path, members: dict[str, dict[str, list[str]]]) -> None:
    for split, other in (("test", "train"), ("train", "test")):
        missing = sorted(set(members[other]) - set(members[split]))
        if missing:
            shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
            raise DataError(f"{root}: {other}/ has classes that {split}/ has no images of: {shown}")


def _split(
    tree: _Tree, split: str, members: dict[str, list[str]], classes: tuple[str, ...], size: int, resize: bool
) -> Split:
    pairs = sorted((f"{name}/{file}", label) for label, name in enumerate(classes) for file in members[name])
    keys = [key for key, _ in pairs]
    labels = np.array([label for _, label in pairs], dtype=np.int64)

    def decode(positions: np.ndarray) -> np.ndarray:
        images = np.empty((len(positions), size, size, 3), dtype=np.uint8)

        def fill(part: np.ndarray) -> None:
            for i in part:
                images[i] = _decode(tree, f"{split}/{keys[positions[i]]}", size, resize)

        # Threads decode photographs in parallel; with thumbnails they only fight for the interpreter
        # (CIFAR-100: 4.6 s on two threads, 2.1 s on one).
        photographs = len(_read(tree, f"{split}/{keys[0]}")) > 16_384
        pieces = [np.arange(i, min(i + 64, len(positions))) for i in range(0, len(positions), 64)]
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            pool = ThreadPoolExecutor(os.cpu_count() or 1 if photographs else 1)
            try:
                list(pool.map(fill, pieces))
            finally:  # one bad file, or Ctrl-C, does not wait for the rest
                pool.shutdown(cancel_futures=True)
        return images

    return Split(keys, labels, decode)


def _read(tree: _Tree, name: str) -> bytes:
    """A file's content; raises DataError that names it."""
    try:
        return tree.read(name)
    except _READ_ERRORS as error:
        raise DataError(f"{tree.root}: {name} cannot be read: {error}") from error


def _as_rgb(image: Image.Image) -> Image.Image:
    """The image in 8 bits a channel; 16-bit grey is scaled, where Pillow alone would clip it to white."""
    if image.mode == "F":
        raise ValueError("it has floating-point pixels; convert it to 8 bits")
    if image.mode.startswith("I"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8))
    return image.convert("RGB")


def _decode(tree: _Tree, name: str, size: int, resize: bool) -> np.ndarray:
    """One image as (size, size, 3) uint8; raises DataError that names the file."""
    content = _read(tree, name)
    try:
        image = _as_rgb(ImageOps.exif_transpose(Image.open(io.BytesIO(content))))
    except (Image.DecompressionBombWarning, Image.DecompressionBombError) as error:
        raise DataError(f"{tree.root}: {name} is far too large an image: {error}") from error
    except Exception as error:  # Pillow's plugins raise nearly anything at a damaged file
        raise DataError(f"{tree.root}: {name} is not a readable image: {error}") from error
    if image.size != (size, size):
        if not resize:
            raise DataError(f"{tree.root}: {name} has {image.width}×{image.height} pixels, not {size}×{size}")
        scale = size / min(image.size)
        resized = [max(size, round(side * scale)) for side in image.size]
        image = image.resize(resized, Image.Resampling.BICUBIC)
        left, top = ((side - size) // 2 for side in resized)
        image = image.crop((left, top, left + size, top + size))
    return np.asarray(image)
