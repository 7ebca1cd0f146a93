"""Results of dive 0.1.0 are used as they are; its states and caches are refused with what to do."""

import json
import math
import shutil
from pathlib import Path

import caches
import chain
import earlier
import numpy as np
import pytest
import torch

from dive.cache.reader import LogitCache
from dive.data.sources.registry import open_source
from dive.models import checkpoint
from dive.training import loop

OUT = Path("out.h5")
GRID = ("--tau", 3, "--seed", 0, 1, "--epochs", 3)
NAMES = ["student-t3-p0.5-w0.5-s0.pt", "student-t3-p0.5-w0.5-s1.pt"]


@pytest.fixture(scope="module")
def old_fingerprint(digits) -> str:
    """The fingerprint that dive 0.1.0 took of the digits' draw."""
    cache, train = LogitCache(digits.cache), open_source("digits").train
    place = {key: position for position, key in enumerate(train.keys)}
    images = [train.read(place[key]) for key in cache.keys]
    return earlier.fingerprint(list(cache.classes), cache.keys, cache.labels.tolist(), images)


@pytest.fixture
def teacher(digits, old_fingerprint) -> Path:
    """The digits' teacher as dive 0.1.0 would have written it."""
    return earlier.write(Path("old.pt"), digits.teacher, old_fingerprint)


def export(teacher: Path, *options: object) -> chain.Outcome:
    return chain.dive("export-logits", *chain.DIGITS, "--teacher", teacher, "--out", OUT, *options)


@pytest.mark.parametrize("name", ["teacher", "student"])
def test_what_the_tests_call_version_1_is_what_dive_0_1_0_wrote(repository, digits, name):
    """The keys of kept records, but for those that only some records have."""
    kept = json.loads((repository / "results" / "cifar100_lt_bbn" / f"{name}.json").read_text())
    written = json.loads(getattr(digits, name).with_suffix(".json").read_text())
    made = earlier.record(written, "")
    assert set(made) - set(kept) <= {"trained together"} and set(kept) <= set(made)
    for part in ("data", "views", "model", "optimizer", "teacher", "distillation"):
        assert made["recipe"][part].keys() == kept["recipe"][part].keys(), part
    assert made["architecture"].keys() == kept["architecture"].keys()
    assert made.get("cache", {}).keys() == kept.get("cache", {}).keys()


def test_a_checkpoint_of_version_1_is_exported_as_the_one_it_is(digits, teacher):
    assert torch.load(teacher, weights_only=True)["version"] == 1
    assert export(teacher).code == 0
    found, expected = LogitCache(OUT), LogitCache(digits.cache)
    assert found.identity == expected.identity and found.facts == expected.facts
    np.testing.assert_array_equal(found.whole(), expected.whole())
    sampled = ("verify", OUT, "--sample", 50, "--teacher", teacher, "--json", "--quiet")
    assert chain.succeed(*sampled).document["sampled"]["agreement"] == 1
    chain.succeed("student", *chain.DIGITS, "--epochs", 3, "--cache", OUT, "--out", "s.pt")
    hashes = [checkpoint.load(path)["weights_hash"] for path in (Path("s.pt"), digits.student)]
    assert hashes[0] == hashes[1]


@pytest.mark.parametrize("assignment", ["data.seed=1", "data.imbalance=20"])
def test_a_checkpoint_of_version_1_is_not_exported_over_another_draw(teacher, assignment):
    before = chain.files_under()
    complaint = export(teacher, "--set", assignment).complaint
    assert "old.pt was trained on other images than the recipe draws" in complaint
    assert chain.files_under() == before


def test_a_checkpoint_of_version_1_of_other_pixels_is_not_exported(digits, old_fingerprint):
    other = earlier.write(Path("other.pt"), digits.teacher, old_fingerprint[::-1])
    complaint = export(other).complaint
    told = f"data fingerprint {old_fingerprint[::-1][:12]}, here {old_fingerprint[:12]}"
    assert "other.pt was trained on other images" in complaint and told in complaint


def test_a_checkpoint_of_version_1_is_evaluated_beside_one_of_this_version(digits, teacher):
    document = chain.succeed("eval", teacher, digits.student, "--json", "--quiet").document
    expected = chain.succeed("eval", digits.teacher, digits.student, "--json", "--quiet").document
    for one in (document, expected):
        del one["checkpoints"][0]["path"]
    assert document == expected


