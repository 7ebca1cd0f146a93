"""A command reads and prepares its images and its cache once, however many runs or checkpoints it has."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import chain
import folders
import pytest

from dive.data import pictures, reading
from dive.feeds.images import Images, ResidentImages
from dive.feeds.logits import CachedLogits, ResidentLogits
from dive.workflows import data, student


@pytest.fixture
def calls(monkeypatch) -> Counter:
    """How often each thing is read or brought to the device."""
    seen: Counter = Counter()

    def counted(owner: object, name: str, label: str) -> None:
        real: Callable = getattr(owner, name)

        def counting(*args: object, **kwargs: object) -> object:
            seen[label] += 1
            return real(*args, **kwargs)

        monkeypatch.setattr(owner, name, counting)

    counted(data, "open_source", "sources opened")
    counted(reading, "hold", "splits read")
    counted(pictures, "digest", "pictures read")
    counted(Images, "__init__", "images")
    counted(ResidentImages, "__init__", "images on the device")
    counted(CachedLogits, "__init__", "logits")
    counted(ResidentLogits, "__init__", "logits on the device")
    counted(student, "LogitCache", "caches opened")
    return seen


TRAINING, TEST = 399, 359  # images of the digits
ONE_DATA_SET = {
    "sources opened": 1,
    "splits read": 2,  # training and test
    "pictures read": TRAINING + TEST,
    "images": 2,
    "images on the device": 2,
}
ONE_CACHE = {"caches opened": 1, "logits": 1, "logits on the device": 1}


def test_a_grid_of_four_students_evaluated_every_epoch_prepares_what_one_student_does(digits, calls):
    one = (*chain.DIGITS, "--epochs", 2, "--cache", digits.cache, "--out", "s.pt")
    calls.clear()  # of what the fixture may have made
    chain.succeed("student", *one)
    assert calls == ONE_DATA_SET | ONE_CACHE
    calls.clear()
    chain.succeed("student", *one, "--tau", 3, 6, "--seed", 0, 1, "--eval-every", 1)
    assert len(list(Path().glob("s-*.pt"))) == 4
    assert calls == ONE_DATA_SET | ONE_CACHE


def test_a_teacher_evaluated_every_epoch_prepares_its_data_set_once(digits, calls):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--eval-every", 1, "--out", "t.pt")
    assert calls == ONE_DATA_SET


def test_eval_of_several_checkpoints_prepares_the_test_set_once(digits, calls):
    checkpoints = (digits.teacher, digits.student)
    calls.clear()
    chain.succeed("eval", *checkpoints, *checkpoints, digits.teacher, "--quiet")
    assert calls == {
        "sources opened": 1,
        "splits read": 1,
        "pictures read": TEST,
        "images": 1,
        "images on the device": 1,
    }


def test_eval_prepares_the_test_set_once_for_each_size_and_not_for_each_space_of_training(tmp_path, calls):
    config = folders.write_recipe(Path("insects.yaml"), folders.write_images(tmp_path / "images"))
    common = ("teacher", "--config", config, "--quiet", "--epochs", 1, "--device", "cpu")
    names = []
    for size in (8, 12):
        for views in ("pad=1", "kind=autoaugment"):
            names.append(f"{size}-{views}.pt")
            sets = ("--set", f"views.{views}", "--set", f"views.size={size}")
            chain.succeed(*common, *sets, "--out", names[-1])
    calls.clear()
    chain.succeed("eval", *names, "--quiet")
    assert calls["splits read"] == calls["images"] == calls["images on the device"] == 2
    assert calls["pictures read"] == 2 * 6


def test_an_export_reads_the_training_images_alone(digits, calls):
    chain.succeed("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "c.h5")
    assert calls == {
        "sources opened": 1,
        "splits read": 1,
        "pictures read": TRAINING,
        "images": 1,
        "images on the device": 1,
    }
