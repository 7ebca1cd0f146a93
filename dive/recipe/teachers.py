"""The teachers that a cache or a student is of: what a document tells of each, and what they are called.

A teacher is of a kind. One that dive trained is a `teacher` or a `student`; a `foreign` one is a network with
weights that dive did not train; of an `imported` one there are but the logits that another program wrote. No
torch.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from dive import structure as s
from dive.errors import RecipeError
from dive.recipe.reading import build
from dive.recipe.shots import ACCURACY

# Whether a teacher's logits follow the sizes of the classes it was trained on, which a cache's do not.
PRIORS = ("none", "train")
_DISTILLATION: dict[str, s.Check] = {
    **dict.fromkeys(("tau", "power", "weight"), s.number()),
    "student_tau": s.or_none(s.number()),
}
_OF_EACH_SEED = ("seed", "accuracy", "val_accuracy")  # in what teachers of two seeds of one run differ
_OF_THE_RECIPE = ("name", "schedule", "distillation")  # what every version has told of a teacher's
_NAMED = 3  # kinds of teachers that the name of an ensemble tells


@dataclass(frozen=True)
class Kind:
    """A kind of teacher.

    facts: what a cache, and a student's record, must keep of one. identity: what a cache's identity must
    have. name: of its facts, in a few words.
    """

    facts: Mapping[str, s.Check]
    identity: Mapping[str, s.Check]
    name: Callable[[Mapping[str, Any]], str]


def model_name(kind: str, record: Mapping[str, Any]) -> str:
    """What a checkpoint is in a few words: its kind and what makes it differ from others."""
    if kind == "teacher":
        return f"teacher ({record['loss']})"
    d = record["recipe"]["distillation"]
    own = f", student τ={d['student_tau']:g}" if d["student_tau"] not in (None, d["tau"]) else ""
    return f"student (τ={d['tau']:g}, p={d['power']:g}, w={d['weight']:g}{own})"


def _recipe_or_part(value: Any) -> str | None:
    """A recipe, or some of its parts; null where it is one."""
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
    # network: its name. initial_weights: what its weights are. prior: one of PRIORS.
    "foreign": Kind(
        facts={"network": s.text, "initial_weights": s.text, "prior": s.one_of(*PRIORS)},
        identity={"weights_hash": s.text, "prior": s.one_of(*PRIORS)},
        name=lambda facts: f"foreign ({facts['network']})",
    ),
    # file: the name of the file that the logits came in, without folders and ending. logits_hash: of what
    # was in it; facts of earlier caches lack it.
    "imported": Kind(
        facts={"file": s.text, "prior": s.one_of(*PRIORS)},
        identity={"logits_hash": s.text, "prior": s.one_of(*PRIORS)},
        name=lambda facts: f"imported ({facts['file']})",
    ),
}


def told_teachers(teachers: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """How a document names its teachers: one as its `teacher`, those of an ensemble as its `teachers`."""
    return {"teacher": teachers[0]} if len(teachers) == 1 else {"teachers": list(teachers)}


def teachers_in(document: Mapping[str, Any]) -> list[Any]:
    """What `told_teachers` took: of a cache's identity or facts, or of a student's record, unchecked."""
    several = document.get("teachers")
    return several if isinstance(several, list) else [document.get("teacher")]


def _of_kind(part: Callable[[Kind], Mapping[str, s.Check]]) -> s.Check:
    """A teacher of a kind that there is, with what a part of the kind asks for."""

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
    """What facts of a cache, or a student's record, must have of their teachers."""
    return _checks(document, _of_kind(lambda kind: kind.facts))


def identity_checks(identity: Mapping[str, Any]) -> dict[str, s.Check]:
    """What a cache's identity must have of its teachers."""
    return _checks(identity, _of_kind(lambda kind: kind.identity))


def teachers_of(document: Any) -> list[dict[str, Any]]:
    """The teachers of a cache's facts or of a student's record; none where they are not all told.

    >>> teachers_of({"precision": "fp32"})
    []
    """
    sound = isinstance(document, Mapping) and not s.fault_of(document, teacher_checks(document))
    return teachers_in(document) if sound else []


def teachers_name(teachers: Sequence[Mapping[str, Any]]) -> str:
    """What one teacher or an ensemble is, in a few words: as `model_name` for one that dive trained.

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
    """What a teacher's facts have in common with those of its run's other seeds, in every version's words.

    Recipes are completed: one of an earlier version lacks keys that were added since.
    """
    common = {key: value for key, value in facts.items() if key not in (*_OF_EACH_SEED, "logits_hash")}
    if "recipe" in common:
        whole = recipe_of_run(common["recipe"])
        common["recipe"] = {key: whole[key] for key in _OF_THE_RECIPE}
    return common


def may_be_of_one_run(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Whether what both tell of teachers besides `run_of_teacher` is equal; earlier versions told less."""
    return all(mine == theirs for mine, theirs in _in_both(_more_told(one), _more_told(other)))


def _more_told(facts: Mapping[str, Any]) -> dict[str, Any]:
    recipe = facts.get("recipe", {})
    whole = recipe_of_run(recipe) if recipe else {}
    return {key: whole.get(key) for key in recipe} | {k: v for k, v in facts.items() if k == "logits_hash"}


def _in_both(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[tuple[Any, Any]]:
    return ((one[key], other[key]) for key in one.keys() & other.keys())


def recipe_of_run(document: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe, completed, without what seeds of one run may differ in.

    That is the seed, the precision, which a record tells as it was, and where images and weights lie; what
    those are is among the facts.
    """
    recipe = build(document).as_dict()
    del recipe["seed"], recipe["precision"], recipe["model"]["weights"]
    recipe["data"].pop("root", None)
    return recipe


def recipe_without_paths(document: Mapping[str, Any]) -> dict[str, Any]:
    """`recipe_of_run` with what a cache's identity has of the data, which leaves out where lists lie."""
    return recipe_of_run(document) | {"data": build(document).data.identity()}
