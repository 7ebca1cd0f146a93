"""Fixtures: where tests may write, small data sets in every form, and the real data where it lies.

Every test runs in a folder of its own, so that none can reach the real cache/ or checkpoints/.
"""

import dataclasses
import hashlib
import io
import os
import struct
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import hypothesis
import numpy as np
import pytest
import torch
from chain import Chain
from PIL import Image

from dive.data.sources import cifar

ROOT = Path(__file__).resolve().parents[1]

torch.set_num_threads(min(2, torch.get_num_threads()))
hypothesis.settings.register_profile(
    "dive", max_examples=40, deadline=None, database=None, derandomize=True, print_blob=True
)
hypothesis.settings.load_profile("dive")


def pytest_xdist_auto_num_workers() -> int:
    """One more than there are cores: much of the tests' time is waiting for processes and moments."""
    return (os.cpu_count() or 1) + 1


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item) -> Iterator[None]:
    """Hide GPUs from every test that is not marked `cuda`: `--device auto` is the CPU in it.

    The tests' figures are a CPU's; a machine with a GPU must give them too, in child processes as here.
    """
    if item.get_closest_marker("cuda"):
        return (yield)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CUDA_VISIBLE_DEVICES", "")
        patch.setattr(torch.cuda, "is_available", lambda: False)
        return (yield)


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run each test in an empty folder: relative paths (cache/, checkpoints/, data) end there."""
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """CIFAR-100 as a .zip of an image folder, beside the repository."""
    path = ROOT.parent / "shared" / "data" / "cifar100.zip"
    if not path.is_file():
        pytest.skip(f"the real CIFAR-100 is not at {path}")
    return path


@pytest.fixture(scope="session")
def repository() -> Path:
    """The repository's root."""
    return ROOT


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Chain:
    """The commands' results on the digits, made once: a small teacher, its caches, a student."""
    return Chain(tmp_path_factory.mktemp("digits"))


def png(pixels: np.ndarray) -> bytes:
    """Pixels (H, W, 3) or (H, W), uint8, as the bytes of a PNG file."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()


def noise(seed: int, height: int = 8, width: int = 8) -> np.ndarray:
    """An image of noise, (H, W, 3) uint8."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


class TreeBuilder:
    """Writes files into a directory or a .zip in an empty folder of a test."""

    def __init__(self, root: Path) -> None:
        self._root = root

    def files(self, names: Mapping[str, bytes], name: str = "images") -> Path:
        """`names` (path to content) as a directory called `name`."""
        for relative, content in names.items():
            path = self._root / name / relative
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content)
        return self._root / name

    def archive(self, names: Mapping[str, bytes], name: str = "images.zip", method: int = 0) -> Path:
        """`names` (path to content) as a .zip called `name`; method 0 stores, 8 deflates."""
        with zipfile.ZipFile(self._root / name, "w", method) as archive:
            for relative, content in names.items():
                archive.writestr(relative, content)
        return self._root / name

    def images(self, counts: Mapping[str, int], tests: int = 1, side: int = 8) -> dict[str, bytes]:
        """An image folder's files: `counts` training images and `tests` test images of each class."""
        files, seed = {}, 0
        for label, count in counts.items():
            for split, number in (("train", count), ("test", tests)):
                for i in range(number):
                    files[f"{split}/{label}/{i:03d}.png"] = png(noise(seed := seed + 1, side, side))
        return files


@pytest.fixture
def tree(tmp_path: Path) -> TreeBuilder:
    """A builder of small image folders and archives."""
    return TreeBuilder(tmp_path)


def python2_pickle(value: object) -> bytes:
    """A pickle as Python 2 and its NumPy wrote it, which is how the official files are written.

    Protocol 2; texts are byte strings, arrays name `numpy.core.multiarray`. Python 3 writes neither.
    """
    return b"\x80\x02" + _opcodes(value) + b"."


