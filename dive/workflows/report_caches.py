"""What a page of `dive report` shows of a cache: its virtual examples over τ/p, and where it comes from."""

from collections.abc import Sequence

import numpy as np

from dive.cache.reader import LogitCache
from dive.data.longtail import shot_means
from dive.errors import RecipeError
from dive.files import readable_size
from dive.method.advice import recommend
from dive.method.virtual_examples import Distribution, Pair, examine
from dive.printable import printable
from dive.recipe.commands import config_of
from dive.recipe.shipped import recipes
from dive.recipe.shots import SHOTS
from dive.recipe.teachers import teachers_name, teachers_of
from dive.report.page.content import CachePart, Crossing, Position

# Positions of the slider: some forty a decade, each a number that people type, from half to fifty.
_MANTISSAS = (
    10, 10.5, 11, 11.5, 12, 12.5, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 28, 30, 32, 34, 36,
    38, 40, 42, 45, 48, 50, 55, 60, 65, 70, 75, 80, 85, 90, 95,
)  # fmt: skip
RATIOS = tuple(
    round(mantissa * scale, 3)
    for scale in (0.01, 0.1, 1.0)
    for mantissa in _MANTISSAS
    if 0.5 <= mantissa * scale <= 50
)


def of_cache(cache: LogitCache, sample: int | None = None, seed: int = 0) -> CachePart:
    """A cache in plain values, without pictures. sample, seed: as `examine` takes them.

    Raises CacheError where it is corrupt.
    """
    sample = sample if sample and sample < cache.shape[0] else None
    pairs = examine(cache, RATIOS, (1.0,), sample=sample, seed=seed)
    found = [pair.distribution for pair in pairs]
    crossing = crossing_of(cache, found)
    counts = cache.class_counts
    return CachePart(
        file=printable(str(cache.path)),
        model=_model_of(cache),
        shape=cache.shape,
        classes=list(cache.classes),
        class_counts=counts.tolist(),
        images=shot_means(counts, counts),
        sample=sample,
        positions=[_position(pair) for pair in pairs],
        crossing=crossing,
        advice=_advice(crossing, found),
        origin=_origin(cache),
        command=_export(cache),
    )


def _position(pair: Pair) -> Position:
    found = pair.distribution
    per_class = found.per_class.tolist()
    return Position(found.temperature, per_class, found.shots, found.information, found.errors)


def crossing_of(cache: LogitCache, found: Sequence[Distribution]) -> Crossing | None:
    """Where few-shot classes overtake many-shot ones, None where they do not or a group is absent.

    found: in the order of their temperatures, between two of which it is interpolated in log τ/p.
    """
    present = [shot for shot in SHOTS if found[0].shots[shot] is not None]
    if len(present) < 2:
        return None
    few, many = (np.array([one.shots[shot] for one in found]) for shot in (present[-1], present[0]))
    above = np.flatnonzero(few > many)
    if not len(above) or above[0] == 0:
        return None
    after = int(above[0])
    gap = (few - many)[after - 1 : after + 1]
    at = float(-gap[0] / (gap[1] - gap[0]))
    ratios = np.log([found[after - 1].temperature, found[after].temperature])
    ratio = float(np.exp(ratios[0] + at * (ratios[1] - ratios[0])))
    meet = float(few[after - 1] + at * (few[after] - few[after - 1]))
    return Crossing(ratio, meet, meet)


def _advice(crossing: Crossing | None, found: Sequence[Distribution]) -> str:
    if crossing is None:
        return recommend(found).sentence
    tau = crossing.ratio / 2
    return (
        f"The paper takes about the τ/p at which few-shot classes overtake many-shot ones, here "
        f"{crossing.ratio:.3g}: τ = {tau:.3g}, p = 0.5. It depends on the teacher; a smaller one keeps more "
        "information."
    )


def _model_of(cache: LogitCache) -> str:
    teachers = teachers_of(cache.facts)
    return teachers_name(teachers) if teachers else printable(cache.path.stem)


def _origin(cache: LogitCache) -> list[tuple[str, str]]:
    """What a cache tells of itself, which a foreign one may not, or in other types."""
    listed = cache.facts.get("versions")
    versions = listed if isinstance(listed, dict) else {}
    told = {
        "encoding": f"{cache.store}, {readable_size(cache.nbytes)} of rows",
        "views": cache.identity.get("views"),
        "view seed": cache.identity.get("view_seed"),
        "precision": cache.facts.get("precision"),
        "teacher’s accuracy over its views": f"{cache.accuracy:.2%}",
        "versions": ", ".join(f"{name} {value}" for name, value in versions.items()),
        "producer": cache.producer,
        "weights": _hashes(cache),
        "images": cache.identity.get("data_fingerprint"),
        "hash": cache.hash,
    }
    return [(name, str(value)) for name, value in told.items() if value not in (None, "")]


def _hashes(cache: LogitCache) -> str:
    return ", ".join(
        str(teacher.get("weights_hash", teacher.get("logits_hash", "")))
        for teacher in cache.teachers if isinstance(teacher, dict)
    )  # fmt: skip


def _export(cache: LogitCache) -> str:
    """The command that exports a cache again, as far as it tells."""
    words, name = ["dive", "export-logits"], str(cache.identity.get("recipe", ""))
    try:
        config = config_of(name, recipes())
    except RecipeError:
        config = "RECIPE.yaml"
    words += ["--config", config]
    words += ["--views", str(cache.identity["views"])] if "views" in cache.identity else []
    return " ".join([*words, "--store", cache.store])
