"""Merging finished caches into one cache of the mean of their logits, without running their teachers."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dive.arguments import TakesTexts, as_paths
from dive.cache.encodings.codec import Head
from dive.cache.encodings.encoding import Encoding
from dive.cache.encodings.registry import DEFAULT, ENCODINGS
from dive.cache.layout import Content
from dive.cache.reader import LogitCache
from dive.errors import CacheError, OptionError
from dive.progress import SILENT, Progress
from dive.recipe.teachers import teachers_in, told_teachers
from dive.workflows.convert import FROM
from dive.workflows.fidelity import rows_in
from dive.workflows.rewriting import Rewriting, encoding_named, require_held, stored_rows

MERGED = "merged_from"  # the fact that names the caches it was merged from
_EXACTNESS = ("fp32", "tf32", "bf16")  # precisions, the most exact first


@dataclass(frozen=True)
class MergeOptions(TakesTexts):
    """Options of `dive.merge_caches`.

    out: the cache to write.
    weights: the weight of each cache in the mean, above 0, up to a common factor; empty for equal weights.
    store: the encoding: `float16`, `float32`, `int8`, `features` or `features-int8`. None for that of the
        caches; if they differ, for `features` if all have features, else for `float16`.
    force: start over and replace a finished cache.
    """

    out: Path
    weights: Sequence[float] = ()
    store: str | None = None
    force: bool = False


@dataclass(frozen=True)
class Merged:
    """The result of `dive.merge_caches`. path: the cache. record: its properties, in plain values."""

    path: Path
    record: dict[str, Any]


@dataclass(frozen=True)
class _Source:
    """A cache to merge.

    share: its weight in the mean. rows: (N,), the row in this cache of each sample of the first cache.
    """

    cache: LogitCache
    share: float
    rows: np.ndarray


def merge_caches(paths: Sequence[str | Path], options: MergeOptions, progress: Progress = SILENT) -> Merged:
    """Write the mean of the logits of several caches; returns the path and the record of the new cache.

    It is the cache of the ensemble of their teachers. The caches must have the same samples, views and
    classes. With an encoding of features, their features are concatenated, and its linear layer returns the
    mean of the logits. An interrupted merge is resumed.

    paths: two or more caches.
    options: output, weights and encoding, see `MergeOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        CacheError: a cache is incomplete or corrupt, does not name its teacher, has other samples, classes or
            views than the first, has the teacher of another one, or lacks the features to store.
        DiveError: there is no such encoding.
        OptionError: there are fewer than two caches, or the weights are not one positive number for each.
        OutputError: the output exists, cannot be written, or was begun from other caches.

    >>> import dive
    >>> recipe, first = dive.load_recipe("digits_lt/bbn"), Path("cache/digits_lt_bbn.h5")
    >>> quick = ("schedule.epochs=1", "schedule.warmup_epochs=0", "schedule.milestones=[]")
    >>> other = dive.train_teacher(dive.load_recipe("digits_lt/bbn", *quick), Path("other.pt"))
    >>> exported = dive.export_logits(recipe, dive.ExportOptions(teacher=other.path, out=Path("other.h5")))
    >>> options = dive.MergeOptions(out=Path("both.h5"), weights=(2, 1))
    >>> merged = dive.merge_caches([first, exported.path], options)
    >>> [round(share, 3) for share in merged.record["weights"]], merged.record["shape"]
    ([0.667, 0.333], [399, 9, 10])
    """
    paths = as_paths(paths)
    shares = _shares(options.weights, len(paths))
    rewriting = Rewriting(options.out, paths, options.force, "merge")
    rewriting.refuse_finished()
    caches = [LogitCache(path) for path in paths]
    for cache in caches:
        cache.require_origin()
    rows = [rows_in(cache, caches[0]) for cache in caches]
    _require_distinct(caches)
    sources = [_Source(*parts) for parts in zip(caches, shares, rows, strict=True)]
    encoding = encoding_named(_store(caches) if options.store is None else options.store)
    for cache in caches:
        require_held(cache, encoding)

    def values(samples: slice) -> np.ndarray:
        return _values(sources, samples, encoding.of_features)

    content = _content(sources, encoding)
    told = f"{' and '.join(cache.store for cache in caches)} to {encoding.name}"
    both = list(zip(caches, shares, strict=True))
    seconds = rewriting.write(content, values, both, told, progress)
    record = {
        "cache": str(options.out),
        "from": [str(path) for path in paths],
        "weights": shares,
        "teachers": content.facts["teachers"],
        "store": encoding.name,
        "shape": list(content.shape),
        "bytes": options.out.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": LogitCache(options.out).accuracy,
    }
    return Merged(options.out, record)


def _shares(weights: Sequence[float], count: int) -> list[float]:
    """The share in the mean of each of `count` caches, with sum 1; raises OptionError for invalid weights."""
    if count < 2:
        raise OptionError("a merge needs two or more caches; give them all to --cache")
    given = list(weights) or [1.0] * count
    if len(given) != count:
        raise OptionError(f"there are {count} caches and {len(given)} weights; give one weight a cache")
    if wrong := [weight for weight in given if not 0 < weight < math.inf]:
        raise OptionError(
            f"a weight must be a positive number, not {wrong[0]:g}; leave that cache out instead"
        )
    largest = max(given)  # their sum may be infinite
    scaled = [weight / largest for weight in given]
    return [weight / math.fsum(scaled) for weight in scaled]


def _require_distinct(caches: Sequence[LogitCache]) -> None:
    """Raise CacheError if two caches have the same teacher, or the same teachers, in any encoding."""
    first: dict[str, Path] = {}
    for cache in caches:
        teachers = json.dumps(teachers_in(cache.identity), sort_keys=True)
        if (other := first.get(teachers)) is not None:
            raise CacheError(
                f"{cache.path} is of the same teacher as {other}; give each teacher once, with --weights"
            )
        first[teachers] = cache.path


def _store(caches: Sequence[LogitCache]) -> str:
    """The encoding of the caches; if they differ, `features` if all have features, else `float16`."""
    stores = {cache.store for cache in caches}
    if len(stores) == 1:
        return caches[0].store
    return "features" if all(ENCODINGS[store].of_features for store in stores) else DEFAULT


def _values(sources: Sequence[_Source], samples: slice, features: bool) -> np.ndarray:
    """The concatenated features (rows, V, D), or the mean of the logits (rows, V, C), of some samples.

    D is the sum over the caches. features: whether to return features.
    """
    stored = [stored_rows(source.cache, source.rows[samples]) for source in sources]
    if features:
        both = zip(sources, stored, strict=True)
        return np.concatenate([source.cache.codec.values(some) for source, some in both], axis=-1)
    mean = np.zeros((*stored[0].shape[:2], sources[0].cache.shape[2]))
    for source, some in zip(sources, stored, strict=True):
        mean += source.share * source.cache.codec.decode(some).astype(np.float64)
    return mean.astype(np.float32)


def _content(sources: Sequence[_Source], encoding: Encoding) -> Content:
    """The content of the merged cache except its rows."""
    first = sources[0].cache
    return Content(
        views=first.views,
        labels=first.labels,
        keys=first.keys,
        digests=first.digests,
        classes=first.classes,
        class_counts=first.class_counts,
        store=encoding.name,
        identity=_identity(sources, encoding),
        facts=_facts(sources),
        head=_head(sources) if encoding.of_features else None,
    )


def _identity(sources: Sequence[_Source], encoding: Encoding) -> dict[str, Any]:
    """The first cache's identity with the teachers of all caches.

    The weight of a teacher is its share within its cache times the share of the cache.
    """
    common = {key: value for key, value in sources[0].cache.identity.items() if key != "teacher"}
    teachers = [teacher for source in sources for teacher in source.cache.teachers]
    weights = [source.share * share for source in sources for share in source.cache.shares]
    return common | {"store": encoding.name} | told_teachers(teachers) | {"teacher_weights": weights}


def _facts(sources: Sequence[_Source]) -> dict[str, Any]:
    """How the merged cache was made: the least exact precision, the versions of all, and the caches."""
    caches = [source.cache for source in sources]
    facts = [cache.facts for cache in caches]
    names = dict.fromkeys(name for one in facts for name in one["versions"])
    return {
        "precision": max((one["precision"] for one in facts), key=_inexactness),
        "clean_id": facts[0]["clean_id"],
        **told_teachers([teacher for one in facts for teacher in teachers_in(one)]),
        "versions": {name: _all_of(one["versions"].get(name) for one in facts) for name in names},
        MERGED: [
            {"hash": cache.hash, "store": cache.store, "precision": cache.facts["precision"]}
            | {key: cache.facts[key] for key in (FROM, MERGED) if key in cache.facts}
            for cache in caches
        ],
    }


def _inexactness(precision: str) -> int:
    return _EXACTNESS.index(precision) if precision in _EXACTNESS else len(_EXACTNESS)


def _all_of(versions: Any) -> str:
    return ", ".join(dict.fromkeys(str(version) for version in versions if version is not None))


def _head(sources: Sequence[_Source]) -> Head:
    """The head of concatenated features, which gives the mean of the logits.

    Its weights are the weights of the caches' heads times their shares, concatenated; its bias is the sum of
    their biases times their shares.
    """
    heads = [(source.cache.codec.head, source.share) for source in sources]
    weights = [share * head.weight.astype(np.float64) for head, share in heads if head is not None]
    biases = [share * head.bias.astype(np.float64) for head, share in heads if head is not None]
    weight, bias = np.concatenate(weights, axis=1), np.sum(biases, axis=0)
    return Head(weight.astype(np.float32), bias.astype(np.float32))
