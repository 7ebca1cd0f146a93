"""Records: which results are one run at other seeds, and how a record read from a file must look."""

import copy
import json
from pathlib import Path
from typing import Any

import chain
import forging
import pytest

from dive.recipe.documents import differences, merge
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.recipe import Digits, Folder
from dive.recipe.records import VERSION, fault_of, of_one_run
from dive.recipe.teachers import teachers_name, teachers_of
from dive.training.evaluation import Accuracy
from dive.workflows.evaluate import across_seeds
from dive.workflows.results import Result
from reproduction import complete_records
from reproduction.records import rows_of

WORDS = ("student", *chain.DIGITS, "--epochs", 1)


@pytest.fixture(scope="module")
def record(digits, tmp_path_factory) -> dict[str, Any]:
    """A student's record, as a run wrote it."""
    path = tmp_path_factory.mktemp("record") / "s.pt"
    chain.succeed(*WORDS, "--cache", digits.cache, "--out", path)
    return json.loads(path.with_suffix(".json").read_text())


def changed(record: dict[str, Any], path: str, value: object, seed: int = 1) -> dict[str, Any]:
    """The record of another seed, another value at a path."""
    other = copy.deepcopy(record)
    other["seed"] = other["recipe"]["seed"] = seed
    other["weights_hash"] = f"{path} {value} {seed}"
    *outer, name = path.split("/")
    place = other
    for key in outer:
        place = place[key]
    place[name] = value
    return other


def counts(*records: dict[str, Any]) -> list[int]:
    """How many seeds there are of each run, largest first; also as `dive eval` and RESULTS.md count them."""
    groups = sorted((len(group) for group in of_one_run(records, lambda one: one)), reverse=True)
    accuracy = Accuracy(None, None, 0.5, 0.5, 0.5, ())
    results = [Result(Path("s.pt"), one, accuracy) for one in records]
    assert sorted((run.count for run in across_seeds(results)), reverse=True) == [n for n in groups if n > 1]
    assert sorted((len(row.records) for row in rows_of(records)), reverse=True) == groups
    return groups


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache/views", "clean"),
        ("cache/views", "9"),
        ("cache/view_seed", 1),
        ("cache/store", "float32"),
        ("fixed_view", True),
        ("free_views", True),
        ("loss", "bsce"),
        ("kind", "teacher"),
        ("precision", "bf16"),
        ("data_fingerprint", "another"),
        ("class_counts", [1] * 10),
        ("architecture/channels", 3),
        ("recipe/optimizer/lr", 0.2),
        ("recipe/views/seed", 1),
        ("recipe/distillation/tau", 9.0),
        ("teacher/loss", "ce"),
        ("teacher/epochs", 200),
        ("teacher/precision", "bf16"),
        ("teacher/recipe/schedule/epochs", 7),
        ("teacher/recipe/model/name", "resnet14"),
        ("teacher/recipe/optimizer/weight_decay", 0.1),
        ("teacher/recipe/teacher/label_smoothing", 0.3),
        ("teacher/recipe/data/imbalance", 20),
        ("teacher/recipe/views/pad", 2),
        ("cache/precision", "bf16"),
    ],
)
def test_what_differs_in_more_than_the_seed_is_another_run(record, path, value):
    assert counts(record, changed(record, path, value)) == [1, 1]
    assert counts(changed(record, path, value, 1), changed(record, path, value, 2)) == [2]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache_hash", "another"),
        ("teacher/seed", 5),
        ("teacher/accuracy", {"all": 0.1}),
        ("accuracy", {"all": 0.1}),
        ("seconds", 1e6),
        ("device", "another machine"),
        ("threads", 64),
        ("versions", {"torch": "9"}),
        ("trained_together", 9),
        ("recipe/precision", "auto"),
    ],
)
def test_seeds_may_differ_in_what_follows_from_them_in_place_time_machine_and_code(record, path, value):
    assert counts(record, changed(record, path, value)) == [2]


def test_what_an_earlier_version_did_not_tell_keeps_no_seeds_apart(record):
    """Of a teacher's recipe it told three parts, of a cache not what it was computed in."""
    earlier = copy.deepcopy(record)
    whole = earlier["teacher"]["recipe"]
    assert whole["model"]["name"] == "resnet8" and "seed" not in whole and "root" not in whole["data"]
    earlier["teacher"]["recipe"] = {key: whole[key] for key in ("name", "schedule", "distillation")}
    del earlier["cache"]["precision"]
    assert fault_of(earlier) == ""
    assert counts(earlier, changed(record, "seconds", 1)) == [2]
    other = changed(record, "teacher/recipe/model/name", "resnet14", 2)
    assert counts(earlier, changed(record, "seconds", 1), other) == [2, 1]


