"""Links, loops and files that are none, below an image folder."""

import os
import socket
from pathlib import Path

import numpy as np
import pytest
from reading import pictures

from dive.data.pictures import hold
from dive.data.sources.folder import open_folder
from dive.data.sources.registry import open_source
from dive.data.sources.walk import walk
from dive.errors import DataError


@pytest.fixture
def images(tree) -> Path:
    """train/ and test/ with the classes cat (three training images) and dog (two), one test image each."""
    return tree.files(tree.images({"cat": 3, "dog": 2}))


def refusal(path: Path) -> str:
    """The line with which a folder is refused."""
    with pytest.raises(DataError) as caught:
        open_folder(path)
    message = str(caught.value)
    assert "\n" not in message and str(path) in message
    return message


@pytest.mark.parametrize("target", [".", "..", "../..", "../../..", "/"])
def test_a_link_to_a_folder_above_is_refused_naming_both(images, target):
    (images / "train" / "cat" / "loop").symlink_to(target)
    above = os.path.realpath(images / "train" / "cat" / target)
    assert f"train/cat/loop is a link to {above}, a folder above it" in refusal(images)


def test_a_link_without_images_to_a_folder_above_is_refused_too(images):
    (images / "train" / "cat" / "notes").mkdir()
    (images / "train" / "cat" / "notes" / "loop").symlink_to(".")
    assert "train/cat/notes/loop is a link to" in refusal(images)


def test_two_links_upwards_end_at_once(images):
    for label in ("cat", "dog"):
        (images / "train" / label / "loop").symlink_to("..")
    assert "train/cat/loop" in refusal(images)


def test_a_loop_in_a_folder_that_a_link_leads_to_is_refused(images):
    Path("elsewhere/deep/cat").mkdir(parents=True)
    (images / "train" / "cat").rename("elsewhere/deep/cat/pictures")
    (images / "train" / "cat").symlink_to(Path("elsewhere/deep/cat").resolve())
    Path("elsewhere/deep/cat/pictures/up").symlink_to(Path("elsewhere").resolve())
    assert f"train/cat/pictures/up is a link to {Path('elsewhere').resolve()}" in refusal(images)


@pytest.mark.parametrize("split", ["train", "test"])
def test_a_split_that_is_a_link_to_its_own_root_is_refused(images, split):
    (images / split).rename("moved")
    (images / split).symlink_to(images)
    assert f"{split} is a link to {images}, a folder above it" in refusal(images)


def test_a_split_may_be_a_link_to_another_folder(images):
    expected = open_folder(images).train.keys
    (images / "train").rename("moved")
    (images / "train").symlink_to(Path("moved").resolve())
    assert open_folder(images).train.keys == expected


def test_links_that_lead_to_each_other_are_refused_by_name(images):
    (images / "train" / "cat" / "a").symlink_to("b")
    (images / "train" / "cat" / "b").symlink_to("a")
    assert "cannot read " in (message := refusal(images)) and "train/cat/a, a link to b: Too many" in message


def test_a_folder_of_a_subset_may_link_to_single_images_elsewhere(tree, images):
    for split, name in (("train", "cat/000.png"), ("train", "dog/001.png"), ("test", "cat/000.png")):
        link = Path("subset") / split / name
        link.parent.mkdir(parents=True, exist_ok=True)
        link.symlink_to(images / split / name)
    Path("subset/test/dog").symlink_to(images / "test" / "dog")
    source = open_folder(Path("subset"))
    assert source.train.keys == ["cat/000.png", "dog/001.png"]
    assert source.test.keys == ["cat/000.png", "dog/000.png"]
    whole = open_folder(images)
    for at, position in enumerate((0, 4)):
        np.testing.assert_array_equal(source.train.read(at), whole.train.read(position))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("train/cat/000.png", "train/cat/9.png"),
        ("train/cat/000.png", "train/dog/9.png"),
        ("train/cat/000.png", "test/cat/9.png"),
        ("test/dog/000.png", "test/cat/9.png"),
    ],
)
def test_one_real_file_under_two_names_is_refused_naming_both(images, first, second):
    (images / second).symlink_to(images / first)
    message = refusal(images)
    assert first in message and second in message and f"are one file, {images / first}" in message


def test_two_links_to_one_file_elsewhere_are_refused_naming_both(images):
    Path("one.png").write_bytes((images / "test/dog/000.png").read_bytes())
    Path("link.png").symlink_to("one.png")  # a link to a link
    (images / "train/cat/a.png").symlink_to(Path("one.png").resolve())
    (images / "test/cat/b.png").symlink_to(Path("link.png").absolute())
    assert "train/cat/a.png and test/cat/b.png are one file" in refusal(images)


