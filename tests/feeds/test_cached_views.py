"""Stored views with the teacher's logits as a torch data set: for training loops of strangers."""

import pickle
import shutil
import statistics
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from chain import DIGITS, Chain, succeed
from torch.utils.data import DataLoader

import dive
from dive.data.images import LabelledImages
from dive.errors import CacheError, DataError
from dive.progress import SILENT
from dive.recipe.reading import load
from dive.workflows.data import load_training

IMAGES = ("digits", {})


@pytest.fixture
def views(digits: Chain) -> dive.CachedViews:
    """All nine views of the digits."""
    return dive.CachedViews(dive.open_cache(digits.cache), LabelledImages(*IMAGES), seed=5)


def crop(picture: np.ndarray, view_id: int) -> np.ndarray:
    """View `view_id` of a picture (8, 8, 1), padded by one: (1, 8, 8)."""
    padded = np.pad(picture[..., 0], 1)
    dy, dx = divmod(view_id, 3)
    return padded[None, dy : dy + 8, dx : dx + 8]


def test_an_item_is_the_stored_view_with_what_the_teacher_said_of_it(views: dive.CachedViews) -> None:
    cache, images = views.cache, LabelledImages(*IMAGES)
    for row in (0, 7, 398, -1):
        picture, label, logits = views[row]
        column, key = views.column(row % 399), cache.keys[row]
        assert np.array_equal(picture.numpy(), crop(images[key], int(cache.views[row, column])))
        assert label == cache.labels[row] and cache.classes[label] == key.split("/")[0]
        assert np.array_equal(logits.numpy(), cache.logits([row % 399], [column])[0])


def test_a_batch_has_the_items_one_by_one(views: dive.CachedViews) -> None:
    cache, images = views.cache, LabelledImages(*IMAGES)
    views.set_epoch(3)
    rows = [300, 7, -1, 7, 0, -399]
    batch = views.__getitems__(rows)
    assert len(batch) == len(rows)
    for row, (picture, label, logits) in zip(rows, batch, strict=True):
        column, key = views.column(row % 399), cache.keys[row]
        assert np.array_equal(picture.numpy(), crop(images[key], int(cache.views[row, column])))
        assert picture.is_contiguous() and type(label) is int and label == cache.labels[row]
        assert logits.dtype == torch.float32
        assert np.array_equal(logits.numpy(), cache.logits([row % 399], [column])[0])


def test_every_stored_view_of_every_sample_occurs_evenly(views: dive.CachedViews) -> None:
    epochs, (n, v, _) = 200, views.cache.shape
    counts = np.zeros((n, v), dtype=int)
    for epoch in range(1, epochs + 1):
        views.set_epoch(epoch)
        for row in range(0, n, 20):
            counts[row, views.column(row)] += 1
    seen = counts[::20]
    assert (seen > 0).all()
    expected = epochs / v
    chi_squared = ((seen - expected) ** 2 / expected).sum()
    freedom = len(seen) * (v - 1)
    assert abs(chi_squared - freedom) < 4 * np.sqrt(2 * freedom)


def test_the_column_is_that_of_a_student_trained_by_dive(views: dive.CachedViews) -> None:
    from dive.views.draw import StoredViews

    samples = load_training(load(Path(DIGITS[1])), SILENT)
    assert samples.keys == views.cache.keys
    for epoch in (1, 9):
        views.set_epoch(epoch)
        _, columns = StoredViews(views.cache.views).draw(5, epoch, samples.hashes)
        assert [views.column(row) for row in range(0, 399, 13)] == columns[::13].tolist()


def columns_seen(loader: DataLoader) -> list[float]:
    """The sum of the pixels of each batch, which differs between epochs."""
    return [pictures.float().sum().item() for pictures, _, _ in loader]


@pytest.mark.slow
@pytest.mark.parametrize("start", ["forkserver", "spawn"])
def test_persistent_workers_see_the_epoch_change(views: dive.CachedViews, start: str) -> None:
    here = DataLoader(views, batch_size=128)
    there = DataLoader(
        views, batch_size=128, num_workers=1, persistent_workers=True, multiprocessing_context=start
    )
    for epoch in (1, 2, 3):
        views.set_epoch(epoch)
        assert columns_seen(there) == columns_seen(here)
    views.set_epoch(1)
    first = columns_seen(here)
    views.set_epoch(2)
    assert first != columns_seen(here)