def test_students_of_two_imported_files_are_two_runs(record):
    told = {"kind": "imported", "file": "logits", "prior": "none", "logits_hash": "a"}
    imported = record | {"teacher": told}
    assert counts(imported, changed(imported, "seconds", 1)) == [2]
    assert counts(imported, changed(imported, "teacher/logits_hash", "b")) == [1, 1]
    without = {key: value for key, value in told.items() if key != "logits_hash"}
    assert counts(imported, changed(imported, "teacher", without)) == [2]


def by_several(record: dict[str, Any], worlds: object, batch_norm: bool, seed: int) -> dict[str, Any]:
    """The record as if several processes had trained it."""
    return changed(record, "worlds", worlds, seed) | {"batch_norm": batch_norm}


def test_with_batch_norm_seeds_are_one_run_only_where_as_many_processes_trained_from_the_same_epochs(record):
    two, four = [[1, 2]], [[1, 4]]
    assert counts(by_several(record, four, True, 1), by_several(record, four, True, 2)) == [2]
    assert counts(by_several(record, four, True, 1), by_several(record, two, True, 2)) == [1, 1]
    assert counts(by_several(record, four, True, 1), by_several(record, [[1, 4], [2, 2]], True, 2)) == [1, 1]
    assert counts(record, by_several(record, two, True, 1)) == [1, 1]
    assert counts(record, by_several(record, two, False, 1), by_several(record, four, False, 2)) == [3]


@pytest.mark.parametrize(
    "worlds", [[], [1, 4], [[1]], [[2, 4]], [[1, 0]], [[1, 4], [1, 2]], [[3, 2], [1, 4]], [[1, "4"]], "1"]
)
def test_malformed_worlds_are_a_fault(record, worlds):
    assert fault_of(record | {"worlds": [[1, 4], [31, 2]], "batch_norm": True}) == ""
    assert fault_of(record | {"worlds": worlds}).startswith("its worlds is ")


def of_an_ensemble(record: dict[str, Any]) -> dict[str, Any]:
    """The record as if two teachers had taught the student."""
    other = copy.deepcopy(record)
    teacher = other.pop("teacher")
    return other | {"teachers": [teacher, teacher | {"seed": 7}], "teacher_weights": [0.5, 0.5]}


def test_students_of_ensembles_are_one_run_where_kinds_and_weights_of_their_teachers_are_equal(record):
    ensemble = of_an_ensemble(record)
    assert fault_of(ensemble) == ""
    seeds = [one | {"seed": 9} for one in ensemble["teachers"]]
    assert counts(ensemble, changed(ensemble, "teachers", seeds)) == [2]
    assert counts(ensemble, changed(ensemble, "teacher_weights", [0.6, 0.4])) == [1, 1]
    others = [ensemble["teachers"][0] | {"loss": "ce"}, ensemble["teachers"][1]]
    assert counts(ensemble, changed(ensemble, "teachers", others)) == [1, 1]
    assert counts(record, changed(ensemble, "seed", 1)) == [1, 1]


def test_the_name_of_an_ensemble_counts_teachers_of_a_kind():
    losses = ("bsce", "ce", "bsce")
    several = [{"kind": "teacher", "loss": loss} for loss in losses]
    assert teachers_name(several[:1]) == "teacher (bsce)"
    assert teachers_name(several) == "ensemble of 3: teacher (bsce) ×2, teacher (ce)"
    parts = {"tau": 3, "power": 1, "weight": 1, "student_tau": None}
    students = [{"kind": "student", "recipe": {"distillation": parts | {"tau": tau}}} for tau in (1, 2, 3, 4)]
    assert teachers_name(students).startswith("ensemble of 4: student (τ=1, p=1, w=1), ")
    assert teachers_name(students).endswith("student (τ=3, p=1, w=1), …")


def test_teachers_that_are_not_told_in_full_are_none(record):
    assert teachers_of(record) == [record["teacher"]]
    assert len(teachers_of(of_an_ensemble(record))) == 2
    assert teachers_of({"teachers": [record["teacher"]]}) == teachers_of({}) == teachers_of(None) == []