def test_seeds_of_both_versions_are_summed_up(digits, teacher):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--seed", 1, "--out", "new.pt")
    (run,) = chain.succeed("eval", teacher, "new.pt", "--json", "--quiet").document["over_seeds"]
    assert run["seeds"] == 2


def grid(cache: Path, *arguments: object) -> chain.Outcome:
    words = ("student", *chain.DIGITS[:-1], *GRID, "--cache", cache, "--out", "student.pt")
    return chain.dive(*words, *arguments)


def test_a_finished_student_of_version_1_is_kept_by_the_grid_it_is_of(digits, old_fingerprint):
    earlier.write(Path(NAMES[0]), digits.student, old_fingerprint)
    before = Path(NAMES[0]).read_bytes()
    outcome = grid(digits.cache, "--json")
    assert outcome.code == 0 and f"{NAMES[0]} is finished already" in outcome.err
    assert Path(NAMES[0]).read_bytes() == before
    first, second = outcome.document["students"]
    assert [first["checkpoint"], second["checkpoint"]] == NAMES
    assert first["accuracy"] == json.loads(digits.student.with_suffix(".json").read_text())["accuracy"]
    assert checkpoint.load(Path(NAMES[1]))["version"] == 2


def other_images(digits, old_fingerprint: str) -> str:
    earlier.write(Path(NAMES[0]), digits.student, old_fingerprint[::-1])
    return "data_fingerprint: "


def other_recipe(digits, old_fingerprint: str) -> str:
    document = earlier.record(torch.load(digits.student, weights_only=True), old_fingerprint)
    document["recipe"]["data"] |= {"mean": [0.4]}
    earlier.save(Path(NAMES[0]), document)
    return "recipe.model.input.mean: [0.4], now [0.3063]"


def other_cache(digits, old_fingerprint: str) -> str:
    document = earlier.record(torch.load(digits.student, weights_only=True), old_fingerprint)
    earlier.save(Path(NAMES[0]), document | {"cache hash": "of a cache of version 2"})
    return "cache_hash: of a cache of version 2, now "


@pytest.mark.parametrize("change", [other_images, other_recipe, other_cache])
def test_a_finished_student_of_version_1_that_is_of_something_else_stops_the_grid(
    digits, old_fingerprint, change
):
    named = change(digits, old_fingerprint)
    before = chain.files_under()
    complaint = grid(digits.cache, "--quiet").complaint
    assert f"{NAMES[0]} exists already and is of another recipe" in complaint and named in complaint
    assert "--force to replace it" in complaint
    assert chain.files_under() == before


def test_a_state_of_version_1_is_refused_with_what_to_do_and_left_as_it_is(monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)
    words = ("teacher", *chain.DIGITS, "--epochs", 3, "--out", "run.pt")
    with chain.stopped_at(20):
        assert chain.dive(*words).code == 130
    earlier.save(Path("run.state"), torch.load("run.state", weights_only=True))
    before = chain.files_under()
    complaint = chain.dive(*words).complaint
    assert complaint == (
        "dive: the unfinished run cannot be resumed: run.state is the state of a run of another version of "
        "dive (1); --force starts over"
    )
    assert "another version of dive (1)" in chain.dive("inspect", "run.state").complaint
    assert chain.files_under() == before
    chain.succeed(*words, "--force")
    assert not Path("run.state").exists()


def test_an_unfinished_export_of_an_earlier_identity_is_refused_with_what_to_do(digits):
    """What an export of dive 0.1.0 left, whose identity has other keys."""
    shutil.copy(digits.teacher, "t.pt")
    logits = caches.random_logits(399, 9, 10)
    old = {"recipe": "digits_lt_bbn", "data": {"source": "digits"}, "data fingerprint": "x", "views": "all"}
    caches.write_blocks(OUT, caches.content_for(logits, identity=old), logits, [0])
    before = chain.files_under()
    complaint = export(Path("t.pt")).complaint
    assert "out.h5.part is an unfinished export of another recipe" in complaint and "--force" in complaint
    assert chain.files_under() == before
    assert export(Path("t.pt"), "--force").code == 0
    assert OUT.read_bytes() == digits.cache.read_bytes()
