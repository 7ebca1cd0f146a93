"""A cache on the page of `dive report`: its virtual examples over τ/p, and its origin."""

import shlex

from dive.cache.reader import LogitCache
from dive.cache.stored_views import GIVEN
from dive.errors import CacheError, RecipeError
from dive.files import readable_size
from dive.method.crossing import SEARCHED
from dive.method.curves import Curves, Pair, examine
from dive.printable import printable
from dive.recipe.commands import config_of, written
from dive.recipe.documents import plain
from dive.recipe.reading import load
from dive.recipe.shipped import recipes
from dive.recipe.teachers import teachers_in
from dive.report.figures import drawn, means_figure
from dive.report.page.content import CachePart, Crossing, Position
from dive.workflows.convert import FROM
from dive.workflows.merge import MERGED
from dive.workflows.tune import means_of, tuned_of

FOREIGN, IMPORTED = "foreign", "imported"  # kinds of `dive.recipe.teachers`

# Positions of the slider, from 0.5 to 50: some forty a decade, all of them round numbers.
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
    """What the page shows of a cache, without images. clean, sample, seed: as for `virtual_examples`.

    Raises CacheError if the cache is corrupt.
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
        command=_command(cache),
    )


def _position(pair: Pair) -> Position:
    found = pair.distribution
    per_class = found.per_class.tolist()
    return Position(found.temperature, per_class, found.shots, found.information, found.errors)


def _origin(cache: LogitCache) -> list[tuple[str, str]]:
    """Names and values that describe the cache, as texts.

    Values that a cache does not state are left out. A cache that dive did not write may lack any of them, or
    state them with other types.
    """
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


def _command(cache: LogitCache) -> str:
    """The command that makes a cache again, with unknown files in capitals; empty if it is not known."""
    try:
        cache.require_origin()
    except CacheError:
        return ""
    words: list[str] | None
    if FROM in cache.facts:
        words = ["convert", "CACHE"]
    elif MERGED in cache.facts:
        words = _merge(cache)
    elif [teacher["kind"] for teacher in cache.teachers] == [IMPORTED]:
        words = ["import-logits", "FILE", *_recipe(cache), "--teacher-prior", cache.teachers[0]["prior"]]
    else:
        words = _export(cache)
    return "" if words is None else shlex.join(["dive", *words, "--store", cache.store])


def _merge(cache: LogitCache) -> list[str] | None:
    """The words of the command that merged the caches.

    None if a merged cache had several teachers: the weights of the caches are then not known.
    """
    merged, shares = cache.facts[MERGED], cache.shares
    if not isinstance(merged, list) or len(merged) != len(shares):
        return None
    weights = [] if len(set(shares)) == 1 else ["--weights", *map(written, shares)]
    return ["merge-caches", "--cache", *["CACHE"] * len(shares), *weights, "--out", "CACHE"]


def _export(cache: LogitCache) -> list[str] | None:
    """The words of the command that exported a cache.

    None if no export stores these views, the foreign teachers have different priors, or a teacher was
    imported.
    """
    views, facts = cache.identity["views"], teachers_in(cache.facts)
    foreign = [teacher["kind"] == FOREIGN for teacher in facts]
    priors = {teacher["prior"] for teacher in cache.teachers if teacher["kind"] == FOREIGN}
    if views == GIVEN or len(priors) > 1 or IMPORTED in {teacher["kind"] for teacher in facts}:
        return None
    files = ["RECIPE.yaml" if other else "CHECKPOINT" for other in foreign]
    own = len(facts) == 1 and facts[0]["kind"] == "teacher"
    own = own and facts[0]["recipe"]["name"] == cache.identity["recipe"]
    words = ["export-logits", *_recipe(cache), *([] if own else ["--teacher", *files])]
    return [*words, *(word for prior in priors for word in ("--teacher-prior", prior)), "--views", views]


def _recipe(cache: LogitCache) -> list[str]:
    """The options that select the recipe of a cache's images and views."""
    try:
        config = config_of(str(cache.identity["recipe"]), recipes())
    except RecipeError:
        return ["--config", "RECIPE.yaml"]
    recipe, described = load(recipes()[config]), cache.identity["view_space"]
    space = plain({"kind": recipe.views.kind, **recipe.views.keys()})
    if plain(recipe.data.identity()) != cache.identity["data"] or any(
        described.get(key) != value for key, value in space.items()
    ):
        return ["--config", "RECIPE.yaml"]  # a changed recipe of the same name
    seed = cache.identity["view_seed"]
    return ["--config", config, *([] if seed == recipe.views.seed else ["--set", f"views.seed={seed}"])]
