"""The teachers of a cache or a student: what a document states of each, and their names.

Each teacher has a kind. One that dive trained is a `teacher` or a `student`. A `foreign` one is a network
with weights that dive did not train. An `imported` one is known only by the logits that another program
wrote. This module does not import torch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dive import structure as s
from dive.errors import RecipeError
from dive.recipe.reading import build
from dive.recipe.shots import ACCURACY

# Whether the logits of a foreign or imported teacher contain the class prior of its training images. If they
# do (`train`), a cache stores them less log n.
PRIORS = ("none", "train")
_DISTILLATION: dict[str, s.Check] = {
    **dict.fromkeys(("tau", "power", "weight"), s.number()),
    "student_tau": s.or_none(s.number()),
}
_OF_EACH_SEED = ("seed", "accuracy", "val_accuracy")  # keys in which teachers of two seeds of one run differ
_OF_THE_RECIPE = ("name", "schedule", "distillation")  # parts of a teacher's recipe that every version stores
_NAMED = 3  # most different teachers in the name of an ensemble


@dataclass(frozen=True)
class Kind:
    """A kind of teacher.

    facts: checks of what a cache, and a student's record, must state of it. identity: checks of what the
    identity of a cache must state of it. name: makes a short name from its facts.
    """

    facts: Mapping[str, s.Check]
    identity: Mapping[str, s.Check]
    name: Callable[[Mapping[str, Any]], str]


def model_name(kind: str, record: Mapping[str, Any]) -> str:
    """A short name of a checkpoint: its kind and what distinguishes it from others."""
    if kind == "teacher":
        return f"teacher ({record['loss']})"
    d = record["recipe"]["distillation"]
    own = f", student τ={d['student_tau']:g}" if d["student_tau"] not in (None, d["tau"]) else ""
    return f"student (τ={d['tau']:g}, p={d['power']:g}, w={d['weight']:g}{own})"


def _recipe_or_part(value: Any) -> str | None:
    """The check for a recipe, or some parts of one."""
    try:
        build(value if isinstance(value, Mapping) else {"not": "a mapping"})
    except RecipeError as error:
        return f"a recipe ({error})"
    return None


_TRAINED = Kind(
    facts={
        "loss": s.one_of("bsce", "ce", "dive"),
        "seed": s.whole(),
        "epochs": s.whole(),
        "accuracy": s.record_of(ACCURACY),
        "precision": s.text,
        "recipe/name": s.text,
        "recipe/schedule": s.mapping,
        "recipe/distillation": s.record_of(_DISTILLATION),
        "recipe": _recipe_or_part,
    },
    identity={"weights_hash": s.text},
    name=lambda facts: model_name(facts["kind"], facts),
)
KINDS: dict[str, Kind] = {
    "teacher": _TRAINED,
    "student": _TRAINED,
    # network: its name. initial_weights: which weights it has. prior: one of PRIORS.
    "foreign": Kind(
        facts={"network": s.text, "initial_weights": s.text, "prior": s.one_of(*PRIORS)},
        identity={"weights_hash": s.text, "prior": s.one_of(*PRIORS)},
        name=lambda facts: f"foreign ({facts['network']})",
    ),
    # file: the name of the file of the logits, without folders and suffix. logits_hash: of its content; facts
    # of earlier caches lack it.
    "imported": Kind(
        facts={"file": s.text, "prior": s.one_of(*PRIORS)},
        identity={"logits_hash": s.text, "prior": s.one_of(*PRIORS)},
        name=lambda facts: f"imported ({facts['file']})",
    ),
}


def told_teachers(teachers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The entry of a document for its teachers: `teacher` for one, `teachers` for those of an ensemble."""
    return {"teacher": teachers[0]} if len(teachers) == 1 else {"teachers": list(teachers)}


def teachers_in(document: Mapping[str, Any]) -> list[Any]:
    """The teachers that a cache's identity or facts, or a student's record, states, unchecked."""
    several = document.get("teachers")
    return several if isinstance(several, list) else [document.get("teacher")]