def test_entries_of_lists_differ_one_by_one_where_there_are_as_many():
    before = {"teachers": [{"seed": 0, "loss": "ce"}, {"seed": 1, "loss": "ce"}]}
    after = {"teachers": [{"seed": 0, "loss": "ce"}, {"seed": 2, "loss": "ce"}]}
    assert differences(before, after) == ["teachers.2.seed: 1, now 2"]
    assert len(differences(before, {"teachers": before["teachers"][:1]})) == 1
    assert differences({"mean": [0.1, 0.2]}, {"mean": [0.1, 0.3]}) == ["mean: [0.1, 0.2], now [0.1, 0.3]"]


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"teachers": []}, "its teachers is [], not a list of two teachers or more"),
        ({"teachers": [{}, {}]}, "not a list in which each item is"),
        ({"teacher_weights": [1.0]}, "its lists differ in length: {'teachers': 2, 'teacher_weights': 1}"),
        ({"teacher_weights": ["a", 1]}, "its teacher_weights is"),
    ],
)
def test_a_record_whose_ensemble_is_malformed_is_found(record, change, fault):
    assert fault in fault_of(of_an_ensemble(record) | change)


def test_seeds_may_differ_in_where_their_images_lie(record):
    here = copy.deepcopy(record)
    here["recipe"]["data"] = {"kind": "folder", "root": "here", "imbalance": None, "seed": 0}
    here["recipe"]["model"]["input"] |= {"mean": [0.5] * 3, "std": [0.5] * 3}
    assert fault_of(here) == ""
    assert counts(here, changed(here, "recipe/data/root", "elsewhere")) == [2]
    assert counts(here, changed(here, "recipe/data/seed", 1)) == [1, 1]


def test_a_fingerprint_that_another_version_took_tells_nothing_of_the_data(record):
    older = changed(record, "fingerprint_version", 1, 1)
    older["data_fingerprint"] = "over pixels"
    assert counts(record, older) == [2]
    other = changed(older, "data_fingerprint", "over other pixels", 2)
    assert counts(record, older, other) == [2, 1]
    assert counts(older, other) == [1, 1]


def test_a_copy_of_a_record_with_another_cache_hash_does_not_count_as_a_second_seed(record):
    copied = copy.deepcopy(record) | {"cache_hash": "another"}
    assert counts(record, copied) == [1]
    assert counts(record, copied, changed(record, "seconds", 1)) == [2]


def test_another_run_of_the_same_seed_does_not_count_as_a_second_seed(record):
    again = changed(record, "teacher/seed", 5, seed=0)
    assert counts(record, again) == [1, 1]
    assert counts(record, again, changed(record, "seconds", 1)) == [2, 1]


def test_a_recipe_of_an_earlier_version_is_the_one_it_stands_for(record):
    older = changed(record, "seconds", 1)
    for key in ("iterations", "warmup_iterations", "warmup_from", "decay"):
        del older["recipe"]["schedule"][key], older["teacher"]["recipe"]["schedule"][key]
    assert counts(record, older) == [2]


def test_students_that_do_not_say_what_their_caches_store_are_one_run_only_of_one_cache(record):
    older = [changed(record, "seconds", 1, seed) for seed in (0, 1, 2)]
    for one in older:
        del one["cache"], one["fixed_view"]
    older[2]["cache_hash"] = "another"
    assert counts(*older) == [2, 1]


def test_a_run_that_differs_in_the_choice_of_views_is_not_resumed(digits, monkeypatch):
    chain.succeed(*WORDS, "--cache", digits.clean_cache, "--fixed-view", "--out", "s.pt")
    assert json.loads(Path("s.json").read_text())["fixed_view"] is True
    chain.succeed(*WORDS, "--cache", digits.clean_cache, "--free-views", "--out", "f.pt")
    records = [json.loads(Path(name).read_text()) for name in ("s.json", "f.json")]
    assert [one["cache"]["views"] for one in records] == ["clean", "clean"]
    assert counts(records[0], changed(records[1], "seconds", 1)) == [1, 1]


def test_older_records_are_completed_from_what_is_known_of_their_caches(record):
    older = {key: value for key, value in record.items() if key not in ("cache", "fixed_view")}
    known = {key: value for key, value in record["cache"].items() if key != "precision"}
    assert complete_records.completed(older) == record | {"cache": known | {"views": "all"}}
    assert list(complete_records.completed(older)) == list(record)
    free = complete_records.completed(older | {"free_views": True})
    assert free["cache"] == {"views": "clean", "view_seed": 0, "store": "float16"}


