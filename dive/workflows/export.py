"""Export: run a teacher once over every stored view of every training sample, into a logit cache."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.encodings.registry import DEFAULT
from dive.cache.layout import Content
from dive.cache.part import part_path, require_own_files
from dive.cache.reader import LogitCache
from dive.cache.stored_views import canonical_views, default_views, stored_views
from dive.cache.writer import CacheWriter, unfinished
from dive.data.longtail import FILES, PIXELS, Samples
from dive.errors import CheckpointError, OutputError
from dive.feeds.images import Images
from dive.models import checkpoint
from dive.models.network import Network
from dive.models.registry import network_versions
from dive.progress import SILENT, Progress, duration
from dive.recipe.documents import differences, plain
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from dive.training.device import NO_TF32, Runtime, choose_device, choose_precision, device_name, precisions
from dive.training.inference import batch_size, clean_plan
from dive.versions import versions, warn_if_others
from dive.views.registry import view_space
from dive.views.space import ViewSpace
from dive.workflows.data import load_training, warn_of_workers
from dive.workflows.export_asked import Asked
from dive.workflows.export_blocks import write_missing
from dive.workflows.places import cache_of, checkpoint_of
from dive.workflows.results import INITIAL


@dataclass(frozen=True)
class ExportOptions:
    """What is asked of an export besides the recipe.

    teacher: the checkpoint to ask, checkpoints/<recipe>/teacher.pt if not given. out: the cache to write,
    cache/<recipe>.h5 if not given. views: `all`, `clean` or a number K of views drawn for each sample; None
    takes all, or 50 where the view space is unbounded. store: the name of an encoding. workers: as those of
    training.
    """

    teacher: Path | None = None
    out: Path | None = None
    views: str | None = None
    store: str = DEFAULT
    device: str = "auto"
    force: bool = False
    workers: int | None = None


@dataclass(frozen=True)
class Exported:
    """A finished export: where the cache is, and what it is, in plain values."""

    path: Path
    record: dict[str, Any]


def export_logits(
    recipe: Recipe, options: ExportOptions = ExportOptions(), progress: Progress = SILENT
) -> Exported:
    """Write the logit cache of a checkpoint; resumes what an earlier export left.

    Raises CheckpointError where the checkpoint is of another architecture or another draw, ModelError where
    features are to be stored of a network that does not end in one Linear, OutputError where the output
    cannot be written or is another export's, DataError for the data.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn")
    >>> options = dive.ExportOptions(out=Path("clean.h5"), views="clean", device="cpu")
    >>> dive.export_logits(recipe, options).record["shape"]
    [399, 1, 10]
    """
    teacher, out = options.teacher or checkpoint_of(recipe, "teacher"), options.out or cache_of(recipe)
    wanted = _Wanted(**vars(options) | {"teacher": teacher, "out": out})
    return _export(recipe, wanted, progress)


@dataclass(frozen=True)
class _Wanted(ExportOptions):
    """Options of which teacher and output are given."""

    teacher: Path = Path()
    out: Path = Path()


def _export(recipe: Recipe, options: _Wanted, progress: Progress) -> Exported:
    _refuse_finished(options)
    device = choose_device(options.device)
    network, document = checkpoint.load_model(options.teacher, _networks(recipe))
    _check_architecture(options.teacher, document, recipe)
    train = load_training(recipe, progress)
    _check_draw(options.teacher, document, train)
    of_network = network_versions(document["architecture"]["name"])
    warn_if_others(document["versions"], str(options.teacher), progress, of_network)
    space = view_space(recipe.views.kind, train.pictures.shape, **recipe.views.keys())
    choice = default_views(space) if options.views is None else options.views
    choice = canonical_views(choice, space)
    options = replace(options, views=choice)
    images = Images(train.pictures, space, device, options.workers)
    warn_of_workers(images, options.workers, progress)
    views = stored_views(choice, space, recipe.views.seed, train.hashes)
    identity = _identity(recipe, options, document, train, space)
    network = network.on(device).eval()
    asked = Asked.of(network, options.store, options.teacher, train.pictures.channels, space.shape)
    with outputs.only_writer(options.out):
        _refuse_finished(options)  # again: another process may have finished it meanwhile
        files.remove_stale(part_path(options.out))
        if options.force:
            part_path(options.out).unlink(missing_ok=True)
        runtime, facts = _runtime(recipe, options, images, network, document, identity, device, progress)
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
        n, v, c = content.shape
        size = files.readable_size(content.bytes)
        progress.note(f"{options.out}: {n} samples × {v} views × {c} classes in {options.store}: {size}")
        progress.note(asked.sizes(n * v, c, options.store))
        start = time.monotonic()
        with CacheWriter(options.out, content) as writer:
            write_missing(writer, asked.viewer, images, views, runtime, progress)
            writer.finish()
    seconds = time.monotonic() - start
    progress.note(f"{options.out}: complete in {duration(seconds)}")
    record = {
        "cache": str(options.out),
        "shape": [n, v, c],
        "store": options.store,
        "bytes": options.out.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": LogitCache(options.out).accuracy,
        "device": device_name(device),
        "identity": identity,
        **facts,
    }
    return Exported(options.out, record)


def _refuse_finished(options: _Wanted) -> None:
    """Refuse to replace a cache, unless asked to, or asked to when its unfinished successor was begun."""
    require_own_files(options.out)
    outputs.refuse_foreign(part_path(options.out), part.KIND)
    begun = part_path(options.out).exists()
    outputs.refuse_existing(options.out, options.force or begun, seal.KIND, [options.teacher])


def _check_architecture(path: Path, document: dict[str, Any], recipe: Recipe) -> None:
    name, networks = document["architecture"]["name"], _networks(recipe)
    if name not in networks:
        raise CheckpointError(
            f"{path} is a {name}, the recipe {recipe.name} has a {' and a '.join(networks)}; "
            "give the checkpoint's own recipe with --config"
        )


def _networks(recipe: Recipe) -> list[str]:
    """The networks of a recipe: its teacher's, and its student's, which may be exported as well."""
    return list(dict.fromkeys([recipe.model.name, recipe.of_student.model.name]))


def _check_draw(path: Path, document: dict[str, Any], train: Samples) -> None:
    digests_of = document.get("digests", PIXELS)
    if digests_of == FILES != train.digests_of:
        raise CheckpointError(
            f"{path} was trained on pictures read from their files on demand, the recipe's views hold them "
            "in memory; give the checkpoint's own recipe with --config"
        )
    fingerprint = train.fingerprint_of(document["fingerprint_version"], digests_of)
    if document["data_fingerprint"] != fingerprint:
        raise CheckpointError(
            f"{path} was trained on other images than the recipe draws: data fingerprint "
            f"{document['data_fingerprint'][:12]}, here {fingerprint[:12]}; "
            "give the checkpoint's own recipe and data (--config, --data)"
        )


def _identity(
    recipe: Recipe, options: _Wanted, document: dict[str, Any], train: Samples, space: ViewSpace
) -> dict[str, Any]:
    """What a cache is of: equal identities hold equal rows, but for the precision."""
    return {
        "recipe": recipe.name,
        "data": recipe.data.identity(),
        "data_fingerprint": train.fingerprint,
        "digests": train.digests_of,
        "picture_size": recipe.views.picture_size,
        "view_space": space.describe(),
        "views": options.views,
        "view_seed": recipe.views.seed,
        "store": options.store,
        "teacher": {
            "kind": document["kind"],
            "weights_hash": document["weights_hash"],
            "architecture": document["architecture"],
        },
    }


def _runtime(
    recipe: Recipe,
    options: _Wanted,
    images: Images,
    network: Network,
    document: dict[str, Any],
    identity: dict[str, Any],
    device: torch.device,
    progress: Progress,
) -> tuple[Runtime, dict[str, Any]]:
    """The precision of the export, and the facts its cache records: an earlier part's, or new."""
    wanted, of_network = recipe.precision, network_versions(document["architecture"]["name"])
    steady = {"clean_id": images.space.clean_id, "teacher": teacher_facts(document)}
    if (facts := unfinished(options.out, identity)) is not None:
        _require_same_facts(part_path(options.out), facts, steady)
        if wanted not in ("auto", facts["precision"]):
            raise OutputError(
                f"{part_path(options.out)} is an unfinished export in {facts['precision']}, not {wanted}; "
                f"give --precision {facts['precision']} to resume it, or --force to start over"
            )
        if facts["precision"] == "tf32" and "tf32" not in precisions(device):
            raise OutputError(
                f"{part_path(options.out)} is an unfinished export in tf32: {NO_TF32} on "
                f"{device_name(device)}; resume it on such a device, or --force to start over"
            )
        warn_if_others(facts["versions"], str(part_path(options.out)), progress, of_network)
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

    Its precision and versions are those it was begun with, and may be others than here.
    """
    own = ("precision", "versions")
    before = {key: value for key, value in facts.items() if key not in own}
    if different := differences(before, plain(steady)):
        raise OutputError(
            f"{part} is an unfinished export of another teacher ({'; '.join(different)}); "
            "give that teacher, another --out, or --force to start over"
        )
    if not (isinstance(facts.get("precision"), str) and isinstance(facts.get("versions"), dict)):
        raise OutputError(f"{part} does not say its precision and versions; --force starts over")


def teacher_facts(document: dict[str, Any]) -> dict[str, Any]:
    """What a cache records of the checkpoint it was made of, besides its identity; no paths."""
    facts = {key: document[key] for key in ("kind", "loss", "seed", "epochs", "accuracy", "precision")}
    facts |= {key: document[key] for key in ("val_accuracy", INITIAL) if key in document}
    recipe = build(document["recipe"]).as_dict()  # complete, whatever version wrote it
    return facts | {"recipe": {key: recipe[key] for key in ("name", "schedule", "distillation")}}
