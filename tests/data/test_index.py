"""The index of picture files, and pictures that are read on demand and known by their digests."""

import hashlib
import io
import os
import pickle
import threading
import time
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from conftest import TreeBuilder, noise
from PIL import Image

from dive.data import index as module
from dive.data.index import index
from dive.data.on_demand import FilePictures
from dive.data.sources import decode
from dive.data.sources.folder import open_folder
from dive.data.sources.picture_files import PictureFiles
from dive.errors import DataError
from dive.progress import SILENT, Progress

PLACE = Path("cache/index.npz")


def jpeg(seed: int, height: int, width: int, orientation: int = 1) -> bytes:
    """Noise as a JPEG file."""
    image, buffer = Image.fromarray(noise(seed, height, width)), io.BytesIO()
    exif = Image.Exif()
    exif[0x0112] = orientation
    image.save(buffer, "JPEG", exif=exif)
    return buffer.getvalue()


@pytest.fixture(params=["folder", "archive"])
def files(request: pytest.FixtureRequest, tree: TreeBuilder) -> PictureFiles:
    """Six training pictures of mixed sizes, in a folder or a .zip."""
    named = {f"train/ant/{i}.jpg": jpeg(i, 20 + i, 30 - i, 1 if i % 2 else 6) for i in range(6)}
    named["test/ant/t.jpg"] = jpeg(9, 8, 8)
    place = tree.files(named) if request.param == "folder" else tree.archive(named)
    found = open_folder(place).train.files
    assert found is not None
    return found