@pytest.mark.parametrize("link", ["train/feline", "test/cat/more", "test/feline"])
def test_one_real_folder_under_two_names_is_refused_naming_both(images, link):
    (images / link).symlink_to(images / "train" / "cat")
    message = refusal(images)
    assert link in message and "train/cat" in message and "are one folder" in message


def test_train_and_test_may_not_be_one_folder(images):
    (images / "test").rename("moved")
    (images / "test").symlink_to("train")
    assert "train and test are one folder" in refusal(images)


def test_a_folder_without_images_may_be_linked_twice(images):
    Path("notes").mkdir()
    Path("notes/read.me").write_text("x")
    expected = open_folder(images).train.keys
    for label in ("cat", "dog"):
        (images / "train" / label / "notes").symlink_to(Path("notes").resolve())
    assert open_folder(images).train.keys == expected


def test_hard_links_are_files_of_their_own_as_copies_are(images):
    os.link(images / "train/cat/000.png", images / "train/cat/9.png")
    os.link(images / "train/cat/000.png", images / "test/cat/9.png")
    source = open_folder(images)
    assert "cat/9.png" in source.train.keys and "cat/9.png" in source.test.keys


def test_a_link_to_a_hard_linked_file_stands_for_its_own_name(images):
    Path("a.png").write_bytes((images / "train/cat/000.png").read_bytes())
    os.link("a.png", "b.png")
    for name in ("a.png", "b.png"):
        (images / "train/cat" / name).symlink_to(Path(name).resolve())
    assert len(open_folder(images).train.keys) == 7
    (images / "train/cat/c.png").symlink_to(Path("b.png").resolve())
    assert "train/cat/b.png and train/cat/c.png are one file" in refusal(images)


def test_nothing_hidden_is_looked_into(images):
    expected = open_folder(images).train.keys
    hidden = images / "train" / "cat" / ".cache"
    hidden.mkdir()
    (hidden / "loop").symlink_to("..")
    (images / "train" / ".loop").symlink_to(".")
    (images / "train" / "cat" / ".broken.png").symlink_to("/nowhere")
    (images / "train" / "cat" / ".again.png").symlink_to("000.png")
    os.mkfifo(images / "train" / "cat" / ".pipe.png")
    assert open_folder(images).train.keys == expected


@pytest.mark.parametrize("name", ["train/cat/9.png", "train/cat/more", "train/bird"])
def test_a_link_to_nowhere_is_refused_naming_it_and_its_target(images, name):
    (images / name).symlink_to("/nowhere/at/all")
    assert f"cannot read {images / name}, a link to /nowhere/at/all: No such file" in refusal(images)


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_folder_that_may_not_be_read_is_refused_by_name(images):
    (images / "train" / "cat").chmod(0)
    try:
        assert "train/cat: Permission denied" in refusal(images)
    finally:
        (images / "train" / "cat").chmod(0o755)


def test_a_folder_that_cannot_be_read_is_refused_by_name(images, monkeypatch):
    scandir = os.scandir

    def denied(path: str) -> object:
        if str(path).endswith("train/cat"):
            raise PermissionError(13, "Permission denied", path)
        return scandir(path)

    monkeypatch.setattr(os, "scandir", denied)
    assert refusal(images) == f"cannot read {images / 'train/cat'}: Permission denied"


def test_the_order_of_the_walk_is_that_of_the_names(images, monkeypatch):
    scandir = os.scandir

    class Backwards:
        def __init__(self, path: str) -> None:
            with scandir(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self) -> list:
            return self._entries

        def __exit__(self, *_: object) -> None:
            pass

    (images / "test" / "cat" / "again").symlink_to(images / "train" / "dog")
    (images / "train" / "cat" / "more.png").symlink_to("000.png")
    first = refusal(images)
    monkeypatch.setattr(os, "scandir", Backwards)
    assert refusal(images) == first


def special_fifo(path: Path) -> None:
    os.mkfifo(path)


def special_socket(path: Path) -> None:
    here = Path.cwd()
    os.chdir(path.parent)  # the path of a socket has at most 107 bytes
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(path.name)
    os.chdir(here)


SPECIAL = {
    "a FIFO": special_fifo,
    "a socket": special_socket,
    "a device": lambda path: path.symlink_to("/dev/zero"),
}


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_not_a_file_among_the_images_is_refused_before_it_is_opened(images, kind):
    SPECIAL[kind](images / "train/dog/9.png")
    assert f"{images / 'train/dog/9.png'}" in (message := refusal(images))
    assert f"it is {kind}, not a regular file" in message


