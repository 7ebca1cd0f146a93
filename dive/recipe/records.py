"""Records of finished results: their structure, and which of them are one run at several seeds.

A record is written as `NAME.json` and, with the weights, in `NAME.pt`. A cache and a student store a part
of the record of the checkpoint that they were made from. This module does not import torch.
"""

import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from dive import structure as s
from dive.errors import RecipeError
from dive.recipe.reading import build
from dive.recipe.shots import ACCURACY, SHOTS
from dive.recipe.teachers import (
    may_be_of_one_run,
    recipe_of_run,
    run_of_teacher,
    teacher_checks,
    teachers_in,
    told_teachers,
)

FORMAT = "dive-record"
VERSION = 2  # of records, and of the checkpoints that contain them
_INPUT: dict[str, s.Check] = {
    "size": s.or_none(s.whole(1)),
    "mean": s.list_of(s.number()),
    "std": s.list_of(s.number()),
}


EPOCH: dict[str, s.Check] = {
    "epoch": s.whole(1),
    "loss": s.number(),
    "lr": s.number(),
    "seconds": s.number(0),
    "train_accuracy": s.share,
}
OF_SOME_EPOCHS: dict[str, s.Check] = {
    "test_accuracy": s.share,
    "val_accuracy": s.share,
    "image_wait": s.number(0),
}


def _worlds(value: Any) -> str | None:
    """The check for pairs of an epoch and the number of processes from that epoch on."""
    pairs = isinstance(value, list) and value and all(isinstance(e, list) and len(e) == 2 for e in value)
    whole = s.whole(1)
    if not pairs or any(whole(number) for entry in value for number in entry) or value[0][0] != 1:
        return "pairs of an epoch and a number of processes"
    epochs = [epoch for epoch, _ in value]
    return None if epochs == sorted(set(epochs)) else "epochs that increase"


WORLDS: s.Check = _worlds
_FINISHED: dict[str, s.Check] = {
    "kind": s.one_of("teacher", "student"),
    "loss": s.one_of("bsce", "ce", "dive"),
    "recipe": s.mapping,
    "seed": s.whole(),
    "architecture/name": s.text,
    "architecture/classes": s.whole(1),
    "architecture/channels": s.whole(1),
    "architecture/input": s.record_of(_INPUT),
    "architecture/parameters": s.whole(1),
    "classes": s.list_of(s.text),
    "class_counts": s.list_of(s.whole()),
    "data_fingerprint": s.text,
    "fingerprint_version": s.whole(1),
    "weights_hash": s.text,
    "accuracy": s.record_of(ACCURACY),
    "per_class": s.list_of(s.or_none(s.share)),
    "train_accuracy": s.share,
    "epochs": s.whole(),
    "seconds": s.number(0),
    "device": s.text,
    "precision": s.text,
    "threads": s.whole(),
    "versions": s.mapping,
}
_STUDENT: dict[str, s.Check] = {
    "cache_hash": s.text,
    "free_views": s.truth,
}
_TAUGHT_BY_SEVERAL: dict[str, s.Check] = {"teacher_weights": s.list_of(s.share)}
_OF_SOME: dict[str, s.Check] = {  # some records, such as those of earlier versions, lack these
    "trained_together": s.whole(1),
    "worlds": WORLDS,  # if several processes trained it
    "batch_norm": s.truth,
    "producer": s.text,
    "cache/views": s.text,
    "cache/view_seed": s.whole(),
    "cache/store": s.text,
    "cache/precision": s.text,
    "fixed_view": s.truth,
    "initial_weights": s.text,
    "digests": s.one_of("pixels", "files"),
    "val_accuracy": s.record_of(ACCURACY),
    "teacher/val_accuracy": s.record_of(ACCURACY),
    "teacher/initial_weights": s.text,
    "group_confusion": s.record_of(dict.fromkeys(SHOTS, s.record_of(dict.fromkeys(SHOTS, s.whole())))),
}

# Keys in which two seeds of one run may differ: the seed and what follows from it, machine, time and code.
_OF_EACH_SEED = ("seed", "weights_hash", "cache_hash")
_OF_EACH_RESULT = ("accuracy", "val_accuracy", "per_class", "group_confusion", "train_accuracy")
_OF_EACH_MACHINE = ("seconds", "device", "threads", "trained_together", "versions")
_OF_EACH_CODE = ("format", "version", "upgraded_from", "producer", "data_fingerprint", "fingerprint_version")

Item = TypeVar("Item")


def fault_of(record: Mapping[str, Any]) -> str:
    """The first fault of a finished result's record in a few words; an empty string if it has none."""
    student = record.get("kind") == "student"
    more = _STUDENT | teacher_checks(record) if student else {}
    more = more | _TAUGHT_BY_SEVERAL if "teachers" in more else more
    if fault := s.fault_of(record, _FINISHED | more, _OF_SOME):
        return fault
    try:
        build(record["recipe"], where="its recipe")
    except RecipeError as error:
        return str(error)
    for lists in (("classes", "class_counts", "per_class"), ("teachers", "teacher_weights")):
        lengths = {key: len(record[key]) for key in lists if key in record}
        if len(set(lengths.values())) > 1:
            return f"its lists differ in length: {lengths}"
    return ""