def looked_at(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows that are indexed from now on."""
    rows, original = [], module._look_at

    def spy(found: module.Index, pictures: PictureFiles, row: int, check: bool) -> None:
        rows.append(row)
        original(found, pictures, row, check)

    monkeypatch.setattr(module, "_look_at", spy)
    return rows


def test_it_holds_the_digest_size_and_upright_sides_of_each_file(files: PictureFiles) -> None:
    found = index(files, PLACE, SILENT)
    assert found.known.all()
    for row in range(6):
        content = files.content(row)
        assert found.digests[row].tobytes() == hashlib.sha256(content).digest()[:16]
        assert found.sizes[row] == len(content)
        assert tuple(found.sides[row]) == files.picture(row).shape[:2]


def test_a_second_time_no_file_is_read(files: PictureFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    first = index(files, PLACE, SILENT)
    rows = looked_at(monkeypatch)
    again = index(files, PLACE, SILENT)
    assert rows == []
    for name in ("sizes", "changed", "sides", "digests"):
        assert np.array_equal(getattr(first, name), getattr(again, name))


def test_a_file_that_changed_is_indexed_again(files: PictureFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    if files.files.root.is_file():
        pytest.skip("an archive changes as a whole")
    index(files, PLACE, SILENT)
    path = files.files.root / files.names[2]
    path.write_bytes(jpeg(77, 9, 9))
    os.utime(files.files.root / files.names[4], ns=(0, 5))
    rows = looked_at(monkeypatch)
    found = index(files, PLACE, SILENT)
    assert sorted(rows) == [2, 4]
    assert tuple(found.sides[2]) == (9, 9)


def test_a_part_of_the_files_keeps_what_is_known_of_the_others(
    files: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    index(files.subset(np.array([0, 1, 2])), PLACE, SILENT)
    rows = looked_at(monkeypatch)
    index(files.subset(np.array([2, 3])), PLACE, SILENT)
    assert rows == [1]  # of the two
    rows.clear()
    index(files, PLACE, SILENT)
    assert rows == [4, 5]


def test_a_stopped_index_resumes(files: PictureFiles, monkeypatch: pytest.MonkeyPatch) -> None:
    rows, original = [], module._look_at

    def stopping(found: module.Index, pictures: PictureFiles, row: int, check: bool) -> None:
        if row == 3:
            raise KeyboardInterrupt
        original(found, pictures, row, check)

    with monkeypatch.context() as patch:
        patch.setattr(module, "_look_at", stopping)
        patch.setattr(module, "_PIECE", 1)
        patch.setattr(os, "cpu_count", lambda: 1)
        with pytest.raises(KeyboardInterrupt):
            index(files, PLACE, SILENT)
    rows = looked_at(monkeypatch)
    index(files, PLACE, SILENT)
    assert 3 in rows and set(rows) <= {3, 4, 5}  # a piece that had begun was finished


def test_two_processes_may_index_the_same_files_at_once(
    files: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    original, others = os.fsync, []

    def meanwhile(handle: int) -> None:
        if not others:  # another comes just before this one is published
            others.append(None)
            others.append(index(files, PLACE, SILENT))
        original(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", meanwhile)
        found = index(files, PLACE, SILENT)
    assert found.known.all() and others[1].known.all()
    assert [path.name for path in PLACE.parent.iterdir()] == [PLACE.name]
    rows = looked_at(monkeypatch)
    index(files, PLACE, SILENT)
    assert rows == []


@pytest.mark.parametrize("content", [b"", b"nonsense", b"PK\x03\x04 cut"])
def test_a_damaged_index_is_made_anew(files: PictureFiles, content: bytes) -> None:
    PLACE.parent.mkdir()
    PLACE.write_bytes(content)
    assert index(files, PLACE, SILENT).known.all()


def test_an_index_of_other_lengths_is_made_anew(files: PictureFiles) -> None:
    index(files, PLACE, SILENT)
    with np.load(PLACE) as document:
        columns = dict(document)
    np.savez(PLACE, **columns | {"sizes": columns["sizes"][:2]})
    assert index(files, PLACE, SILENT).known.all()


def test_a_file_that_is_no_picture_stops_it_and_is_named(tree: TreeBuilder) -> None:
    named = {
        "train/ant/a.jpg": jpeg(0, 8, 8),
        "train/ant/b.jpg": b"no picture",
        "test/ant/t.jpg": jpeg(1, 8, 8),
    }
    found = open_folder(tree.files(named)).train.files
    with pytest.raises(DataError, match=r"train/ant/b.jpg is not a readable image"):
        index(found, PLACE, SILENT)


def test_a_truncated_picture_is_found_by_decoding_alone(tree: TreeBuilder) -> None:
    whole = jpeg(0, 40, 40)
    named = {"train/ant/a.jpg": whole[: len(whole) // 2], "test/ant/t.jpg": jpeg(1, 8, 8)}
    found = open_folder(tree.files(named)).train.files
    assert index(found, Path("headers.npz"), SILENT).known.all()
    with pytest.raises(DataError, match=r"train/ant/a.jpg is not a readable image: .*truncated"):
        index(found, PLACE, SILENT, check=True)


def test_a_check_decodes_pictures_that_are_indexed_already(
    files: PictureFiles, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    first = index(files, PLACE, SILENT)
    rows, original = [], PictureFiles.picture

    def spy(pictures: PictureFiles, position: int) -> np.ndarray:
        rows.append(position)
        return original(pictures, position)

    monkeypatch.setattr(PictureFiles, "picture", spy)
    again = index(files, PLACE, Progress(), check=True)
    assert sorted(rows) == list(range(6))
    assert np.array_equal(first.digests, again.digests)
    assert "checking 6 of 6 images below" in capsys.readouterr().err


def test_a_picture_that_a_check_refuses_does_not_undo_what_is_known(tree: TreeBuilder) -> None:
    whole = jpeg(0, 40, 40)
    named = {"train/ant/a.jpg": whole[: len(whole) // 2], "test/ant/t.jpg": jpeg(1, 8, 8)}
    found = open_folder(tree.files(named)).train.files
    index(found, PLACE, SILENT)
    for _ in range(2):
        with pytest.raises(DataError, match=r"train/ant/a.jpg is not a readable image: .*truncated"):
            index(found, PLACE, SILENT, check=True)
    assert index(found, PLACE, SILENT).known.all()


@pytest.mark.parametrize("check", [False, True])
def test_an_image_that_may_be_a_decompression_bomb_is_refused(
    files: PictureFiles, check: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20 * 30 - 1)
    with pytest.raises(DataError, match=r"train/ant/\d\.jpg is far too large an image"):
        index(files, PLACE, SILENT, check)


def test_threads_leave_the_filters_of_warnings_as_they_were(
    files: PictureFiles, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of two threads the one that begins first ends first."""
    original, calls, second = decode._check_shape, [], threading.Event()

    def checked(*arguments: Any) -> None:
        calls.append(None)
        if len(calls) == 1:
            second.wait(10)
        else:
            second.set()
            time.sleep(0.2)
        original(*arguments)

    monkeypatch.setattr(decode, "_check_shape", checked)
    monkeypatch.setattr(module, "_PIECE", 1)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    before = list(warnings.filters)
    index(files.subset(np.array([0, 1])), PLACE, SILENT)
    assert warnings.filters == before and len(calls) == 2


def test_it_says_how_many_are_to_be_indexed(files: PictureFiles, capsys: pytest.CaptureFixture[str]) -> None:
    index(files, PLACE, Progress())
    assert "indexing 6 of 6 images below" in capsys.readouterr().err
    index(files, PLACE, Progress())
    assert capsys.readouterr().err == ""


def test_pictures_on_demand_are_those_of_their_files_in_any_process(files: PictureFiles) -> None:
    pictures = FilePictures(files, index(files, PLACE, SILENT).digests)
    again = pickle.loads(pickle.dumps(pictures.subset(np.array([5, 0]))))
    assert (len(pictures), len(again)) == (6, 2)
    for row, source in ((0, 5), (1, 0)):
        assert np.array_equal(again.read(row), files.picture(source))
        assert np.array_equal(again.read(row), pictures.read(source))


def test_a_picture_that_changed_since_is_an_error(files: PictureFiles) -> None:
    if files.files.root.is_file():
        pytest.skip("an archive changes as a whole")
    pictures = FilePictures(files, index(files, PLACE, SILENT).digests)
    path = files.files.root / files.names[1]
    path.write_bytes(jpeg(77, 21, 29))
    with pytest.raises(DataError, match=r"train/ant/1.jpg has changed since it was indexed"):
        pictures.read(1)
    path.unlink()
    with pytest.raises(DataError, match=r"train/ant/1.jpg cannot be read: No such file"):
        pictures.read(1)