@pytest.mark.parametrize("kind", SPECIAL)
def test_what_is_not_a_file_is_refused_when_it_takes_an_images_place(images, kind):
    source = open_folder(images)
    (images / "train/cat/001.png").unlink()
    SPECIAL[kind](images / "train/cat/001.png")
    with pytest.raises(DataError, match=rf"train/cat/001\.png cannot be read: it is {kind}, not a regular"):
        pictures(source.train, [0, 1, 2])


@pytest.mark.parametrize("kind", SPECIAL)
@pytest.mark.parametrize("name", ["images.zip", "images"])
@pytest.mark.parametrize("data_source", ["folder", "cifar100"])
def test_data_that_are_not_a_file_are_refused_before_they_are_opened(kind, name, data_source):
    SPECIAL[kind](Path(name).absolute())
    with pytest.raises(DataError, match=rf"{name} is neither a folder nor a (readable )?\.zip") as caught:
        open_source(data_source, root=name)
    assert name == "images" or f"it is {kind}, not a regular file" in str(caught.value)


def test_special_files_that_are_not_images_do_no_harm(images):
    os.mkfifo(images / "train" / "cat" / "control")
    os.mkfifo(images / "train" / "pipe.png")  # beside the classes
    assert len(open_folder(images).train.keys) == 5


def test_a_file_larger_than_any_image_is_refused_and_not_read(images):
    with open(images / "train/cat/001.png", "r+b") as file:
        file.truncate(1 << 40)  # a terabyte, none of it on the disk
    source = open_folder(images)
    with pytest.raises(DataError, match=r"train/cat/001\.png cannot be read: it has \d{13} bytes, more than"):
        pictures(source.train, [0, 1, 2])


def test_images_that_do_not_fit_in_memory_are_refused_in_one_line(images):
    source, positions = open_folder(images), np.broadcast_to(np.int64(0), 10**12)
    needs = r"1000000000000 images of 1024×1024 pixels need .* TB of memory, .* are free; choose a smaller"
    with pytest.raises(DataError, match=needs):
        hold(source.train, positions, 1024)


def test_a_home_folder_of_nobody_is_refused():
    with pytest.raises(DataError, match=r"~nobody-at-all/images: there is no such home folder"):
        open_source("folder", root="~nobody-at-all/images")


def naive(root: Path) -> list[tuple[str, str]] | None:
    """All images as (name, real path), by plain recursion; None at a loop."""
    found = []

    def enter(name: str, above: list[str]) -> bool:
        real = os.path.realpath(root / name)
        if any(Path(other).is_relative_to(real) for other in above):
            return False
        for child in sorted(os.listdir(root / name)):
            path = f"{name}/{child}"
            if (root / path).is_dir():
                if not enter(path, [*above, real]):
                    return False
            elif path.count("/") > 1:
                found.append((path, os.path.realpath(root / path)))
        return True

    return found if all(enter(split, [os.path.realpath(root)]) for split in ("train", "test")) else None


def test_random_trees_of_links_are_walked_or_refused_as_by_plain_recursion():
    outcomes = {"whole": 0, "loop": 0, "twice": 0}
    for seed in range(150):
        generator, base = np.random.default_rng(seed), Path(f"{seed}")
        places = [
            base / place for place in ("root/train/a", "root/train/b", "root/test/a", "away/c", "away/d")
        ]
        for _ in range(generator.integers(0, 4)):
            places.append(places[generator.integers(len(places))] / f"sub{len(places)}")
        for i, place in enumerate(places):
            place.mkdir(parents=True, exist_ok=True)
            if generator.random() < 0.5:
                (place / f"{i}.png").write_bytes(b"x")
        for i in range(generator.integers(0, 4)):
            place, target = generator.choice(len(places), 2)
            aim = places[target] if generator.random() < 0.8 else places[target].parent
            if generator.random() < 0.3 and (images := sorted(aim.glob("*.png"))):
                (places[place] / f"link{i}.png").symlink_to(images[0].resolve())
            else:
                (places[place] / f"link{i}").symlink_to(aim.resolve())
        root = base / "root"
        expected = naive(root)
        kind = "loop" if expected is None else "whole"
        if expected is not None and len({real for _, real in expected}) < len(expected):
            kind = "twice"
        outcomes[kind] += 1
        if kind == "whole":
            assert sorted(walk(root)) == sorted(name for name, _ in expected)
        else:
            with pytest.raises(
                DataError, match="are one f" if kind == "twice" else "a folder above|are one f"
            ):
                walk(root)
    assert min(outcomes.values()) > 15, outcomes
