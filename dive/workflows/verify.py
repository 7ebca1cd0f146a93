"""Verifying a cache: it is intact, its rows belong to its samples, and the teacher gives the same logits."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from dive.arguments import as_paths
from dive.cache.reader import LogitCache
from dive.errors import CacheError, CheckpointError
from dive.progress import Progress
from dive.workflows.fidelity import Comparison

if TYPE_CHECKING:
    from dive.data.longtail import Samples
    from dive.recipe.recipe import Recipe
    from dive.workflows.teachers.several import OpenedTeachers, Teachers
    from dive.workflows.teachers.teacher import Shown


@dataclass(frozen=True)
class Sampled:
    """The result of `sample`: the teacher was run again on some (sample, view) pairs.

    comparison: of its logits, as the exact ones, with those of the cache. allowed: the largest difference
    that encoding and precision explain. precision: in which the teacher was run.
    """

    comparison: Comparison
    allowed: float
    precision: str

    def document(self) -> dict[str, Any]:
        """The result in plain values."""
        return self.comparison.document() | {"allowed": self.allowed, "precision": self.precision}


def verify(path: Path, progress: Progress) -> LogitCache:
    """Verify a cache and return it. Raises CacheError at the first fault, naming the samples.

    Verified are the seal, CRCs, shapes, that logits are finite, labels, and view ids, which must be those
    that the identity states (see `stored_views`). In each block, the rows must classify as many views
    correctly as the export counted (`Codec.confirms`): rows that are shifted against their labels do not.
    """
    from dive.cache.stored_views import require_stated_views

    cache = LogitCache(path)
    require_stated_views(cache)
    with progress.bar("verify", cache.block_count) as bar:
        for block in range(cache.block_count):
            rows, stored = cache.encoded_block(block)
            where = f"{path}: samples {rows.start} to {rows.stop - 1}"
            if not np.isfinite(cache.codec.decode(stored)).all():
                raise CacheError(f"{where} hold logits that are not finite; export it again")
            labels, counted = cache.labels[rows], int(cache.block_correct[block])
            if not cache.codec.confirms(stored, labels, counted):
                raise CacheError(
                    f"{where} do not match their labels: the teacher is right in "
                    f"{cache.codec.correct(stored, labels)} of their views, the export counted {counted}; "
                    "export it again"
                )
            bar.advance()
    return cache


def sample(
    cache: LogitCache,
    teacher: Path | Sequence[Path],
    count: int,
    seed: int,
    data: str | None,
    device: str,
    progress: Progress,
    own: Sequence[str] = (),
    recipe: "Recipe | None" = None,
) -> Sampled:
    """Run the teacher again on `count` random (sample, view) pairs and compare with the cache.

    teacher: its checkpoint or, for a foreign teacher, its recipe; those of an ensemble in any order. seed: of
    the random choice. data: the place of the images; None for that in the recipe. own: the custom networks
    that a checkpoint may have. recipe: draws the images; None for the recipe of the first checkpoint or,
    without one, for the images that the cache states. Raises CheckpointError if the teachers are not those
    of the cache, CacheError if the images differ, or a logit differs by more than rounding explains.
    """
    from dive.feeds.feed import Batch
    from dive.feeds.images import Images
    from dive.training.device import Runtime, choose_device
    from dive.training.inference import batch_size, outputs
    from dive.training.precision import precisions
    from dive.views.registry import described_space
    from dive.views.space import require_ids, require_same
    from dive.workflows.cached import recipe_of
    from dive.workflows.data import load_training
    from dive.workflows.teachers.several import OpenedTeachers, require_own_of_checkpoint
    from dive.workflows.teachers.teacher import Shown

    cache.require_origin()
    of_cache = cache.identity
    _require_networks(cache)
    paths = as_paths(teacher)
    require_own_of_checkpoint(paths, own)
    opened = OpenedTeachers.open(paths, own)
    try:
        views = described_space(of_cache["view_space"])
    except ValueError as error:
        raise CacheError(
            f"{cache.path} does not say which views it holds: {error}; export it again"
        ) from error
    require_same(views, of_cache["view_space"], str(cache.path))
    require_ids(views, cache.views, str(cache.path))
    recipe = recipe_of(cache, data, recipe, opened.recipe)
    teachers = _teachers(
        cache, opened, Shown(cache.class_counts, recipe.data.channels, views.shape), progress
    )
    train = load_training(recipe, progress)
    rows_here = _rows_here(cache, train)
    chosen = np.random.default_rng(seed).choice(cache.shape[0] * cache.shape[1], count, replace=False)
    rows, columns = chosen // cache.shape[1], chosen % cache.shape[1]
    target = choose_device(device)
    recorded = cache.facts["precision"]
    runtime = Runtime(target, "fp32" if recorded not in precisions(target) else recorded)
    drawn = Batch(rows_here[rows], cache.views[rows, columns].astype(np.int64), columns)
    images = Images(train.pictures, views, target)
    each = []
    for one in teachers.each:
        network = one.network.on(target)
        plan = list(drawn.split(batch_size(views.shape, target, network)))
        each.append(np.concatenate([some.cpu().numpy() for some in outputs(network, images, plan, runtime)]))
    live = np.sum([share * logits for share, logits in zip(cache.shares, each, strict=True)], axis=0)
    stored = cache.codec.unpacked(cache.encoded(rows, columns))
    comparison = Comparison()
    comparison.add(live, cache.codec.decode(stored))
    largest = sum(
        share * (np.abs(logits).max() + one.most_subtracted)
        for share, logits, one in zip(cache.shares, each, teachers.each, strict=True)
    )
    allowed = _allowed(cache, largest) + float(cache.codec.rounding(stored).max())
    if not comparison.largest <= allowed:  # which NaN is not
        raise CacheError(
            f"{cache.path} does not hold the logits of {' and '.join(map(str, teachers.paths))}: "
            f"one differs by {comparison.largest:.3g}, rounding explains {allowed:.3g}, top-1 agreement is "
            f"{comparison.agreement:.1%}; export it again"
        )
    return Sampled(comparison, allowed, runtime.precision)


def _require_networks(cache: LogitCache) -> None:
    """Raise CacheError if one of a cache's teachers was imported, so that only its logits are known."""
    if any("weights_hash" not in teacher for teacher in cache.teachers):
        which = "its logits were" if len(cache.teachers) == 1 else "logits of one of its teachers were"
        raise CacheError(
            f"{cache.path} has no teacher to run: {which} imported from a file; verify it without --teacher"
        )


