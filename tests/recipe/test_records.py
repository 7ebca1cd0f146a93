"""Records: which results are one run at other seeds, and how a record read from a file must look."""

import copy
import json
from pathlib import Path
from typing import Any

import chain
import pytest

from dive.recipe.records import fault_of, of_one_run
from dive.training.evaluation import Accuracy
from dive.workflows.evaluate import across_seeds
from dive.workflows.lesson import Result
from reproduction import complete_records, report

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
    other["weights hash"] = f"{path} {value} {seed}"
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
    assert sorted((len(row.records) for row in report.rows_of(records)), reverse=True) == groups
    return groups


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache/views", "clean"),
        ("cache/views", "9"),
        ("cache/view seed", 1),
        ("cache/dtype", "float32"),
        ("fixed view", True),
        ("free views", True),
        ("loss", "bsce"),
        ("kind", "teacher"),
        ("precision", "bf16"),
        ("data fingerprint", "another"),
        ("class_counts", [1] * 10),
        ("architecture/channels", 3),
        ("recipe/optimizer/lr", 0.2),
        ("recipe/views/seed", 1),
        ("recipe/distillation/tau", 9.0),
        ("teacher/loss", "ce"),
        ("teacher/epochs", 200),
        ("teacher/precision", "bf16"),
        ("teacher/recipe/schedule/epochs", 7),
    ],
)
def test_what_differs_in_more_than_the_seed_is_another_run(record, path, value):
    assert counts(record, changed(record, path, value)) == [1, 1]
    assert counts(changed(record, path, value, 1), changed(record, path, value, 2)) == [2]


@pytest.mark.parametrize(
    ("path", "value"),
    [
        ("cache hash", "another"),
        ("teacher/seed", 5),
        ("teacher/accuracy", {"all": 0.1}),
        ("accuracy", {"all": 0.1}),
        ("seconds", 1e6),
        ("device", "another machine"),
        ("threads", 64),
        ("versions", {"torch": "9"}),
        ("trained together", 9),
        ("recipe/data/path", "elsewhere"),
        ("recipe/precision", "auto"),
    ],
)
def test_seeds_may_differ_in_what_follows_from_them_in_place_time_machine_and_code(record, path, value):
    assert counts(record, changed(record, path, value)) == [2]


def test_a_copy_of_a_record_with_another_cache_hash_does_not_count_as_a_second_seed(record):
    copied = copy.deepcopy(record) | {"cache hash": "another"}
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
        del one["cache"], one["fixed view"]
    older[2]["cache hash"] = "another"
    assert counts(*older) == [2, 1]


def test_a_run_that_differs_in_the_choice_of_views_is_not_resumed(digits, monkeypatch):
    chain.succeed(*WORDS, "--cache", digits.clean_cache, "--fixed-view", "--out", "s.pt")
    assert json.loads(Path("s.json").read_text())["fixed view"] is True
    chain.succeed(*WORDS, "--cache", digits.clean_cache, "--free-views", "--out", "f.pt")
    records = [json.loads(Path(name).read_text()) for name in ("s.json", "f.json")]
    assert [one["cache"]["views"] for one in records] == ["clean", "clean"]
    assert counts(records[0], changed(records[1], "seconds", 1)) == [1, 1]


def test_older_records_are_completed_from_what_is_known_of_their_caches(record):
    older = {key: value for key, value in record.items() if key not in ("cache", "fixed view")}
    assert complete_records.completed(older) == record | {"cache": record["cache"] | {"views": "all"}}
    assert list(complete_records.completed(older)) == list(record)
    free = complete_records.completed(older | {"free views": True})
    assert free["cache"] == {"views": "clean", "view seed": 0, "dtype": "float16"}


def test_every_kept_record_is_whole_and_says_what_its_cache_stores(repository):
    found = [json.loads(path.read_text()) for path in (repository / "results").glob("*/*.json")]
    kept = [document for document in found if document.get("kind") in ("teacher", "student")]
    assert len(kept) >= 6
    for document in kept:
        assert fault_of(document) == "" and ("cache" in document) == (document["kind"] == "student")
