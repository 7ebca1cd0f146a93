"""Importing the logits that another program computed for a recipe's training samples, as a logit cache."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dive.arguments import TakesTexts, require_choice
from dive.cache import seal
from dive.cache.encodings.registry import DEFAULT, ENCODINGS
from dive.cache.layout import Content
from dive.cache.reader import LogitCache
from dive.cache.stored_views import named_views
from dive.data.logit_files.logit_file import open_logits
from dive.data.longtail import Samples
from dive.errors import DataError, DiveError
from dive.progress import SILENT, Progress
from dive.recipe.recipe import Recipe
from dive.recipe.teachers import PRIORS, told_teachers
from dive.versions import versions
from dive.views.registry import view_space
from dive.views.space import ViewSpace
from dive.workflows.data import load_training
from dive.workflows.joined_logits import Joined, digests_of, summarised
from dive.workflows.origin import identity_of
from dive.workflows.places import cache_of
from dive.workflows.rewriting import Rewriting, encoding_named

KIND = "imported"  # the kind of teacher, see `dive.recipe.teachers`; also recorded as the logits' precision
WITH_PRIOR = "train"  # `prior` of logits that contain the class prior of the training set


@dataclass(frozen=True)
class ImportOptions(TakesTexts):
    """Options of `dive.import_logits`, besides the recipe and the file.

    prior: whether the logits contain the class prior of the training set. `train` if their network was
        trained on it with plain cross-entropy: the log of the class counts is then subtracted from them.
        `none` if they do not.
    out: the cache to write; None for cache/<recipe>.h5.
    store: the encoding: `float16`, `float32` or `int8`.
    force: start over and replace a finished cache.
    """

    prior: str
    out: Path | None = None
    store: str = DEFAULT
    force: bool = False


@dataclass(frozen=True)
class Imported:
    """The result of `dive.import_logits`. path: the cache. record: its properties, in plain values."""

    path: Path
    record: dict[str, Any]


def import_logits(
    recipe: Recipe, path: str | Path, options: ImportOptions, progress: Progress = SILENT
) -> Imported:
    """Write the logits in a file as a logit cache; returns the path and the record of the cache.

    Rows are joined with the recipe's training samples by key, columns with its classes by name. Samples that
    the file lacks are not in the cache, and rows of other samples are left out; `record` has the numbers of
    both, `missing` and `unknown`. An interrupted import is resumed.

    recipe: the recipe of the images and views.
    path: a .npz or .h5 file with `keys` (N texts), `logits` (N, C) or (N, V, C) of a floating type, `classes`
        (C texts) and, unless the logits are of the clean view, `views` (N, V) or (V,) of view ids.
    options: prior, encoding and output, see `ImportOptions`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.

    Raises:
        DataError: the images are missing; or the file lacks an array, has other classes than the recipe, has
            no sample of a class, or has logits that are not finite.
        DiveError: `prior` or `store` is invalid.
        OutputError: the output exists, cannot be written, or was begun from another file.

    >>> import dive, numpy as np
    >>> images = dive.open_images("digits_lt/bbn")
    >>> logits = np.random.default_rng(0).normal(size=(len(images), 10)) + 9 * np.eye(10)[images.labels]
    >>> np.savez("logits.npz", keys=np.array(list(images)), logits=logits, classes=np.array(images.classes))
    >>> options = dive.ImportOptions(prior="none", out=Path("imported.h5"))
    >>> dive.import_logits(dive.load_recipe("digits_lt/bbn"), Path("logits.npz"), options).record["shape"]
    [399, 1, 10]
    """
    _require_sound(options)
    path = Path(path)
    out = options.out or cache_of(recipe)
    rewriting = Rewriting(out, [path], options.force, "import")
    rewriting.refuse_finished()
    if path.is_file() and seal.KIND.is_own(path):
        raise DataError(f"{path} is a logit cache already; dive convert stores it in another encoding")
    with open_logits(path) as file:
        train = load_training(recipe, progress)
        joined = Joined.of(file, train, progress)
        space = view_space(recipe.views.kind, train.pictures.shape, **recipe.views.keys())
        log_prior = np.log(train.counts) if options.prior == WITH_PRIOR else np.zeros(len(train.classes))
        ids = joined.ids(space)
        summary = summarised(joined, ids, log_prior, progress)
        summary.warn_of_chance(path, progress)
        content = _content(recipe, joined.samples, options, space, ids, summary.logits_hash, path.stem)

        def values(samples: slice) -> np.ndarray:
            rows = np.arange(samples.start, samples.stop)
            logits = joined.logits(rows)
            if digests_of(ids[rows], logits) != summary.digests[samples]:
                raise DataError(f"{path} changed while it was read; import it again")
            return (logits - log_prior).astype(np.float32)

        told = f"{len(ids)} samples × {ids.shape[1]} views × {len(train.classes)} classes in {options.store}"
        seconds = rewriting.write(content, values, [], told, progress)
    record = {
        "cache": str(out),
        "from": str(path),
        "shape": list(content.shape),
        "store": options.store,
        "missing": len(train) - len(joined.samples),
        "unknown": len(file.keys) - len(joined.samples),
        "bytes": out.stat().st_size,
        "seconds": round(seconds, 1),
        "stored_views_accuracy": LogitCache(out).accuracy,
        "identity": content.identity,
        **content.facts,
    }
    return Imported(out, record)


def _require_sound(options: ImportOptions) -> None:
    require_choice("prior", options.prior, PRIORS)
    if encoding_named(options.store).of_features:
        stores = [name for name, encoding in ENCODINGS.items() if not encoding.of_features]
        raise DiveError(
            f"--store {options.store} stores the inputs of a network's last linear layer, which the file "
            f"does not have; give one of {', '.join(stores)}"
        )


def _content(
    recipe: Recipe,
    samples: Samples,
    options: ImportOptions,
    space: ViewSpace,
    ids: np.ndarray,
    logits_hash: str,
    name: str,
) -> Content:
    """The content of the cache besides its rows. name: of the imported file, without folder and suffix."""
    teacher = {"kind": KIND, "prior": options.prior}
    views = named_views(ids, space, recipe.views.seed, samples.hashes)
    of_teacher = told_teachers([teacher | {"logits_hash": logits_hash}])
    return Content(
        views=ids,
        labels=samples.labels,
        keys=samples.keys,
        digests=samples.digests,
        classes=samples.classes,
        class_counts=samples.counts,
        store=options.store,
        identity=identity_of(recipe, samples, space, views, options.store, of_teacher),
        facts={
            "precision": KIND,
            "clean_id": space.clean_id,
            **told_teachers([teacher | {"file": name, "logits_hash": logits_hash}]),
            "versions": versions(),
        },
    )