def test_every_kept_record_is_whole_and_says_what_its_cache_stores(repository):
    found = [json.loads(path.read_text()) for path in (repository / "results").glob("*/*.json")]
    kept = [document for document in found if document.get("kind") in ("teacher", "student")]
    assert len(kept) >= 6
    for document in kept:
        record = upgraded(document)
        assert fault_of(record) == "" and ("cache" in record) == (record["kind"] == "student")
        assert record["version"] == VERSION
        for key in ("accuracy", "per_class", "class_counts", "seed", "epochs", "teacher", "versions"):
            assert record.get(key) == document.get(key)
        if document.get("version", 1) > 1:  # which has the keys of this version, but for those added since
            whole = build(record["recipe"]).as_dict()
            assert merge(whole, document["recipe"]) == whole
            continue
        assert record["fingerprint_version"] == 1
        for old in ("weights hash", "data fingerprint", "cache hash", "free views", "fixed view"):
            assert record.get(old.replace(" ", "_")) == document.get(old) and old not in record
        told = build(record["recipe"]).as_dict()
        then = document["recipe"]
        assert told["data"] == {
            "kind": then["data"]["source"],
            "root": then["data"]["path"],
            "imbalance": then["data"]["imbalance"],
            "seed": then["data"]["seed"],
        }
        assert told["model"]["input"] == {
            "size": None,
            "mean": then["data"]["mean"],
            "std": then["data"]["std"],
        }
        assert told["views"] == then["views"] | {"size": None}
        for section in ("optimizer", "schedule", "teacher", "distillation"):
            assert told[section].items() >= then[section].items()


def old_recipe(data: dict[str, Any], views: dict[str, Any] | None = None) -> dict[str, Any]:
    """A recipe as dive 0.1.0 recorded it."""
    return {
        "name": "old",
        "seed": 4,
        "precision": "auto",
        "data": data,
        "views": views or {"kind": "crop_flip", "pad": 1, "flip": False, "seed": 0},
        "model": {"name": "resnet8"},
        "optimizer": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.0002},
        "schedule": {"epochs": 60, "batch_size": 32, "warmup_epochs": 2, "milestones": [36], "gamma": 0.01},
        "teacher": {"loss": "bsce"},
        "distillation": {"tau": 3.0, "power": 0.5, "student_tau": None, "weight": 0.5},
    }


def old_record(recipe: dict[str, Any], channels: int, **more: Any) -> dict[str, Any]:
    """A teacher's record as dive 0.1.0 wrote it: keys with spaces, no version."""
    figures = {"many": None, "medium": 0.5, "few": None, "all": 0.5, "class_mean": 0.5}
    return {
        "kind": "teacher",
        "loss": "bsce",
        **more,
        "recipe": recipe,
        "seed": 4,
        "architecture": {"name": "resnet8", "classes": 2, "channels": channels, "parameters": 75_000},
        "classes": ["a b", "c"],
        "class_counts": [30, 20],
        "data fingerprint": "f" * 64,
        "weights hash": "e" * 64,
        "accuracy": figures,
        "per_class": [0.25, 0.75],
        "train_accuracy": 0.75,
        "epochs": 60,
        "seconds": 1.5,
        "device": "CPU, 2 threads",
        "precision": "bf16",
        "threads": 2,
        "versions": {"dive": "0.1.0"},
    }


GREY = {"mean": [0.3063], "std": [0.3753]}
COLOUR = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3]}
DIGITS = {"source": "digits", "path": "data", "imbalance": 50.0, "seed": 2, "size": None, **GREY}
PHOTOS = {"source": "folder", "path": "my images", "imbalance": None, "seed": 0, "size": None, **COLOUR}


def test_a_record_of_digits_of_dive_0_1_reads_as_this_version_would_have_written_it():
    old = old_record(old_recipe(DIGITS), channels=1)
    before = copy.deepcopy(old)
    found = upgraded(old)
    assert old == before
    assert fault_of(found) == "" and found["version"] == VERSION and found["fingerprint_version"] == 1
    assert (found["data_fingerprint"], found["weights_hash"]) == ("f" * 64, "e" * 64)
    assert not [key for key in found if " " in key]
    assert found["recipe"]["data"] == {"kind": "digits", "imbalance": 50.0, "seed": 2}
    assert found["recipe"]["views"] == {"kind": "crop_flip", "pad": 1, "flip": False, "seed": 0, "size": None}
    assert found["recipe"]["model"] == {"name": "resnet8", "input": GREY}
    assert build(found["recipe"]).data == Digits(imbalance=50.0, seed=2)
    assert found["architecture"] == {
        "name": "resnet8",
        "classes": 2,
        "channels": 1,
        "parameters": 75_000,
        "input": {"size": None, **GREY},
    }
    for key in ("kind", "seed", "classes", "class_counts", "accuracy", "per_class", "seconds", "versions"):
        assert found[key] == old[key]


