"""CIFAR in its official form and as an image folder: the same keys, draw and fingerprint."""

import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torchvision.datasets
from reading import pictures

from dive.data.longtail import Dataset, draw, long_tailed, untouched_test
from dive.data.sources import cifar
from dive.data.sources.cifar import open_cifar10
from dive.data.sources.registry import open_source
from dive.errors import DataError


def opened(path: Path):
    return open_source("cifar100", root=str(path))


def test_the_official_files_give_each_image_under_its_key(cifar_forms):
    source = opened(cifar_forms.official)
    assert source.classes == cifar_forms.classes == ("apple", "train", "worm")
    for name in ("train", "test"):
        split = getattr(source, name)
        expected = sorted(
            key.removeprefix(f"{name}/") for key in cifar_forms.pixels if key.startswith(f"{name}/")
        )
        assert split.keys == expected
        assert [source.classes[label] for label in split.labels] == [key.split("/")[0] for key in expected]
        images = pictures(split)
        for key, image in zip(expected, images, strict=True):
            np.testing.assert_array_equal(image, cifar_forms.pixels[f"{name}/{key}"])


def test_all_forms_give_the_same_keys_draw_and_fingerprint(cifar_forms):
    sources = [opened(path) for path in (cifar_forms.official, cifar_forms.folder, cifar_forms.archive)]
    first = sources[0]
    datasets = [Dataset(long_tailed(source, 4, 0), untouched_test(source)) for source in sources]
    assert datasets[0].train.counts.tolist() == [12, 6, 3]
    for source, dataset in zip(sources[1:], datasets[1:], strict=True):
        assert source.classes == first.classes
        assert source.train.keys == first.train.keys and source.test.keys == first.test.keys
        drawn, expected = (draw(s.train, s.classes, 4, 0).tolist() for s in (source, first))
        assert drawn == expected
        assert dataset.train.keys == datasets[0].train.keys
        for version in (1, 2):
            for found, wanted in ((dataset.train, datasets[0].train), (dataset.test, datasets[0].test)):
                assert found.fingerprint_of(version) == wanted.fingerprint_of(version)


def test_the_folder_of_the_official_files_itself_may_be_named(cifar_forms):
    inside = opened(cifar_forms.official / "cifar-100-python")
    assert inside.train.keys == opened(cifar_forms.official).train.keys


def test_torchvision_reads_the_same_images_from_the_official_files(cifar_forms):
    layout = cifar.LAYOUTS["cifar100"]

    class Small(torchvision.datasets.CIFAR100):
        train_list, test_list = (
            [list(p) for p in layout.train.items()],
            [list(p) for p in layout.test.items()],
        )
        meta = {"filename": "meta", "key": "fine_label_names", "md5": layout.meta["meta"]}

    source = opened(cifar_forms.official)
    for name in ("train", "test"):
        theirs = Small(str(cifar_forms.official), train=name == "train", download=False)
        assert tuple(theirs.classes) == source.classes
        split = getattr(source, name)
        ours = pictures(split)
        rows = {image.tobytes(): int(label) for image, label in zip(ours, split.labels, strict=True)}
        assert rows == {
            image.tobytes(): label for image, label in zip(theirs.data, theirs.targets, strict=True)
        }


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_the_official_sums_and_names_are_torchvisions(name):
    layout = cifar.LAYOUTS[name]
    theirs = getattr(torchvision.datasets, layout.torchvision_class)
    assert layout.folder == theirs.base_folder
    assert list(layout.train.items()) == [tuple(pair) for pair in theirs.train_list]
    assert list(layout.test.items()) == [tuple(pair) for pair in theirs.test_list]
    assert layout.meta == {theirs.meta["filename"]: theirs.meta["md5"]}
    assert layout.names_key == theirs.meta["key"]
    assert (layout.train_images, layout.test_images) == (50_000, 10_000)


def test_a_pickle_of_python_3_is_read_as_well(cifar_forms, monkeypatch):
    before = opened(cifar_forms.official).train.keys
    path = cifar_forms.official / "cifar-100-python" / "train"
    batch = pickle.loads(path.read_bytes(), encoding="latin1")
    cifar_forms.write("train", pickle.dumps(batch, protocol=2), monkeypatch)
    source = opened(cifar_forms.official)
    assert source.train.keys == before
    assert source.train.read(0).shape == (32, 32, 3)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_corrupt_official_file_is_refused_by_name(cifar_forms, name):
    path = cifar_forms.official / "cifar-100-python" / name
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(
        DataError, match=rf"cifar-100-python/{name} is corrupt .* remove .* to download it again"
    ):
        opened(cifar_forms.official)


@pytest.mark.parametrize("name", ["train", "test", "meta"])
def test_a_missing_official_file_is_refused_by_name(cifar_forms, name):
    (cifar_forms.official / "cifar-100-python" / name).unlink()
    with pytest.raises(DataError, match=rf"cannot read .*cifar-100-python/{name}: No such file"):
        opened(cifar_forms.official)