def _of_kind(part: Callable[[Kind], Mapping[str, s.Check]]) -> s.Check:
    """A check for a teacher of a known kind. part: selects the checks of that kind."""

    def check(value: Any) -> str | None:
        if fault := s.record_of({"kind": s.one_of(*KINDS)})(value):
            return fault
        return s.record_of(dict(part(KINDS[value["kind"]])))(value)

    return check


def _checks(document: Mapping[str, Any], check: s.Check) -> dict[str, s.Check]:
    if "teachers" not in document:
        return {"teacher": check}

    def several(value: Any) -> str | None:
        if not isinstance(value, list) or len(value) < 2:
            return "a list of two teachers or more"
        return s.list_of(check)(value)

    return {"teachers": several}


def teacher_checks(document: Mapping[str, Any]) -> dict[str, s.Check]:
    """Checks of the teachers in the facts of a cache, or in a student's record."""
    return _checks(document, _of_kind(lambda kind: kind.facts))


def identity_checks(identity: Mapping[str, Any]) -> dict[str, s.Check]:
    """Checks of the teachers in the identity of a cache."""
    return _checks(identity, _of_kind(lambda kind: kind.identity))


def teachers_of(document: Any) -> list[dict[str, Any]]:
    """The teachers in a cache's facts or a student's record; empty unless all are stated and valid.

    >>> teachers_of({"precision": "fp32"})
    []
    """
    sound = isinstance(document, Mapping) and not s.fault_of(document, teacher_checks(document))
    return teachers_in(document) if sound else []


def teachers_name(teachers: Sequence[Mapping[str, Any]]) -> str:
    """A short name of one teacher or of an ensemble; that of `model_name` for one that dive trained.

    >>> teachers_name([{"kind": "teacher", "loss": loss} for loss in ("bsce", "ce", "bsce")])
    'ensemble of 3: teacher (bsce) ×2, teacher (ce)'
    """
    names = Counter(KINDS[one["kind"]].name(one) for one in teachers)
    if len(teachers) == 1:
        return next(iter(names))
    each = [name if count == 1 else f"{name} ×{count}" for name, count in names.items()]
    more = ["…"] if len(each) > _NAMED else []
    return f"ensemble of {len(teachers)}: {', '.join(each[:_NAMED] + more)}"


def run_of_teacher(facts: Mapping[str, Any]) -> dict[str, Any]:
    """What a teacher's facts have in common with the other seeds of its run, in terms of every version.

    Recipes are completed, since a recipe of an earlier version lacks keys that were added later.
    """
    common = {key: value for key, value in facts.items() if key not in (*_OF_EACH_SEED, "logits_hash")}
    if "recipe" in common:
        whole = recipe_of_run(common["recipe"])
        common["recipe"] = {key: whole[key] for key in _OF_THE_RECIPE}
    return common


def may_be_of_one_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether two teachers agree in what both state besides `run_of_teacher`; early versions state less."""
    return all(mine == theirs for mine, theirs in _in_both(_more_told(one), _more_told(other)))


def _more_told(facts: Mapping[str, Any]) -> dict[str, Any]:
    recipe = facts.get("recipe", {})
    whole = recipe_of_run(recipe) if recipe else {}
    return {key: whole.get(key) for key in recipe} | {k: v for k, v in facts.items() if k == "logits_hash"}


def _in_both(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    return ((one[key], other[key]) for key in one.keys() & other.keys())


def recipe_of_run(document: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, completed, without the keys in which seeds of one run may differ.

    These are the seed, the precision (a record states the one that was used), and the paths of images and
    weights (a record states which images and weights they were).
    """
    recipe = build(document).as_dict()
    del recipe["seed"], recipe["precision"], recipe["model"]["weights"]
    recipe["data"].pop("root", None)
    return recipe


def recipe_without_paths(document: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe_of_run` with the data as in a cache's identity, which has no paths of list files."""
    return recipe_of_run(document) | {"data": build(document).data.identity()}