def _opcodes(value: object) -> bytes:
    if isinstance(value, np.ndarray):
        dtype = (
            b"cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb"
        )
        empty = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R"
        shape = b"(" + b"".join(_opcodes(length) for length in value.shape) + b"t"
        return (
            empty + b"(K\x01" + shape + dtype + b"\x89" + _opcodes(value.tobytes().decode("latin1")) + b"tb"
        )
    if isinstance(value, str):
        content = value.encode("latin1")
        short = len(content) < 256
        return (b"U" + bytes([len(content)]) if short else b"T" + struct.pack("<i", len(content))) + content
    if isinstance(value, int):
        return b"J" + struct.pack("<i", value)
    if isinstance(value, list):
        return b"](" + b"".join(map(_opcodes, value)) + b"e"
    assert isinstance(value, dict)
    return b"}(" + b"".join(_opcodes(part) for pair in value.items() for part in pair) + b"u"


@dataclasses.dataclass(frozen=True)
class CifarForms:
    """The same few images in both forms of CIFAR-100.

    official: the folder that holds cifar-100-python/. folder: an image folder. archive: a .zip of
    it. pixels: `<split>/<class>/<file>` to its image. classes: names in label order.
    """

    official: Path
    folder: Path
    archive: Path
    pixels: dict[str, np.ndarray]
    classes: tuple[str, ...]

    @staticmethod
    def pickled(value: object) -> bytes:
        """A value as the official files are pickled."""
        return python2_pickle(value)

    def write(self, name: str, content: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
        """Replace an official file and take its new content for the official one."""
        (self.official / "cifar-100-python" / name).write_bytes(content)
        layout = cifar.LAYOUTS["cifar100"]
        changed = dataclasses.replace(layout, **{name: {name: hashlib.md5(content).hexdigest()}})
        monkeypatch.setitem(cifar.LAYOUTS, "cifar100", changed)


@pytest.fixture
def cifar_forms(tree: TreeBuilder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> CifarForms:
    """CIFAR-100 made small: three classes, one called train, file names that recur across classes.

    The official rows are in another order than the keys, as in the real archive. The table of
    official sums and sizes is changed to match.
    """
    classes, per_class = ("apple", "train", "worm"), {"train": 12, "test": 2}
    rng = np.random.default_rng(0)
    pixels, official = {}, {}
    for split, count in per_class.items():
        rows = [(label, f"x_s_{i:06d}.png") for label in range(len(classes)) for i in range(count)]
        rows = [rows[i] for i in rng.permutation(len(rows))]
        images = rng.integers(0, 256, (len(rows), 32, 32, 3), dtype=np.uint8)
        for (label, file), image in zip(rows, images, strict=True):
            pixels[f"{split}/{classes[label]}/{file}"] = image
        official[split] = python2_pickle(
            {
                "batch_label": f"{split}ing batch 1 of 1",
                "data": images.transpose(0, 3, 1, 2).reshape(len(rows), 3072),
                "fine_labels": [label for label, _ in rows],
                "coarse_labels": [0 for _ in rows],
                "filenames": [file for _, file in rows],
            }
        )
    official["meta"] = python2_pickle({"fine_label_names": list(classes), "coarse_label_names": ["all"]})
    tree.files({f"cifar-100-python/{name}": content for name, content in official.items()}, "official")
    sums = {name: {name: hashlib.md5(content).hexdigest()} for name, content in official.items()}
    sizes = {f"{split}_images": count * len(classes) for split, count in per_class.items()}
    small = dataclasses.replace(cifar.LAYOUTS["cifar100"], classes=len(classes), **sums, **sizes)
    monkeypatch.setitem(cifar.LAYOUTS, "cifar100", small)
    files = {name: png(image) for name, image in pixels.items()}
    return CifarForms(
        official=tmp_path / "official",
        folder=tree.files(files, "folder"),
        archive=tree.archive(files, "archive.zip"),
        pixels=pixels,
        classes=classes,
    )