def test_it_is_pickled_as_paths_and_opens_its_files_again(views: dive.CachedViews) -> None:
    views.set_epoch(4)
    content = pickle.dumps(views)
    picture = LabelledImages(*IMAGES)[views.cache.keys[0]]
    assert views.cache.whole()[0].tobytes() not in content and picture.tobytes() not in content
    again = pickle.loads(content)
    assert again.epoch == 4
    for one, other in zip(views[3], again[3], strict=True):
        assert np.array_equal(one, other)


def test_a_transform_is_given_the_uint8_view(digits: Chain) -> None:
    cache, given = dive.open_cache(digits.cache), []
    views = dive.CachedViews(cache, LabelledImages(*IMAGES), transform=lambda x: given.append(x) or "made")
    assert views[0][0] == "made"
    assert given[0].dtype == torch.uint8 and given[0].shape == (1, 8, 8)


def test_a_cache_without_pictures_is_refused(digits: Chain) -> None:
    test = LabelledImages(*IMAGES, split="test")
    with pytest.raises(DataError, match=r"399 of 399 keys of .* for example 0/digit"):
        dive.CachedViews(dive.open_cache(digits.cache), test)


def test_a_picture_of_other_pixels_is_an_error(views: dive.CachedViews) -> None:
    class Changed(LabelledImages):
        def __getitem__(self, key: str) -> np.ndarray:
            return super().__getitem__(key) ^ 1

    changed = dive.CachedViews(views.cache, Changed(*IMAGES))
    with pytest.raises(DataError, match="is not the image that the teacher"):
        changed[0]


def test_a_cache_that_does_not_say_its_views_is_refused(digits: Chain) -> None:
    cache = dive.open_cache(digits.cache)
    del cache.identity["view_space"]
    with pytest.raises(CacheError, match="does not say which views it holds"):
        dive.CachedViews(cache, LabelledImages(*IMAGES))


def test_samples_beyond_the_last_do_not_exist(views: dive.CachedViews) -> None:
    with pytest.raises(IndexError, match="there is no sample 399"):
        views[399]


@pytest.mark.slow
def test_a_loop_of_ones_own_trains_as_good_a_student(digits: Chain, repository: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache.h5"
    teacher = tmp_path / "teacher.pt"
    succeed("teacher", *DIGITS, "--epochs", 20, "--out", teacher)
    succeed("export-logits", *DIGITS, "--teacher", teacher, "--out", cache)
    shutil.copyfile(repository / "examples" / "own_loop.py", tmp_path / "own_loop.py")
    students = succeed(
        "student", *DIGITS, "--cache", cache, "--epochs", 20, "--seed", 0, 1, 2, "--out", "s.pt", "--json"
    )
    ours = [student["accuracy"]["all"] for student in students.document["students"]]
    theirs = []
    for seed in range(3):
        command = [sys.executable, "own_loop.py", "--cache", cache, "--epochs", "20", "--seed", str(seed)]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        theirs.append(float(done.stdout.split()[0]) / 100)
    spread = max(statistics.stdev(ours), statistics.stdev(theirs))
    assert statistics.fmean(theirs) > statistics.fmean(ours) - 2 * spread, (ours, theirs)


def test_a_photograph_is_known_by_its_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from photographs import HERE, RECIPE, write_photographs

    write_photographs(Path("pictures"))
    Path("photographs.yaml").write_text(RECIPE)
    recipe = ("--config", "photographs.yaml", *HERE, "--workers", 0)
    succeed("teacher", *recipe, "--epochs", 1, "--out", "t.pt")
    succeed("export-logits", *recipe, "--teacher", "t.pt", "--out", "c.h5", "--views", 2)
    views = dive.CachedViews(dive.open_cache("c.h5"), dive.open_images("pictures"))
    assert views.cache.identity["digests"] == "files" and views[0][0].shape == (3, 24, 24)
    path = Path("pictures/train") / views.cache.keys[0]
    path.write_bytes(path.read_bytes() + b" ")  # the same pixels in another file
    with pytest.raises(DataError, match="is not the image that the teacher"):
        views[0]
