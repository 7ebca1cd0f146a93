"""Training a student from images and a logit cache, without running or loading the teacher."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive.arguments import TakesTexts
from dive.cache.reader import LogitCache
from dive.data.longtail import PIXELS, Samples
from dive.errors import CacheError, DiveError, OptionError
from dive.feeds.logits import CachedLogits
from dive.method.advice import recommend
from dive.method.objectives import DiVELoss
from dive.models.registry import require_known
from dive.progress import SILENT, Progress
from dive.recipe.documents import differences
from dive.recipe.recipe import Recipe
from dive.recipe.teachers import teachers_in, told_teachers
from dive.training.device import choose_device
from dive.training.ranks import ALONE, Ranks, ranks_on
from dive.training.spec import RunSpec
from dive.training.tensorboard import require_tensorboard
from dive.versions import warn_if_others
from dive.views.draw import FreeViews, StoredViews
from dive.views.registry import view_space
from dive.views.space import ViewSpace, require_ids, require_same
from dive.workflows.data import load_dataset, warn_of_workers
from dive.workflows.grid import grid_paths, run_apart
from dive.workflows.places import cache_of, checkpoint_of
from dive.workflows.prepared import Prepared, prepare, room_of, spec_of
from dive.workflows.results import (
    DEFAULT,
    Result,
    Trained,
    TrainOptions,
    initial_facts,
    initial_of,
)
from dive.workflows.run import refuse_finished, run
from dive.workflows.together import require_same_data, require_same_task


@dataclass(frozen=True)
class StudentOptions(TakesTexts):
    """Options of `dive.train_student`, besides the recipe.

    cache: the logit cache; None for cache/<recipe>.h5.
    auto: use the τ and p that `dive.recommend` finds for the cache instead of those of the recipe.
    free_views: with a cache of the clean view only, train on random views with the logits of the clean view.
    fixed_view: with a cache of one view, train on that view only. Such a cache needs one of these two
        options; a cache of several views takes neither.
    allow_missing: leave out training images that are not in the cache; if False, they are an error.
    split: for a grid of students under torchrun, train each student in all processes, in turn.
    """

    cache: Path | None = None
    auto: bool = False
    free_views: bool = False
    fixed_view: bool = False
    allow_missing: bool = False
    split: bool = False


def train_student(
    recipe: Recipe,
    out: str | Path | None = None,
    options: StudentOptions = StudentOptions(),
    training: TrainOptions = DEFAULT,
    progress: Progress = SILENT,
) -> Result:
    """Train the student of a recipe and write its checkpoint; returns the path, the record and the accuracy.

    An interrupted run is resumed. Processes that torchrun starts train the student together.

    recipe: the recipe, with its part `student`.
    out: the checkpoint to write; None for checkpoints/<recipe>/student.pt.
    options, training: see `StudentOptions` and `TrainOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises the errors of `dive.train_teacher`; CacheError if the cache is incomplete or corrupt, or has other
    samples, classes or views; DiveError if `free_views` or `fixed_view` does not suit the cache.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn", "schedule.epochs=1", "schedule.warmup_epochs=0",
    ...                           "schedule.milestones=[]")
    >>> cache = dive.StudentOptions(cache=Path("cache/digits_lt_bbn.h5"))
    >>> result = dive.train_student(recipe, Path("student.pt"), cache, dive.TrainOptions(device="cpu"))
    >>> result.record["loss"], result.record["recipe"]["distillation"]["tau"]
    ('dive', 3.0)
    """
    place = Path(out) if out else checkpoint_of(recipe, "student")
    trained = train_students([recipe], place, options, training, progress)
    trained.require_all()
    return trained.results[0]


def train_students(
    recipes: Sequence[Recipe], out: Path, options: StudentOptions, training: TrainOptions, progress: Progress
) -> Trained:
    """Train each recipe's student from one cache; recipes may differ in seed and distillation only.

    A single student is written to `out`, each of several to its `grid_path`. Raises the errors of
    `train_student`, but students whose loss is not finite are among the failures returned. Processes that
    torchrun started train a single student together, and several students each its own; all return the same.
    """
    recipes = [recipe.of_student for recipe in recipes]
    path = options.cache or cache_of(recipes[0])
    grid_paths(out, recipes)
    if training.tensorboard is not None:
        require_tensorboard()
    device = choose_device(training.device)
    with ranks_on(device) as ranks:
        require_same_task(ranks, recipes, training, asdict(options) | {"cache": None})
        if len(recipes) == 1:
            ranks.from_first(lambda: refuse_finished(out, training.force, [path]))
        require_known(recipes[0].model.name)
        return _train(recipes, out, path, options, training, progress, device, ranks)


def _train(
    recipes: Sequence[Recipe],
    out: Path,
    path: Path,
    options: StudentOptions,
    training: TrainOptions,
    progress: Progress,
    device: torch.device,
    ranks: Ranks,
) -> Trained:
    cache = LogitCache(path)
    ranks.require_same({"cache": cache.hash}, "their caches")
    cache.require_origin()
    _check_view_choice(cache, options)
    if options.auto:
        recipes = ranks.from_first(lambda: tuned(recipes, cache, progress))
    outs = grid_paths(out, recipes)
    first = recipes[0]
    with ranks.one_a_machine_first():
        dataset = load_dataset(first, progress, training.check_images and ranks.first_here)
    require_same_data(ranks, dataset)
    space = view_space(first.views.kind, dataset.train.pictures.shape, **first.views.keys())
    train, rows = match_rows(cache, dataset.train, first, space, options.allow_missing, progress)
    warn_if_others(cache.facts["versions"], str(cache.path), progress)
    if options.free_views:
        progress.warn(
            "free views: the teacher saw the clean view only, the student sees others, so the logits are not "
            "those of an online teacher; a cache of more --views has them"
        )
    if options.split and (ranks.alone or len(recipes) == 1):
        progress.warn("--split has no effect here: it is for several students under torchrun")
    apart = len(recipes) > 1 and not ranks.alone and not options.split
    sharing = ALONE if apart else ranks
    prepared = prepare(first, replace(dataset, train=train), device, training.workers, sharing)
    warn_of_workers(prepared.images, training.workers, progress)
    teacher = CachedLogits(cache, rows, device, room_of(sharing))
    progress.note(teacher.told(first.schedule.batch_size))
    views = FreeViews(space) if options.free_views else StoredViews(cache.views[rows])
    specs = [
        _spec(recipe, place, prepared, cache, teacher, views, options)
        for recipe, place in zip(recipes, outs, strict=True)
    ]
    if apart:
        return run_apart(specs, prepared, training, progress, ranks)
    return run(specs, prepared, training, progress, of_grid=len(specs) > 1)


def tuned(recipes: Sequence[Recipe], cache: LogitCache, progress: Progress) -> list[Recipe]:
    """The recipes with the τ and p that `recommend` finds for the cache."""
    advice = recommend(cache)
    assert advice.tau is not None and advice.power is not None, "the fallback always has a pair"
    progress.note(advice.sentence)
    return [
        replace(recipe, distillation=replace(recipe.distillation, tau=advice.tau, power=advice.power))
        for recipe in recipes
    ]


def match_rows(
    cache: LogitCache,
    train: Samples,
    recipe: Recipe,
    space: ViewSpace,
    allow_missing: bool,
    progress: Progress,
) -> tuple[Samples, np.ndarray]:
    """The samples to train on, and the row of each in the cache, joined by key: (N,) int64.

    The cache may have more samples, in any order. Raises CacheError, naming both sides, if the cache has
    other classes, other labels or images for the same keys, or another view space, or if it lacks samples:
    all of them, all of a class, or any without `allow_missing`.
    """
    if cache.classes != train.classes:
        raise CacheError(
            f"{cache.path} is of another data set: {_shown(cache.classes)}; the recipe {recipe.name} has "
            f"{_shown(train.classes)}; give the cache's own recipe with --config"
        )
    of_cache, here = cache.identity["data"], recipe.data.identity()
    if (known_by := cache.identity.get("digests", PIXELS)) != train.digests_of:
        raise CacheError(
            f"{cache.path} has digests of the images' {known_by}, but the recipe's views need digests of "
            f"{train.digests_of}; give the cache's own recipe, or export again"
        )
    require_same(space, cache.identity["view_space"], str(cache.path))
    require_ids(space, cache.views, str(cache.path))
    row_of = {key: row for row, key in enumerate(cache.keys)}
    rows = np.array([row_of.get(key, -1) for key in train.keys], dtype=np.int64)
    found = np.flatnonzero(rows >= 0)
    _check_same_images(cache, train, found, rows)
    if missing := len(rows) - len(found):
        lacking = train.keys[int(np.argmin(rows))]
        draws = "; ".join(differences(of_cache, here, "data.")) or "of the same recipe"
        if not allow_missing or not len(found):
            raise CacheError(
                f"{cache.path} is of another draw ({draws}): it lacks {missing} of {len(rows)} training "
                f"images, for example {lacking}; give the cache's own recipe and --data, export again, or "
                "leave them out with --allow-missing"
            )
        progress.warn(f"{missing} of {len(rows)} training images are not in {cache.path} and are left out")
        train, rows = train.subset(found), rows[found]
        if len(empty := np.flatnonzero(train.counts == 0)):
            raise CacheError(f"{cache.path} has no image of class {train.classes[empty[0]]}; export again")
    if len(rows) < len(cache.keys):
        progress.note(f"training on {len(rows)} of the {len(cache.keys)} images of {cache.path}")
    return train, rows


def _check_same_images(cache: LogitCache, train: Samples, found: np.ndarray, rows: np.ndarray) -> None:
    """Raise CacheError if a key has another label or another image digest in the cache."""
    pixels = (cache.digests[rows[found]] != train.digests[found]).any(axis=1)
    for what, differs in (("label", cache.labels[rows[found]] != train.labels[found]), ("pixels", pixels)):
        if differs.any():
            key = train.keys[found[int(differs.argmax())]]
            raise CacheError(
                f"{cache.path} is of other images: {differs.sum()} of {len(rows)} have another {what} "
                f"here, for example {key} (data fingerprint {cache.identity['data_fingerprint'][:12]}, here "
                f"{train.fingerprint[:12]}); give the --data it was exported from, or export again"
            )


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}, …)"


def _check_view_choice(cache: LogitCache, options: StudentOptions) -> None:
    views = cache.shape[1]
    if options.free_views and options.fixed_view:
        raise OptionError("--free-views and --fixed-view exclude each other")
    if views == 1 and not (options.free_views or options.fixed_view):
        raise DiveError(
            f"{cache.path} holds one view of each image; choose --free-views (augment freely over the clean "
            "logits) or --fixed-view (no augmentation), or export more --views"
        )
    if views > 1 and (options.free_views or options.fixed_view):
        raise DiveError(
            f"{cache.path} holds {views} views of each image and the student draws from those; "
            "--free-views and --fixed-view are for a cache of one view"
        )
    if options.free_views and not (cache.views == cache.facts["clean_id"]).all():
        raise DiveError(
            f"{cache.path} holds one view of each image, but not the clean one; --free-views needs a cache "
            "of --views clean"
        )


def _teachers(cache: LogitCache) -> dict[str, Any]:
    """The entry of a student's record for the teachers of the cache, with their weights in an ensemble."""
    teachers = teachers_in(cache.facts)
    weights = {} if len(teachers) == 1 else {"teacher_weights": cache.shares}
    return told_teachers(teachers) | weights


def _spec(
    recipe: Recipe,
    out: Path,
    prepared: Prepared,
    cache: LogitCache,
    teacher: CachedLogits,
    views: FreeViews | StoredViews,
    options: StudentOptions,
) -> RunSpec:
    train_set, d, initial = prepared.dataset.train, recipe.distillation, initial_of(recipe)
    facts = {
        "loss": DiVELoss.name,
        "cache_hash": cache.hash,
        "cache": {
            **{key: cache.identity[key] for key in ("views", "view_seed", "store")},
            "precision": cache.facts["precision"],
        },
        **_teachers(cache),
        "free_views": options.free_views,
        "fixed_view": options.fixed_view,
        **initial_facts(initial),
    }
    objective = DiVELoss(train_set.counts, d.tau, d.power, d.weight, d.student_tau)
    spec = spec_of(recipe, "student", out, prepared, objective, views, facts, initial)
    return replace(spec, teacher=teacher, reads=(*spec.reads, cache.path))
