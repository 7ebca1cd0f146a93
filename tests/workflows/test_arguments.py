"""The Python interface takes paths as texts as well as `Path`s, and names its choices."""

from collections.abc import Callable
from pathlib import Path

import chain
import numpy as np
import pytest
from PIL import Image

import dive
from dive.errors import OptionError

QUICK = ("schedule.epochs=1", "schedule.warmup_epochs=0", "schedule.milestones=[]")


def logits_file() -> str:
    """Logits of the digits' clean views, which are right."""
    drawn = dive.DrawnViews("digits_lt/bbn", views="clean")
    given = {"keys": np.array(drawn.keys), "classes": np.array(drawn.classes)}
    np.savez("logits.npz", logits=10 * np.eye(10)[drawn.labels], **given)
    return "logits.npz"


def calls(digits: chain.Chain) -> dict[str, Callable[[], object]]:
    """Functions that take paths, given texts alone, by the file that each writes."""
    recipe = dive.load_recipe(str(chain.CONFIG), *QUICK)
    teacher, student, cache = map(str, (digits.teacher, digits.student, digits.cache))
    board, learning = dive.TrainOptions(tensorboard="board"), dive.StudentOptions(cache=cache)
    several = dive.ExportOptions(teacher=[teacher, student], views="clean", out="several.h5")
    alone = dive.ExportOptions(teacher=student, out="alone.h5")
    imported = dive.ImportOptions(prior="none", out="imported.h5")
    tuning = dive.TuneOptions(taus=(1.0,), powers=(1.0,), plot="tau.png")
    return {
        "teacher.pt": lambda: dive.train_teacher(recipe, "teacher.pt", board),
        "student.pt": lambda: dive.train_student(recipe, "student.pt", learning),
        "several.h5": lambda: dive.export_logits(recipe, several),
        "alone.h5": lambda: dive.export_logits(recipe, alone),
        "both.h5": lambda: dive.merge_caches([cache, "alone.h5"], dive.MergeOptions(out="both.h5")),
        "imported.h5": lambda: dive.import_logits(recipe, logits_file(), imported),
        "small.h5": lambda: dive.convert(cache, dive.ConvertOptions("int8", out="small.h5")),
        "tau.png": lambda: dive.tune(cache, tuning),
        "classes.png": lambda: dive.evaluate([teacher, student], plot="classes.png"),
        "page.html": lambda: dive.write_report([teacher], "page.html", dive.ReportOptions()),
        "network.pt2": lambda: dive.export_model(teacher, dive.ModelExportOptions("pt2", "network.pt2")),
    }


def test_every_path_may_be_a_text(digits: chain.Chain) -> None:
    for written, call in calls(digits).items():
        call()
        assert Path(written).is_file(), written
    assert Path("board").is_dir()
    (alone,) = dive.evaluate("teacher.pt")
    assert alone.path == Path("teacher.pt") and dive.open_cache("both.h5").shape == (399, 9, 10)


def test_one_text_is_one_thing_and_not_its_letters(digits: chain.Chain) -> None:
    Image.fromarray(np.zeros((8, 8, 3), np.uint8)).save("a.png")
    Path("b.png").write_bytes(Path("a.png").read_bytes())
    predicted = dive.predict(str(digits.teacher), "a.png", own="nets:small")
    assert [image.path for image in predicted.images] == [Path("a.png")]
    page = dive.write_report(str(digits.teacher), "page.html")
    assert len(page.models) == 1
    assert dive.ExportOptions(own="nets:small").own == ("nets:small",)
    assert dive.TuneOptions(taus=(1.0,)).taus == (1.0,)


def test_shards_are_merged_by_a_text(digits: chain.Chain) -> None:
    recipe = dive.load_recipe(chain.CONFIG)
    for share in ((1, 2), (2, 2)):
        dive.export_logits(recipe, dive.ExportOptions(teacher=str(digits.teacher), out="c.h5", shard=share))
    assert dive.merge_shards("c.h5").path == Path("c.h5")


def test_a_name_that_is_no_choice_is_refused_with_all_choices(digits: chain.Chain) -> None:
    for refused, told in (
        (lambda: dive.evaluate(digits.teacher, part="train"), "part must be one of test, val, not 'train'"),
        (
            lambda: dive.tune(digits.cache, dive.TuneOptions(rule="best")),
            "rule must be one of crossing, grid, not 'best'",
        ),
        (
            lambda: dive.export_model(digits.teacher, dive.ModelExportOptions("tflite", Path("t.tflite"))),
            "format must be one of pt2, onnx, not 'tflite'",
        ),
    ):
        with pytest.raises(OptionError, match=told):
            refused()
