"""Training a student from the cache alone: the teacher's weights are not read."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch

from dive.cache.reader import LogitCache
from dive.data.dataset import load_dataset
from dive.data.longtail import Samples
from dive.errors import CacheError, DiveError, OutputError
from dive.feeds.teacher_logits import ResidentLogits, StreamedLogits, TeacherLogits, fits
from dive.method import losses
from dive.method.virtual_examples import DEFAULT_POWERS, DEFAULT_TAUS, examine, recommend
from dive.progress import Progress
from dive.recipe.documents import differences
from dive.recipe.recipe import Recipe
from dive.training.device import choose_device
from dive.training.journal import Journal
from dive.training.step import Loss
from dive.versions import warn_if_others
from dive.views.draw import FreeViews, StoredViews
from dive.views.registry import view_space
from dive.views.space import ViewSpace, require_ids, require_same
from dive.workflows.lesson import Lesson, Order, Trained
from dive.workflows.run import run


@dataclass(frozen=True)
class Distill:
    """What the user asked of students besides their recipes.

    auto: take τ and p from the cache by the rule of thumb. free_views, fixed_view: how a cache of
    one view is used. allow_missing: leave out training images that the cache lacks.
    """

    cache: Path
    auto: bool = False
    free_views: bool = False
    fixed_view: bool = False
    allow_missing: bool = False


def train_students(
    recipes: Sequence[Recipe], out: Path, distill: Distill, order: Order, progress: Progress
) -> Trained:
    """Train each recipe's student from one cache; recipes may differ in seed and distillation alone.

    One student is written to `out`; of several, each to the file `grid_path` names. Raises CacheError
    where the cache is not whole or of other samples, classes or views, DataError or OutputError; an
    earlier result stays as it was. Students whose loss is not finite are among the failures returned.
    """
    outs = grid_paths(out, recipes)
    if len(recipes) == 1:
        Journal(out).refuse_finished(order.force, [distill.cache])
    device = choose_device(order.device)
    cache = LogitCache(distill.cache)
    cache.require_origin()
    _check_view_choice(cache, distill)
    if distill.auto:
        recipes = tuned(recipes, cache, progress)
        outs = grid_paths(out, recipes)
    first = recipes[0]
    dataset = load_dataset(first, progress)
    space = view_space(first.views, dataset.train.images.shape[1:])
    train, rows = match_rows(cache, dataset.train, first, space, distill.allow_missing, progress)
    dataset = replace(dataset, train=train)
    cache.check()
    warn_if_others(cache.facts["versions"], str(cache.path), progress)
    if distill.free_views:
        progress.warn(
            "free views: the teacher saw the clean view only, the student sees others, which makes it a "
            "weaker teacher; a cache of more --views costs nothing but its size"
        )
    teacher = _teacher_logits(cache, rows, first.schedule.batch_size, device, progress)
    lessons = [
        _lesson(recipe, path, cache, rows, teacher, distill)
        for recipe, path in zip(recipes, outs, strict=True)
    ]
    return run(lessons, dataset, order, device, progress)


def grid_paths(out: Path, recipes: Sequence[Recipe]) -> list[Path]:
    """Where each student is written: `out` itself for one, of several what `grid_path` names.

    Raises OutputError where two would have one name, because they differ beyond the 12 digits in it.
    """
    if len(recipes) == 1:
        return [out]
    first: dict[Path, Recipe] = {}
    for recipe in recipes:
        other = first.setdefault(path := grid_path(out, recipe), recipe)
        if other is not recipe:
            both = differences(other.as_dict(), recipe.as_dict()) or ["they are the same"]
            raise OutputError(
                f"two students would be written to {path} ({'; '.join(both)}); they differ beyond the 12 "
                "digits of a name, by rounding perhaps: give one of the two"
            )
    return list(first)


def grid_path(out: Path, recipe: Recipe) -> Path:
    """Where one student of several is written: `student.pt` becomes `student-t3-p0.5-w0.5-s0.pt`."""
    d = recipe.distillation
    own = "" if d.student_tau is None else f"-st{d.student_tau:.12g}"
    return out.with_stem(f"{out.stem}-t{d.tau:.12g}-p{d.power:.12g}-w{d.weight:.12g}{own}-s{recipe.seed}")


def tuned(recipes: Sequence[Recipe], cache: LogitCache, progress: Progress) -> list[Recipe]:
    """The recipes with the recommended τ and p; raises DiveError where there is no recommendation."""
    advice = recommend(examine(cache, DEFAULT_TAUS, DEFAULT_POWERS))
    if advice.tau is None or advice.power is None:
        raise DiveError(
            f"--tau auto: {advice.sentence} With dive tune-tau --cache {cache.path}; then give --tau and "
            "--power here."
        )
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
    """The samples to train on, and the cache's row of each, joined by key: (N,) int64.

    The cache may hold more samples than are trained on, in any order. Raises CacheError, naming both
    sides, where it is of other classes, of the same keys with other labels or pixels, of images
    normalised otherwise, of another view space, or lacks samples that `allow_missing` does not waive.
    """
    if cache.classes != train.classes:
        raise CacheError(
            f"{cache.path} is of another data set: {_shown(cache.classes)}; the recipe {recipe.name} has "
            f"{_shown(train.classes)}; give the cache's own recipe with --config"
        )
    of_cache, here = cache.identity["data"], recipe.data.identity()
    normalisation = [{key: data[key] for key in ("mean", "std")} for data in (of_cache, here)]
    if different := differences(*normalisation, "data."):
        raise CacheError(
            f"{cache.path} is of images normalised otherwise ({'; '.join(different)}); "
            "give the cache's own recipe, or export again"
        )
    require_same(space, cache.identity["view space"], str(cache.path))
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
    """Raise CacheError where a key stands for another label or other pixels in the cache."""
    pixels = (cache.pixel_digests[rows[found]] != train.pixel_digests[found]).any(axis=1)
    for what, differs in (("label", cache.labels[rows[found]] != train.labels[found]), ("pixels", pixels)):
        if differs.any():
            key = train.keys[found[int(differs.argmax())]]
            raise CacheError(
                f"{cache.path} is of other images: {differs.sum()} of {len(rows)} have another {what} "
                f"here, for example {key} (data fingerprint {cache.identity['data fingerprint'][:12]}, here "
                f"{train.fingerprint[:12]}); give the --data it was exported from, or export again"
            )


def _shown(classes: tuple[str, ...]) -> str:
    return f"{len(classes)} classes ({', '.join(classes[:3])}, …)"


def _check_view_choice(cache: LogitCache, distill: Distill) -> None:
    views = cache.shape[1]
    if distill.free_views and distill.fixed_view:
        raise DiveError("--free-views and --fixed-view exclude each other")
    if views == 1 and not (distill.free_views or distill.fixed_view):
        raise DiveError(
            f"{cache.path} holds one view of each image; choose --free-views (augment freely over the clean "
            "logits) or --fixed-view (no augmentation), or export more --views"
        )
    if views > 1 and (distill.free_views or distill.fixed_view):
        raise DiveError(
            f"{cache.path} holds {views} views of each image and the student draws from those; "
            "--free-views and --fixed-view are for a cache of one view"
        )
    if distill.free_views and not (cache.views == cache.facts["clean id"]).all():
        raise DiveError(
            f"{cache.path} holds one view of each image, but not the clean one; --free-views needs a cache "
            "of --views clean"
        )


def _teacher_logits(
    cache: LogitCache, rows: np.ndarray, batch_size: int, device: torch.device, progress: Progress
) -> Callable[[], TeacherLogits]:
    """Makes the source of a student's teacher logits: on the device, shared by all, where they fit."""
    if fits(cache.logits.nbytes, device):
        resident = ResidentLogits(
            torch.from_numpy(cache.logits).to(device),  # on a CPU the mapped file itself
            torch.from_numpy(rows).to(device),
        )
        return lambda: resident
    progress.note(f"{cache.path} is larger than the memory there is and is streamed from its file")
    return lambda: StreamedLogits(cache.logits, rows, batch_size, device)


def _lesson(
    recipe: Recipe,
    out: Path,
    cache: LogitCache,
    rows: np.ndarray,
    teacher: Callable[[], TeacherLogits],
    distill: Distill,
) -> Lesson:
    views: Callable[[ViewSpace], FreeViews | StoredViews]
    views = FreeViews if distill.free_views else lambda space: StoredViews(cache.views[rows])

    def make_loss(log_counts: torch.Tensor) -> Loss:
        d = recipe.distillation

        def loss(student: torch.Tensor, labels: torch.Tensor, teacher: torch.Tensor | None) -> torch.Tensor:
            assert teacher is not None
            return losses.dive(
                student,
                labels,
                teacher,
                log_counts,
                tau=d.tau,
                power=d.power,
                student_tau=d.student_tau or d.tau,
                weight=d.weight,
            )

        return loss

    facts = {
        "loss": "dive",
        "cache hash": cache.hash,
        "cache": {key: cache.identity[key] for key in ("views", "view seed", "dtype")},
        "teacher": cache.facts["teacher"],
        "free views": distill.free_views,
        "fixed view": distill.fixed_view,
    }
    return Lesson("student", recipe, out, views, teacher, make_loss, facts, reads=(cache.path,))