def of_one_run(items: Iterable[Item], record_of: Callable[[Item], Mapping[str, Any]]) -> list[list[Item]]:
    """Items in groups whose records are one run at distinct seeds, in the order given.

    Records are of one run if they are equal in everything but the seed, the teacher's seed and weights, the
    cache's hash, accuracies, times, machine and version of the code. The data's fingerprint, the teacher's
    recipe and the precision of the export must be equal too, as far as both records state them and the
    versions can be compared. With batch norm, the numbers of processes must be equal as well.

    A record that repeats the seed and weights of another one is left out. Another run of a seed that a group
    has already starts a group of its own.
    """
    groups: dict[str, list[dict[int, Item]]] = {}
    seen = set()

    def is_of(record: Mapping[str, Any], group: Mapping[int, Item]) -> bool:
        members = [record_of(member) for member in group.values()]
        return all(_alike(record, one) and _same_export(record, one) for one in members)

    for item in items:
        record = record_of(item)
        seed, run = record["seed"], _run_of(record)
        if (run, seed, record["weights_hash"]) in seen:
            continue
        seen.add((run, seed, record["weights_hash"]))
        of_run = groups.setdefault(run, [])
        place = next((group for group in of_run if seed not in group and is_of(record, group)), None)
        if place is None:
            of_run.append(place := {})
        place[seed] = item
    return [list(group.values()) for of_run in groups.values() for group in of_run]


def precisions_told(record: Mapping[str, Any]) -> str:
    """The precision of a finished result, and those of its teachers and its cache if they differ.

    >>> fp32 = {"precision": "fp32"}
    >>> precisions_told({"precision": "bf16", "teacher": fp32, "cache": fp32})
    'bf16 (teacher in fp32, cache in fp32)'
    """
    own = record["precision"]
    others = [one["precision"] for one in _taught_by(record) if "precision" in one]
    export = record.get("cache", {}).get("precision", own)
    told = [] if set(others) <= {own} else [f"teacher{'s' * (len(others) > 1)} in {', '.join(others)}"]
    told += [f"cache in {export}"] if export not in (own, "imported") else []
    return f"{own} ({', '.join(told)})" if told else own


def alike_but_for_precision(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records would be of one run if they and their teachers had the same precisions."""
    first, second = (_run_of(_without_precisions(record)) for record in (one, other))
    return first == second and _alike(one, other)


def _without_precisions(record: Mapping[str, Any]) -> dict[str, Any]:
    """A record without precisions, neither its own nor its teachers'."""
    teachers = [{k: v for k, v in one.items() if k != "precision"} for one in _taught_by(record)]
    return {**record, **(told_teachers(teachers) if teachers else {}), "precision": ""}


def _taught_by(record: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """The teachers that a record names; empty for the record of a teacher."""
    return [one for one in teachers_in(record) if one]


def _same_data(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records may be of the same data; fingerprints of different versions are not compared."""
    version, fingerprint = "fingerprint_version", "data_fingerprint"
    return one[version] != other[version] or one[fingerprint] == other[fingerprint]


def _alike(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two records may be of one run, by the data and the teachers that both state."""
    pairs = zip(_taught_by(one), _taught_by(other), strict=False)
    return _same_data(one, other) and all(may_be_of_one_run(mine, theirs) for mine, theirs in pairs)


def _same_export(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two students' caches may be of one precision; true if a record does not state it."""
    told = [record.get("cache", {}).get("precision") for record in (one, other)]
    return None in told or told[0] == told[1]


def _run_of(record: Mapping[str, Any]) -> str:
    """What a record has in common with the other seeds of its run, as a string to compare.

    Recipes are completed first. A recipe of an earlier version lacks keys that were added later; their
    defaults are what that version did.
    """
    left_out = {*_OF_EACH_SEED, *_OF_EACH_RESULT, *_OF_EACH_MACHINE, *_OF_EACH_CODE}
    if "cache" not in record:
        left_out.discard("cache_hash")  # nothing else in this record states what the cache stores
    common = {key: value for key, value in record.items() if key not in left_out}
    if not common.pop("batch_norm", False):
        common.pop("worlds", None)  # without batch norm, the number of processes only changes rounding
    common["recipe"] = recipe_of_run(record["recipe"])
    if "cache" in common:
        common["cache"] = {key: value for key, value in common["cache"].items() if key != "precision"}
    if teachers := _taught_by(record):
        common |= told_teachers([run_of_teacher(teacher) for teacher in teachers])
    return json.dumps(common, sort_keys=True)