@pytest.mark.parametrize(("size", "brought"), [(None, 32), (48, 48)])
def test_a_folder_of_dive_0_1_was_brought_to_32_pixels_unless_it_says_otherwise(size, brought):
    found = upgraded(old_record(old_recipe(PHOTOS | {"size": size}), channels=3))
    assert fault_of(found) == ""
    recipe = build(found["recipe"])
    assert recipe.data == Folder(root="my images", imbalance=None, seed=0)
    assert recipe.views.size == brought and recipe.model.input.size is None
    assert (list(recipe.model.input.mean), list(recipe.model.input.std)) == tuple(COLOUR.values())
    assert found["architecture"]["input"] == {"size": None, **COLOUR}


@pytest.mark.parametrize("source", ["cifar100", "cifar10"])
def test_cifar_of_dive_0_1_was_taken_as_it_is(source):
    views = {"kind": "autoaugment", "pad": 4, "flip": True, "seed": 1}
    data = PHOTOS | {"source": source, "imbalance": 10.0}
    recipe = build(upgraded(old_record(old_recipe(data, views), channels=3))["recipe"])
    assert (recipe.data.kind, recipe.data.root, recipe.data.imbalance) == (source, "my images", 10.0)
    assert (recipe.views.kind, recipe.views.size, recipe.views.seed) == ("autoaugment", None, 1)


def old_student() -> dict[str, Any]:
    """A student's record as dive 0.1.0 wrote it."""
    teacher = old_record(old_recipe(DIGITS), channels=1)
    kept = {key: teacher[key] for key in ("kind", "loss", "seed", "epochs", "accuracy", "precision")}
    parts = {key: teacher["recipe"][key] for key in ("name", "schedule", "distillation")}
    return old_record(
        old_recipe(DIGITS),
        channels=1,
        **{
            "kind": "student",
            "loss": "dive",
            "cache hash": "c" * 64,
            "cache": {"views": "4", "view seed": 3, "dtype": "float16"},
            "teacher": {**kept, "recipe": parts},
            "free views": False,
            "fixed view": True,
            "trained together": 2,
        },
    )


def test_a_student_of_dive_0_1_reads_as_this_version_would_have_written_it():
    old = old_student()
    found = upgraded(old)
    assert fault_of(found) == "" and not [key for key in found if " " in key]
    assert found["cache"] == {"views": "4", "view_seed": 3, "store": "float16"}
    assert (found["cache_hash"], found["free_views"], found["fixed_view"]) == ("c" * 64, False, True)
    assert found["trained_together"] == 2 and found["teacher"] == old["teacher"]


def test_seeds_of_two_versions_are_one_run():
    old = upgraded(old_student())
    new = copy.deepcopy(old) | {"fingerprint_version": 2, "data_fingerprint": "d" * 64, "version": VERSION}
    assert counts(old, changed(new, "seconds", 1)) == [2]
    assert counts(old, changed(new, "recipe/optimizer/lr", 0.2)) == [1, 1]


def test_a_record_of_this_version_is_left_as_it_is(record):
    assert upgraded(record) == record
    once = upgraded(old_student())
    assert upgraded(once) == once


@pytest.mark.parametrize("old", [old_student(), old_record(old_recipe(PHOTOS), channels=3)], ids=["s", "t"])
def test_a_malformed_record_of_dive_0_1_is_found_at_fault_and_not_a_crash(old):
    for seed in range(5):
        for path, forged in forging.forgeries(old, 40, seed):
            assert isinstance(fault_of(upgraded(forged)), str), path
    for part in ("data", "views", "model"):
        for wrong in ([], None, 3, "x", {}):
            recipe = {**old["recipe"], part: wrong}
            found = upgraded({**old, "recipe": recipe})
            assert isinstance(fault_of(found), str)
    for wrong in ([], None, 3, "x", {}):
        assert fault_of(upgraded({**old, "recipe": wrong})) != ""
        assert fault_of(upgraded({**old, "architecture": wrong})) != ""
