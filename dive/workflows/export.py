"""Export: run a teacher once over every stored view of every training sample, into a logit cache."""

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive import files, outputs
from dive.cache import part, seal
from dive.cache.layout import Content
from dive.cache.part import part_path, require_own_files
from dive.cache.reader import LogitCache
from dive.cache.stored_views import canonical_views, default_views, stored_views
from dive.cache.writer import CacheWriter, unfinished
from dive.data.dataset import load_training
from dive.data.longtail import Samples
from dive.errors import CheckpointError, OutputError
from dive.feeds.images import ViewedImages
from dive.models import checkpoint
from dive.models.resnet import CifarResNet
from dive.progress import Progress, duration
from dive.recipe.documents import differences, plain
from dive.recipe.recipe import Recipe
from dive.training.device import NO_TF32, Runtime, choose_device, choose_precision, device_name, precisions
from dive.versions import versions, warn_if_others
from dive.views.registry import view_space
from dive.views.space import ViewSpace

BATCH = {"cpu": 256, "cuda": 2048}  # images of 32×32 in one forward pass


@dataclass(frozen=True)
class Export:
    """What the user asked of an export besides the recipe.

    views: `all`, `clean` or a number K of views drawn for each sample; None takes all, or 50 where
    the view space has no end.
    """

    teacher: Path
    out: Path
    views: str | None = None
    dtype: str = "float16"
    device: str = "auto"
    force: bool = False


@dataclass(frozen=True)
class Exported:
    """A finished export: where the cache is, and what it is, in plain values."""

    path: Path
    record: dict[str, Any]


def export_logits(recipe: Recipe, export: Export, progress: Progress) -> Exported:
    """Write the logit cache of a checkpoint; goes on with what an earlier export left.

    Raises CheckpointError where the checkpoint is of another architecture or another draw,
    OutputError where the output cannot be written or is another export's, DataError for the data.
    """
    _refuse_finished(export)
    device = choose_device(export.device)
    model, document = checkpoint.load_model(export.teacher)
    _check_architecture(export.teacher, document, recipe)
    train = load_training(recipe, progress)
    _check_draw(export.teacher, document, train)
    warn_if_others(document["versions"], str(export.teacher), progress)
    space = view_space(recipe.views, train.images.shape[1:])
    choice = default_views(space) if export.views is None else export.views
    export = replace(export, views=canonical_views(choice, space))
    images = ViewedImages(train.images, space, recipe.data.mean, recipe.data.std, device)
    views = stored_views(export.views, space, recipe.views.seed, train.hashes)
    identity = _identity(recipe, export, document, train, space)
    model = model.to(device, memory_format=torch.channels_last).eval()
    with outputs.only_writer(export.out):
        _refuse_finished(export)  # again: another process may have finished it meanwhile
        files.remove_stale(part_path(export.out))
        if export.force:
            part_path(export.out).unlink(missing_ok=True)
        runtime, facts = _runtime(recipe, export, images, model, document, identity, device, progress)
        content = Content(
            views=views,
            labels=train.labels,
            keys=train.keys,
            pixel_digests=train.pixel_digests,
            classes=train.classes,
            class_counts=train.counts,
            dtype=export.dtype,
            identity=identity,
            facts=facts,
        )
        n, v, c = content.shape
        size = files.readable_size(content.bytes)
        progress.note(f"{export.out}: {n} samples × {v} views × {c} classes in {export.dtype}: {size}")
        start = time.monotonic()
        with CacheWriter(export.out, content) as writer:
            write_missing(writer, model, images, views, runtime, progress)
            writer.finish()
    seconds = time.monotonic() - start
    progress.note(f"{export.out}: complete in {duration(seconds)}")
    record = {
        "cache": str(export.out),
        "shape": [n, v, c],
        "dtype": export.dtype,
        "bytes": export.out.stat().st_size,
        "seconds": round(seconds, 1),
        "accuracy over the stored views": LogitCache(export.out).accuracy,
        "device": device_name(device),
        "identity": identity,
        **facts,
    }
    return Exported(export.out, record)


def _refuse_finished(export: Export) -> None:
    """Refuse to replace a cache, unless asked to, or asked to when its unfinished successor was begun."""
    require_own_files(export.out)
    outputs.refuse_foreign(part_path(export.out), part.KIND)
    begun = part_path(export.out).exists()
    outputs.refuse_existing(export.out, export.force or begun, seal.KIND, [export.teacher])


def _check_architecture(path: Path, document: dict[str, Any], recipe: Recipe) -> None:
    name = document["architecture"]["name"]
    if name != recipe.model.name:
        raise CheckpointError(
            f"{path} is a {name}, the recipe {recipe.name} has a {recipe.model.name}; "
            "give the checkpoint's own recipe with --config"
        )


def _check_draw(path: Path, document: dict[str, Any], train: Samples) -> None:
    if document["data fingerprint"] != train.fingerprint:
        raise CheckpointError(
            f"{path} was trained on other images than the recipe draws: data fingerprint "
            f"{document['data fingerprint'][:12]}, here {train.fingerprint[:12]}; "
            "give the checkpoint's own recipe and data (--config, --data)"
        )


def _identity(
    recipe: Recipe, export: Export, document: dict[str, Any], train: Samples, space: ViewSpace
) -> dict[str, Any]:
    """What a cache is of: equal identities hold equal logits, but for the precision."""
    return {
        "recipe": recipe.name,
        "data": recipe.data.identity(),
        "data fingerprint": train.fingerprint,
        "view space": space.describe(),
        "views": export.views,
        "view seed": recipe.views.seed,
        "dtype": export.dtype,
        "teacher": {
            "kind": document["kind"],
            "weights hash": document["weights hash"],
            "architecture": document["architecture"],
        },
    }


