"""What a page of `dive report` shows of a cache: its virtual examples over τ/p, and where it comes from."""

from dive.cache.reader import LogitCache
from dive.errors import RecipeError
from dive.files import readable_size
from dive.method.crossing import SEARCHED
from dive.method.curves import Curves, Pair, examine
from dive.printable import printable
from dive.recipe.commands import config_of
from dive.recipe.shipped import recipes
from dive.report.figures import drawn, means_figure
from dive.report.page.content import CachePart, Crossing, Position
from dive.workflows.tune import means_of, tuned_of

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


def of_cache(cache: LogitCache, clean: bool = False, sample: int | None = None, seed: int = 0) -> CachePart:
    """A cache in plain values, without pictures. clean, sample, seed: as `virtual_examples` takes them.

    Raises CacheError where it is corrupt.
    """
    sample = sample if sample and sample < cache.shape[0] else None
    curves = Curves(cache, clean, sample, seed)
    curves.at({*SEARCHED, *RATIOS})  # one pass
    tuned = tuned_of(curves)
    means, there = means_of([tuned]), tuned.crossing
    return CachePart(
        file=printable(str(cache.path)),
        model=tuned.model,
        shape=cache.shape,
        classes=list(cache.classes),
        class_counts=cache.class_counts.tolist(),
        images=tuned.counts,
        clean=clean,
        sample=sample,
        positions=[_position(pair) for pair in examine(curves, RATIOS, (1.0,))],
        crossing=None if there is None else Crossing(there.ratio, there.few, there.many),
        advice=tuned.advice.sentence,
        figure=drawn(means_figure(means), "svg"),
        figure_says=str(means),
        origin=_origin(cache),
        command=_export(cache),
    )


def _position(pair: Pair) -> Position:
    found = pair.distribution
    per_class = found.per_class.tolist()
    return Position(found.temperature, per_class, found.shots, found.information, found.errors)


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
