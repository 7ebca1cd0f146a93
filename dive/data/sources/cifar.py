"""CIFAR-10 and CIFAR-100: the official files, or the same images as an image folder.

The official archives contain each image's file name, so both forms give the same keys and therefore
the same draw and fingerprint. Missing files are downloaded by torchvision. The files are compared
with the official MD5 sums before they are unpickled.
"""

import hashlib
import io
import os
import pickle
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path
from typing import Any

import numpy as np

from dive.data.sources.folder import open_folder
from dive.data.sources.names import SPLITS
from dive.data.sources.source import Source, Split, sorted_split
from dive.data.sources.tree import read_file
from dive.errors import DataError
from dive.files import user_path
from dive.printable import printable

SIDE = 32


@dataclass(frozen=True)
class _Layout:
    """The layout of an official archive; `train`, `test` and `meta` map file names to published MD5 sums."""

    torchvision_class: str
    folder: str
    train: dict[str, str]
    test: dict[str, str]
    meta: dict[str, str]
    label_key: str
    names_key: str
    classes: int
    train_images: int
    test_images: int


LAYOUTS = {
    "cifar10": _Layout(
        torchvision_class="CIFAR10",
        folder="cifar-10-batches-py",
        train={
            "data_batch_1": "c99cafc152244af753f735de768cd75f",
            "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
            "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
            "data_batch_4": "634d18415352ddfa80567beed471001a",
            "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
        },
        test={"test_batch": "40351d587109b95175f43aff81a1287e"},
        meta={"batches.meta": "5ff9c542aee3614f3951f8cda6e48888"},
        label_key="labels",
        names_key="label_names",
        classes=10,
        train_images=50_000,
        test_images=10_000,
    ),
    "cifar100": _Layout(
        torchvision_class="CIFAR100",
        folder="cifar-100-python",
        train={"train": "16019d7e3df5f24257cddd939b257f8d"},
        test={"test": "f0ef6b0ae62326f3e7ffdfab6717acfc"},
        meta={"meta": "7973b15100ade9c7d40fb424638fde48"},
        label_key="fine_labels",
        names_key="fine_label_names",
        classes=100,
        train_images=50_000,
        test_images=10_000,
    ),
}


def open_cifar100(root: str | Path) -> Source:
    """CIFAR-100 at `root`: a folder with or for the official files, or its images as an image folder or .zip.

    Raises DataError if the files are missing and cannot be downloaded, or are not those of CIFAR-100.
    """
    return _open("cifar100", user_path(root, "--data"))


def open_cifar10(root: str | Path) -> Source:
    """CIFAR-10 at `root`, as in `open_cifar100`."""
    return _open("cifar10", user_path(root, "--data"))


def _open(name: str, path: Path) -> Source:
    layout = LAYOUTS[name]
    if path.suffix.lower() == ".zip" or any(os.path.isdir(path / split) for split in SPLITS):
        source = open_folder(path, SIDE)
        _check_size(path, layout, len(source.classes), len(source.train.keys), len(source.test.keys))
        return source
    if os.path.exists(path) and not os.path.isdir(path):
        raise DataError(f"{path} is neither a folder nor a .zip; pass one with {name} to --data")
    folder = _official_folder(path, layout)
    classes = tuple(_unpickle(folder, *_only(layout.meta)).get(layout.names_key, ()))
    if len(classes) != layout.classes:
        raise DataError(f"{folder / next(iter(layout.meta))} does not name {layout.classes} classes")
    train = _read_split(folder, layout.train, classes, layout)
    test = _read_split(folder, layout.test, classes, layout)
    _check_size(folder, layout, len(classes), len(train.keys), len(test.keys))
    return Source(classes=classes, train=train, test=test)


def _check_size(path: Path, layout: _Layout, classes: int, train: int, test: int) -> None:
    found, wanted = (classes, train, test), (layout.classes, layout.train_images, layout.test_images)
    if found != wanted:
        raise DataError(
            f"{path} is not {layout.torchvision_class}: it has {found[0]} classes, {found[1]} training and "
            f"{found[2]} test images, not {wanted[0]}, {wanted[1]} and {wanted[2]}; "
            "for images of your own use --config folder"
        )


def _only(files: dict[str, str]) -> tuple[str, str]:
    ((name, md5),) = files.items()
    return name, md5


def _official_folder(path: Path, layout: _Layout) -> Path:
    folder = path if path.name == layout.folder else path / layout.folder
    if not os.path.isdir(folder):
        _download(folder.parent, layout)
    return folder


def _download(root: Path, layout: _Layout) -> None:
    import torchvision.datasets

    print(printable(f"downloading {layout.torchvision_class} to {root}"), file=sys.stderr)
    try:
        root.mkdir(parents=True, exist_ok=True)
        getattr(torchvision.datasets, layout.torchvision_class)(str(root), train=True, download=True)
    except (OSError, RuntimeError, HTTPException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{root} has no {layout.folder} and it could not be downloaded ({reason}); "
            "pass the folder that contains it to --data"
        ) from error


def _read_split(folder: Path, files: dict[str, str], classes: tuple[str, ...], layout: _Layout) -> Split:
    keys: list[str] = []
    labels: list[int] = []
    images = []
    for name, md5 in files.items():
        batch = _unpickle(folder, name, md5)
        try:
            pixels = np.asarray(batch["data"]).reshape(-1, 3, SIDE, SIDE)
            keys += [f"{classes[label]}/{file}" for label, file in _named(batch, layout)]
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise DataError(f"{folder / name} is not a {layout.torchvision_class} batch: {error}") from error
        labels += batch[layout.label_key]
        images.append(pixels.transpose(0, 2, 3, 1))  # (N, 32, 32, 3)
    return sorted_split(keys, np.array(labels), np.ascontiguousarray(np.concatenate(images)))


def _named(batch: dict[str, Any], layout: _Layout) -> Iterator[tuple[int, str]]:
    return zip(batch[layout.label_key], batch["filenames"], strict=True)


def _unpickle(folder: Path, name: str, md5: str) -> dict[str, Any]:
    """The dictionary pickled in a file; raises DataError unless the MD5 of the file is the official one."""
    path = folder / name
    try:
        content = read_file(path)
    except OSError as error:
        raise DataError(
            f"cannot read {path}: {error.strerror or error}; remove {folder} to download it again"
        ) from error
    if hashlib.md5(content, usedforsecurity=False).hexdigest() != md5:
        raise DataError(
            f"{path} is corrupt (its MD5 is not the official one); remove {folder} to download it again"
        )
    try:
        return _PlainUnpickler(io.BytesIO(content), encoding="latin1").load()
    except Exception as error:  # unpickling may raise any exception, and each means the same for the user
        raise DataError(f"{path} cannot be unpickled: {error}") from error


class _PlainUnpickler(pickle.Unpickler):
    """Unpickles plain values and NumPy arrays only; everything else, which could run code, is refused."""

    _ALLOWED = {
        ("numpy.core.multiarray", "_reconstruct"),
        ("numpy._core.multiarray", "_reconstruct"),
        ("numpy", "ndarray"),
        ("numpy", "dtype"),
        ("_codecs", "encode"),
    }

    def find_class(self, module: str, name: str) -> object:
        if (module, name) not in self._ALLOWED:
            raise pickle.UnpicklingError(f"it names {module}.{name}, which no CIFAR file does")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)