def _runtime(
    recipe: Recipe,
    export: Export,
    images: ViewedImages,
    model: CifarResNet,
    document: dict[str, Any],
    identity: dict[str, Any],
    device: torch.device,
    progress: Progress,
) -> tuple[Runtime, dict[str, Any]]:
    """The precision of the export, and the facts its cache records: an earlier part's, or new."""
    wanted = recipe.precision
    steady = {"clean id": images.space.clean_id, "teacher": teacher_facts(document)}
    if (facts := unfinished(export.out, identity)) is not None:
        _require_same_facts(part_path(export.out), facts, steady)
        if wanted not in ("auto", facts["precision"]):
            raise OutputError(
                f"{part_path(export.out)} is an unfinished export in {facts['precision']}, not {wanted}; "
                f"give --precision {facts['precision']} to go on with it, or --force to start anew"
            )
        if facts["precision"] == "tf32" and "tf32" not in precisions(device):
            raise OutputError(
                f"{part_path(export.out)} is an unfinished export in tf32: {NO_TF32} on "
                f"{device_name(device)}; resume it on such a device, or --force to start anew"
            )
        warn_if_others(facts["versions"], str(part_path(export.out)), progress)
        return Runtime(device, facts["precision"], "as the stopped export"), facts
    rows = torch.arange(min(_batch_size(images, device), len(images)), device=device)
    batch = images.batch(rows, torch.full_like(rows, images.space.clean_id))
    runtime = choose_precision(wanted, device, model, batch)
    progress.note(f"precision {runtime.precision}: {runtime.reason}")
    return runtime, {"precision": runtime.precision, **steady, "versions": versions()}


def _require_same_facts(part: Path, facts: dict[str, Any], steady: dict[str, Any]) -> None:
    """Raise OutputError unless an unfinished export has the facts of this one.

    Its precision and versions are those it was begun with, and may be others than here.
    """
    own = ("precision", "versions")
    before = {key: value for key, value in facts.items() if key not in own}
    if different := differences(before, plain(steady)):
        raise OutputError(
            f"{part} is an unfinished export of another teacher ({'; '.join(different)}); "
            "give that teacher, another --out, or --force to start anew"
        )
    if not (isinstance(facts.get("precision"), str) and isinstance(facts.get("versions"), dict)):
        raise OutputError(f"{part} does not say its precision and versions; --force starts anew")


def teacher_facts(document: dict[str, Any]) -> dict[str, Any]:
    """What a cache records of the checkpoint it was made of, besides its identity; no paths."""
    facts = {key: document[key] for key in ("kind", "loss", "seed", "epochs", "accuracy", "precision")}
    return facts | {"recipe": {key: document["recipe"][key] for key in ("name", "schedule", "distillation")}}


def write_missing(
    writer: CacheWriter,
    model: CifarResNet,
    images: ViewedImages,
    views: np.ndarray,
    runtime: Runtime,
    progress: Progress,
) -> None:
    """Compute and write the blocks still missing; a thread writes one while the next is computed."""
    if writer.repaired:
        progress.warn("the unfinished export was damaged outside its logits and is repaired; check the disk")
    missing = writer.missing()
    if len(missing) < writer.blocks:
        progress.note(f"going on: {writer.blocks - len(missing)} of {writer.blocks} blocks are there already")
    with (
        ThreadPoolExecutor(1) as pool,
        progress.bar("export", writer.blocks, writer.blocks - len(missing)) as bar,
    ):
        writing = None
        for block in missing:
            said = ask(model, images, writer.rows(block), views, runtime)
            if writing is not None:
                writing.result()
                bar.advance()
            writing = pool.submit(lambda at, logits: writer.write(at, logits.numpy()), block, said)
        if writing is not None:
            writing.result()
            bar.advance()


@dataclass(frozen=True)
class _Said:
    """Logits (rows, V, C) float32 on the host, there once `ready`, a CUDA event; at once where it is None."""

    logits: torch.Tensor
    ready: torch.cuda.Event | None

    def numpy(self) -> np.ndarray:
        """The logits, waited for."""
        if self.ready is not None:
            self.ready.synchronize()
        return self.logits.numpy()


@torch.inference_mode()
def ask(
    model: CifarResNet, images: ViewedImages, samples: slice, views: np.ndarray, runtime: Runtime
) -> _Said:
    """The model's logits of each stored view of some samples, in order; on CUDA it is not waited for.

    The model must be in eval mode and on the runtime's device. views: (N, V).
    """
    device, block = runtime.device, views[samples]
    on_cuda = device.type == "cuda"
    rows = torch.arange(samples.start, samples.stop, device=device).repeat_interleave(block.shape[1])
    ids = torch.from_numpy(block.astype(np.int64).reshape(-1))
    ids = ids.pin_memory().to(device, non_blocking=True) if on_cuda else ids
    size = _batch_size(images, device)
    logits = []
    for some_rows, some_ids in zip(rows.split(size), ids.split(size), strict=True):
        with runtime.autocast():
            logits.append(model(images.batch(some_rows, some_ids)).float())
    together = torch.cat(logits).view(*block.shape, -1)
    if not on_cuda:
        return _Said(together, None)
    host = torch.empty(together.shape, pin_memory=True).copy_(together, non_blocking=True)
    ready = torch.cuda.Event(blocking=True)
    ready.record()
    return _Said(host, ready)


def _batch_size(images: ViewedImages, device: torch.device) -> int:
    """Images in one forward pass: fewer where they are larger."""
    pixels = images.space.height * images.space.width
    return max(1, BATCH[device.type] * 32 * 32 // max(pixels, 32 * 32))