def _teachers(cache: LogitCache, opened: "OpenedTeachers", views: "Shown", progress: Progress) -> "Teachers":
    """The cache's teachers, in its order; raises CheckpointError if one is missing or not of the cache."""
    from dive.workflows.teachers.several import Teachers

    given = opened.shown(views, progress)
    wanted = [teacher["weights_hash"] for teacher in cache.teachers]
    found = [teacher.weights_hash for teacher in given.each]
    for path, weights in zip(given.paths, found, strict=True):
        if weights not in wanted:
            hashes = ", ".join(one[:12] for one in wanted)
            raise CheckpointError(
                f"{path} is not {'the' if len(wanted) == 1 else 'a'} teacher of {cache.path}: weights hash "
                f"{weights[:12]}, the cache's {hashes}"
            )
    if lacking := [weights[:12] for weights in wanted if weights not in found]:
        raise CheckpointError(
            f"{cache.path} is of an ensemble of {len(wanted)}; give --teacher also those with the weights "
            f"hash {', '.join(lacking)}"
        )
    places = [found.index(weights) for weights in wanted]
    stated = zip(places, cache.teachers, strict=True)
    return Teachers(tuple(given.each[place].as_stated(identity) for place, identity in stated))


def _rows_here(cache: LogitCache, train: "Samples") -> np.ndarray:
    """The row in `train` of each of the cache's samples, (N,) int64; raises CacheError for other images."""
    place = {key: row for row, key in enumerate(train.keys)}
    missing = [key for key in cache.keys if key not in place]
    if missing or train.fingerprint != cache.identity["data_fingerprint"]:
        raise CacheError(
            f"{cache.path} is of other images than these: data fingerprint "
            f"{cache.identity['data_fingerprint'][:12]}, here {train.fingerprint[:12]}; "
            "give the --data it was exported from, or its recipe with --config"
        )
    return np.array([place[key] for key in cache.keys], dtype=np.int64)


def _allowed(cache: LogitCache, largest: float) -> float:
    """The largest difference between a stored logit and the same logit computed again that rounding explains.

    largest: a bound of the absolute logits; for an ensemble, the weighted mean of its networks' bounds.
    Kernels for another batch size may differ by some 10⁻⁴ of it in fp32, and by four units of rounding in
    TF32 (2⁻¹¹) and bf16 (2⁻⁸). A cache that was made from other caches records a bound of their error.
    """
    computing = {"fp32": 1e-4, "tf32": 4 * 2.0**-11}.get(cache.facts["precision"], 4 * 2.0**-8)
    return float(largest) * computing + float(cache.facts.get("rounding", 0.0))
