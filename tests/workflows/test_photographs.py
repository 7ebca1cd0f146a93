"""Teacher, export, student and evaluation on a folder of JPEGs of mixed sizes, in views of resized crops."""

from pathlib import Path

import chain
import numpy as np
import pytest
import torch
from photographs import HERE, RECIPE, write_photographs
from torch.utils.data import DataLoader

import dive
from dive.cache.reader import LogitCache
from dive.data.on_demand import FilePictures
from dive.models import checkpoint
from dive.progress import SILENT
from dive.recipe.reading import load
from dive.views.registry import described_space
from dive.views.resized_crop import ResizedCrop
from dive.workflows.data import load_dataset, open_images


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the pictures, their recipe, a teacher, its cache of three views, and a student."""
    folder = tmp_path_factory.mktemp("photographs")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        write_photographs(Path("pictures"))
        Path("photographs.yaml").write_text(RECIPE)
        recipe = ("--config", "photographs.yaml", *HERE)
        chain.succeed("teacher", *recipe, "--out", "teacher.pt")
        chain.succeed("export-logits", *recipe, "--teacher", "teacher.pt", "--out", "cache.h5", "--views", 3)
        chain.succeed("student", *recipe, "--cache", "cache.h5", "--out", "student.pt")
    return folder


@pytest.fixture
def here(place, monkeypatch) -> Path:
    monkeypatch.chdir(place)
    return place


def test_pictures_of_several_sizes_are_read_from_their_files_as_they_are(here):
    dataset = load_dataset(load(Path("photographs.yaml")), SILENT)
    pictures = dataset.train.pictures
    assert isinstance(pictures, FilePictures) and pictures.held is None and pictures.shape is None
    assert len({pictures.read(row).shape for row in range(len(pictures))}) == 16
    part = dataset.train.subset(np.array([3, 0])).pictures
    assert len(part) == 2 and np.array_equal(part.read(0), pictures.read(3))


def test_the_cache_holds_what_the_teacher_says_of_each_stored_view(here):
    cache, network = LogitCache(Path("cache.h5")), checkpoint.load_model(Path("teacher.pt"))[0].eval()
    described = cache.identity["view_space"]
    assert described["kind"] == "resized_crop" and described["image"] == [24, 24]
    space = ResizedCrop(None, 24, (0.08, 1.0), (3 / 4, 4 / 3), True, (0.4, 0.4, 0.4, 0.1))
    assert described_space(described).describe() == space.describe() == described
    assert cache.shape == (16, 3, 3) and cache.views.dtype == np.int64
    pictures = open_images("pictures")
    with torch.no_grad():
        for row, key in enumerate(cache.keys):
            views = np.stack([space.view(pictures[key], int(i)) for i in cache.views[row]])
            said = network(torch.from_numpy(views).permute(0, 3, 1, 2))
            stored = cache.logits([row] * 3, [0, 1, 2])
            np.testing.assert_allclose(stored, said, rtol=2e-3, atol=2e-3)  # float16


def test_the_cache_is_verified_with_its_teacher(here):
    found = chain.succeed(
        "verify",
        "cache.h5",
        "--sample",
        48,
        "--teacher",
        "teacher.pt",
        "--device",
        "cpu",
        "--json",
        "--quiet",
    )
    assert found.document["sampled"]["agreement"] == 1


def accuracies(*paths: str) -> list[dict[str, float]]:
    """What `dive eval` says of checkpoints."""
    document = chain.succeed("eval", *paths, "--device", "cpu", "--json", "--quiet").document
    return [row["accuracy"] for row in document["checkpoints"]]


def test_teacher_and_student_are_evaluated_on_the_clean_views(here):
    found = accuracies("teacher.pt", "student.pt")
    recipe = load(Path("photographs.yaml"))
    test = load_dataset(recipe, SILENT).test
    clean = ResizedCrop(None, **recipe.views.keys()).clean
    views = np.stack([clean.view(test.pictures.read(row), 0) for row in range(len(test))])
    for path, accuracy in zip(("teacher.pt", "student.pt"), found, strict=True):
        network = checkpoint.load_model(Path(path))[0].eval()
        with torch.no_grad():
            right = network(torch.from_numpy(views).permute(0, 3, 1, 2)).argmax(1).numpy() == test.labels
        assert accuracy["all"] == pytest.approx(right.mean())


def test_a_student_of_another_jitter_is_refused_naming_it(here):
    complaint = chain.dive(
        "student", "--config", "photographs.yaml", "--cache", "cache.h5", "--out", "x.pt", *HERE,
        "--set", "views.jitter=[0.4, 0.4, 0.4, 0]",
    ).complaint  # fmt: skip
    assert (
        "cache.h5 holds another recipe's views (views.jitter: " in complaint
        and "pixels_hash" not in complaint
    )


def test_checkpoints_of_other_views_are_compared_on_their_own(here):
    recipe = (
        "--config",
        "photographs.yaml",
        *HERE,
        "--set",
        "views.kind=crop_flip",
        "--set",
        "views.size=16",
    )
    chain.succeed("teacher", *recipe, "--out", "small.pt")
    alone = [*accuracies("teacher.pt"), *accuracies("small.pt"), *accuracies("student.pt")]
    assert accuracies("teacher.pt", "small.pt", "student.pt") == alone


def test_a_teacher_of_other_views_may_be_exported_and_verified_in_these(here):
    recipe = ("--config", "photographs.yaml", *HERE)
    cropped = (*recipe, "--set", "views.kind=crop_flip", "--set", "views.size=24")
    chain.succeed("teacher", *cropped, "--out", "cropped.pt")
    chain.succeed("export-logits", *recipe, "--teacher", "cropped.pt", "--out", "cropped.h5", "--views", 2)
    chain.succeed(
        "verify", "cropped.h5", "--sample", 32, "--teacher", "cropped.pt", "--device", "cpu", "--quiet"
    )


def test_pictures_of_several_sizes_are_refused_by_a_space_that_needs_one(here):
    complaint = chain.dive(
        "teacher", "--config", "photographs.yaml", *HERE, "--set", "views.kind=crop_flip", "--out", "x.pt"
    ).complaint
    assert "the images differ in size" in complaint and "give them one size with views.size" in complaint


def test_no_word_of_resizing_where_pictures_keep_their_size(here):
    recipe = ("--config", "photographs.yaml", "--device", "cpu", "--precision", "fp32", "--epochs", 1)
    assert "every image is resized" not in chain.succeed("teacher", *recipe, "--out", "told.pt").err


def test_stored_views_come_to_a_loop_of_ones_own(here):
    cache = dive.open_cache("cache.h5")
    views = dive.CachedViews(cache, dive.open_images("photographs.yaml"), seed=3)
    space = described_space(cache.identity["view_space"])
    pictures = open_images("pictures")
    for row, (view, label, logits) in enumerate(views):
        column = views.column(row)
        expected = space.view(pictures[cache.keys[row]], int(cache.views[row, column]))
        assert (
            torch.equal(view, torch.from_numpy(expected.copy()).permute(2, 0, 1))
            and label == cache.labels[row]
        )
        assert torch.equal(logits, torch.from_numpy(cache.logits([row], [column])[0]))
    batch, _, _ = next(iter(DataLoader(views, batch_size=16)))
    assert batch.shape == (16, 3, 24, 24) and batch.dtype == torch.uint8