def test_a_pickle_cut_short_is_refused_even_with_the_right_sum(cifar_forms, monkeypatch):
    content = (cifar_forms.official / "cifar-100-python" / "train").read_bytes()
    cifar_forms.write("train", content[: len(content) // 2], monkeypatch)
    with pytest.raises(DataError, match=r"cifar-100-python/train cannot be unpickled"):
        opened(cifar_forms.official)


class Payload:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


@pytest.mark.parametrize("content", [pickle.dumps(Payload(), 2), b"cos\nsystem\n(S'touch hacked'\ntR."])
def test_a_pickle_that_names_a_callable_is_refused_and_not_run(cifar_forms, monkeypatch, content):
    for name in ("meta", "train"):
        cifar_forms.write(name, content, monkeypatch)
        with pytest.raises(DataError, match=r"cannot be unpickled: it names \S+, which no CIFAR file does"):
            opened(cifar_forms.official)
    assert not Path("hacked").exists()


@pytest.mark.parametrize(
    "change",
    [
        {"data": None},
        {"filenames": None},
        {"fine_labels": None},
        {"filenames": ["one.png"]},
        {"fine_labels": [99] * 36},
        {"data": np.zeros((36, 3071), dtype=np.uint8)},
    ],
    ids=["no data", "no names", "no labels", "too few names", "label without a class", "narrow rows"],
)
def test_a_pickle_that_is_no_batch_is_refused(cifar_forms, monkeypatch, change):
    path = cifar_forms.official / "cifar-100-python" / "train"
    batch = {**pickle.loads(path.read_bytes(), encoding="latin1"), **change}
    batch = {key: value for key, value in batch.items() if value is not None}
    cifar_forms.write("train", cifar_forms.pickled(batch), monkeypatch)
    with pytest.raises(DataError, match=r"cifar-100-python/train is not a CIFAR100 batch"):
        opened(cifar_forms.official)


def test_class_names_that_are_missing_are_refused(cifar_forms, monkeypatch):
    cifar_forms.write("meta", cifar_forms.pickled({"fine_label_names": ["apple"]}), monkeypatch)
    with pytest.raises(DataError, match="does not name 3 classes"):
        opened(cifar_forms.official)


def test_an_image_folder_of_another_size_is_not_taken_for_cifar(tree):
    files = tree.images({"cat": 2, "dog": 1}, side=32)
    for path in (tree.files(files), tree.archive(files)):
        with pytest.raises(DataError, match=r"not CIFAR100: it has 2 classes, 3 training and 2 test images"):
            opened(path)


def test_an_archive_that_is_missing_is_not_downloaded(monkeypatch):
    monkeypatch.setattr(
        torchvision.datasets, "CIFAR100", lambda *_, **__: pytest.fail("a download was tried")
    )
    with pytest.raises(DataError, match=r"there is no absent\.zip"):
        opened(Path("absent.zip"))


def test_missing_files_are_downloaded_by_torchvision_into_the_folder_named(cifar_forms, monkeypatch):
    asked = []

    def download(root: str, *, train: bool, download: bool) -> None:
        asked.append((root, download))
        (cifar_forms.official / "cifar-100-python").rename(Path(root) / "cifar-100-python")

    expected = opened(cifar_forms.official).train.keys
    monkeypatch.setattr(torchvision.datasets, "CIFAR100", download)
    assert opened(Path("new/data")).train.keys == expected
    assert asked == [("new/data", True)]
    assert opened(Path("new/data/cifar-100-python")).train.keys == expected
    assert len(asked) == 1


@pytest.mark.parametrize(
    "error", [OSError("no route\nto host"), RuntimeError("File not found or corrupted.")]
)
def test_a_download_that_fails_is_one_clear_line(monkeypatch, error):
    def download(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(torchvision.datasets, "CIFAR10", download)
    with pytest.raises(
        DataError, match=r"data has no cifar-10-batches-py and it could not be downloaded"
    ) as caught:
        open_cifar10(Path("data"))
    assert "\n" not in str(caught.value) and "--data" in str(caught.value)


def test_the_real_archive_is_cifar100(shared_data):
    source = opened(shared_data)
    assert len(source.classes) == 100 and "train" in source.classes
    assert (len(source.train.keys), len(source.test.keys)) == (50_000, 10_000)
    assert len(set(source.train.keys)) == 50_000
    assert source.train.keys == sorted(source.train.keys)
    images = pictures(source.train, [0, 25_000, 49_999])
    assert images.shape == (3, 32, 32, 3) and images.dtype == np.uint8


@pytest.mark.parametrize("name", ["train", "meta"])
def test_a_fifo_or_a_device_in_the_place_of_an_official_file_is_refused_before_it_is_opened(
    cifar_forms, name
):
    path = cifar_forms.official / "cifar-100-python" / name
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(DataError, match=rf"{name}: it is a FIFO, not a regular file; remove .* to download"):
        opened(cifar_forms.official)
    path.unlink()
    path.symlink_to("/dev/zero")
    with pytest.raises(DataError, match=rf"{name}: it is a device, not a regular file"):
        opened(cifar_forms.official)


def test_an_official_file_larger_than_any_is_refused_and_not_read(cifar_forms):
    with open(cifar_forms.official / "cifar-100-python" / "train", "r+b") as file:
        file.truncate(1 << 40)  # a terabyte, none of it on the disk
    with pytest.raises(DataError, match=r"cifar-100-python/train: it has \d{13} bytes"):
        opened(cifar_forms.official)


def test_links_and_twin_names_are_refused_in_a_cifar_folder_as_in_any(cifar_forms, tree):
    (cifar_forms.folder / "train" / "apple" / "loop").symlink_to("..")
    with pytest.raises(DataError, match="train/apple/loop is a link to"):
        opened(cifar_forms.folder)
