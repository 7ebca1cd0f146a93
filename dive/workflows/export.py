"""Exporting the logits of one or more teachers, in every stored view of every training sample, to a cache."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dive import files
from dive.arguments import TakesTexts, as_paths
from dive.cache.encodings.registry import DEFAULT
from dive.cache.layout import Content
from dive.cache.reader import LogitCache
from dive.cache.stored_views import canonical_views, default_views, stored_views
from dive.cache.writer import BlockWriter
from dive.errors import OutputError
from dive.feeds.images import Images
from dive.models.ensemble import AnyNetwork
from dive.progress import SILENT, Progress, duration
from dive.recipe.documents import differences, plain
from dive.recipe.recipe import Recipe
from dive.training.device import Runtime, choose_device, device_name
from dive.training.inference import batch_size, clean_plan
from dive.training.precision import NO_TF32, choose_precision, precisions
from dive.versions import versions, warn_if_others
from dive.views.registry import view_space
from dive.workflows.data import load_training, warn_of_workers
from dive.workflows.export_asked import Asked
from dive.workflows.export_blocks import write_missing
from dive.workflows.export_ranks import is_left_to_first, launch_of, one_voice, share_of
from dive.workflows.merge_shards import refuse_finished
from dive.workflows.origin import identity_of
from dive.workflows.places import cache_of, checkpoint_of
from dive.workflows.sharded import Begun, Job, Written, merge_of_world, write_share, write_whole
from dive.workflows.teachers.several import (
    OpenedTeachers,
    Teachers,
    require_own_of_checkpoint,
    require_prior,
)
from dive.workflows.teachers.teacher import Shown
from dive.workflows.teachers.trained import networks_of
from dive.world import World, this_world


@dataclass(frozen=True)
class ExportOptions(TakesTexts):
    """Options of `dive.export_logits`, besides the recipe.

    teacher: the path of a checkpoint, or the file or name of a recipe whose network dive did not train;
        several for the mean of their logits; None for checkpoints/<recipe>/teacher.pt.
    out: the cache to write; None for cache/<recipe>.h5.
    views: `all`, `clean`, or the number of views drawn for each sample, as a text; None for all, or for 50 if
        the view space is unbounded.
    store: the encoding: `float16`, `float32` or `int8` for logits, `features` or `features-int8` for the
        inputs of the teacher's last linear layer.
    device: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.
    force: start over and replace a finished cache.
    workers: processes that read images which are not held in memory, as in `TrainOptions`.
    own: the custom networks (`package.module:callable`) that a checkpoint may import and call, besides that
        of the recipe.
    prior: required for a teacher that dive did not train, and for no other: `train` if its logits contain the
        class prior of the training set, whose logarithm is then subtracted, else `none`.
    shard: (k, n) exports the k-th of n shards only, counted from 1, for `dive.merge_shards`; None for all.
    """

    teacher: Path | Sequence[Path] | None = None
    out: Path | None = None
    views: str | None = None
    store: str = DEFAULT
    device: str = "auto"
    force: bool = False
    workers: int | None = None
    own: Sequence[str] = ()
    prior: str | None = None
    shard: tuple[int, int] | None = None


@dataclass(frozen=True)
class Exported:
    """The result of `dive.export_logits`. path: the cache, or shard. record: its properties, plain values."""

    path: Path
    record: dict[str, Any]


def export_logits(
    recipe: Recipe, options: ExportOptions = ExportOptions(), progress: Progress = SILENT
) -> Exported:
    """Write the logit cache of a teacher or an ensemble; returns the path and the record of the cache.

    An interrupted export is resumed. Processes that torchrun starts export a shard each and return it;
    process 0 merges the shards, removes them, and returns the cache.

    recipe: the recipe of the images and views.
    options: teacher, views, encoding, output and more, see `ExportOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        CheckpointError: a checkpoint is missing or corrupt, was trained on other images than those of the
            recipe, is given twice, or is the only one and has another network than the recipe.
        DataError: the images are missing, or one cannot be read.
        DiveError: there is no such encoding, device or shard.
        ModelError: a network does not return logits of the classes of the data, or features are to be stored
            and it does not end in one linear layer.
        OptionError: `views`, `prior` or `own` is invalid, or `prior` is missing.
        OutputError: the output exists, cannot be written, or was begun by another export.
        RecipeError: the recipe of a teacher is missing or invalid.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn")
    >>> options = dive.ExportOptions(out=Path("clean.h5"), views="clean", device="cpu")
    >>> dive.export_logits(recipe, options).record["shape"]
    [399, 1, 10]
    """
    teachers = as_paths(options.teacher or checkpoint_of(recipe, "teacher"))
    wanted = _Wanted(**vars(options) | {"teacher": teachers, "out": options.out or cache_of(recipe)})
    world = this_world()
    with one_voice(world):
        return _export(recipe, wanted, world, progress)


@dataclass(frozen=True)
class _Wanted(ExportOptions):
    """Options whose `teacher` and `out` have been resolved."""

    teacher: tuple[Path, ...] = ()
    out: Path = Path()


def _export(recipe: Recipe, options: _Wanted, world: World, progress: Progress) -> Exported:
    require_prior(options.teacher, options.prior)
    require_own_of_checkpoint(options.teacher, options.own)
    share = share_of(options.shard, world)
    if is_left_to_first(options.out, options.force, world):
        return Exported(options.out, {})
    refuse_finished(options.out, options.force, options.teacher)
    device = choose_device(options.device)
    opened = OpenedTeachers.open(options.teacher, [*networks_of(recipe), *options.own], options.prior)
    opened.require_networks(recipe, options.own)
    train = load_training(recipe, progress)
    opened.require_draw(train)
    opened.warn_of_versions(progress)
    space = view_space(recipe.views.kind, train.pictures.shape, **recipe.views.keys())
    choice = default_views(space) if options.views is None else options.views
    choice = canonical_views(choice, space)
    options = replace(options, views=choice)
    images = Images(train.pictures, space, device, options.workers)
    warn_of_workers(images, options.workers, progress)
    views = stored_views(choice, space, recipe.views.seed, train.hashes)
    teachers = opened.shown(Shown(train.counts, train.pictures.channels, space.shape), progress)
    identity = identity_of(recipe, train, space, choice, options.store, teachers.identity())
    network = teachers.network(device)
    asked = Asked.of(network, options.store, options.teacher, train.pictures.channels, space.shape)
    n, v, c = *views.shape, len(train.classes)

    def choose(begun: Begun | None) -> tuple[Runtime, dict[str, Any]]:
        return _runtime(recipe, begun, images, network, teachers, device, progress)

    def content(facts: dict[str, Any]) -> Content:
        content = Content(
            views=views,
            labels=train.labels,
            keys=train.keys,
            digests=train.digests,
            classes=train.classes,
            class_counts=train.counts,
            store=options.store,
            identity=identity,
            facts=facts,
            head=asked.head,
        )
        size = files.readable_size(content.bytes)
        progress.note(f"{options.out}: {n} samples × {v} views × {c} classes in {options.store}: {size}")
        progress.note(asked.sizes(n * v, c, options.store))
        return content

    def compute(writer: BlockWriter, runtime: Runtime, missing: list[int]) -> None:
        if missing:
            teachers.warn_of_order(images, train, runtime, progress)
        write_missing(writer, asked.viewer, images, views, runtime, progress, missing)

    job = Job(options.out, options.teacher, identity, options.force, choose, content, compute)
    start = time.monotonic()
    if share is None:
        write_whole(job, progress)
    else:
        written = write_share(job, share, launch_of(world), progress)
        if options.shard is not None or not world.first:
            return _exported_shard(written, options.out, device, time.monotonic() - start)
        merge_of_world(job, written, world, launch_of(world), progress)
    seconds = time.monotonic() - start
    progress.note(f"{options.out}: complete in {duration(seconds)}")
    cache = LogitCache(options.out)
    record = {
        "cache": str(options.out),
        "shape": [n, v, c],
        "store": options.store,
        "bytes": options.out.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": cache.accuracy,
        "device": device_name(device),
        "identity": identity,
        **cache.facts,
    }
    return Exported(options.out, record)


def _exported_shard(written: Written, out: Path, device: torch.device, seconds: float) -> Exported:
    held = written.held
    record = {
        "cache": str(out),
        "shard": [written.share.number, written.share.of],
        "file": str(written.file) if written.file else None,
        "blocks": [held.start, held.stop - 1] if held else None,
        "seconds": round(seconds, 1),
        "device": device_name(device),
        "precision": written.content.facts["precision"],
    }
    return Exported(written.file or out, record)


def _runtime(
    recipe: Recipe,
    begun: Begun | None,
    images: Images,
    network: AnyNetwork,
    teachers: Teachers,
    device: torch.device,
    progress: Progress,
) -> tuple[Runtime, dict[str, Any]]:
    """The runtime of the export, and the facts that its cache records.

    begun: the unfinished export that is resumed or shared. Its precision and facts are used; without it, the
    precision is chosen on the first batch. Raises OutputError if `begun` has another precision than the
    recipe, is in TF32 and the device has none, or is of another teacher; DiveError if the device does not
    have the recipe's precision.
    """
    wanted, of_network = recipe.precision, teachers.versions
    steady = {"clean_id": images.space.clean_id, **teachers.facts()}
    if begun is not None:
        facts, file = begun.facts, begun.file
        _require_same_facts(file, facts, steady)
        if wanted not in ("auto", facts["precision"]):
            raise OutputError(
                f"{file} is an unfinished export in {facts['precision']}, not {wanted}; "
                f"give --precision {facts['precision']} to resume it, or --force to start over"
            )
        if facts["precision"] == "tf32" and "tf32" not in precisions(device):
            raise OutputError(
                f"{file} is an unfinished export in tf32: {NO_TF32} on "
                f"{device_name(device)}; resume it on such a device, or --force to start over"
            )
        warn_if_others(facts["versions"], str(file), progress, of_network)
        return Runtime(device, facts["precision"], "as the stopped export"), facts
    size = batch_size(images.space.shape, device, network)
    first = next(clean_plan(min(size, len(images)), images.space.clean_id, size))
    feed = images.feed(size)
    feed.begin([first])
    feed.load()
    places = (torch.from_numpy(index).to(device) for index in (first.rows, first.ids, first.columns))
    runtime = choose_precision(wanted, device, network, feed.batch(*places))
    progress.note(f"precision {runtime.precision}: {runtime.reason}")
    return runtime, {"precision": runtime.precision, **steady, "versions": versions() | of_network}


def _require_same_facts(part: Path, facts: dict[str, Any], steady: dict[str, Any]) -> None:
    """Raise OutputError unless an unfinished export has the facts of this one.

    Its precision and versions may differ from those here; the resumed export keeps them.
    """
    own = ("precision", "versions")
    before = {key: value for key, value in facts.items() if key not in own}
    if different := differences(before, plain(steady)):
        raise OutputError(
            f"{part} is an unfinished export of another teacher ({'; '.join(different)}); "
            "give that teacher, another --out, or --force to start over"
        )
    if not (isinstance(facts.get("precision"), str) and isinstance(facts.get("versions"), dict)):
        raise OutputError(f"{part} does not state its precision and versions; --force starts over")
