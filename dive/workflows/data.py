"""Opening recipes by name or file, and their images, for all workflows."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from dive.data.images import LabelledImages
from dive.data.longtail import Dataset, Samples, long_tailed, untouched
from dive.data.pictures import HeldPictures
from dive.data.reading import Pictures, Reading
from dive.data.sources.registry import open_source
from dive.data.sources.source import Source, Split
from dive.errors import DataError
from dive.feeds.images import Images
from dive.files import readable_size
from dive.progress import SILENT, Progress
from dive.recipe.reading import load
from dive.recipe.recipe import Recipe
from dive.recipe.shipped import locate
from dive.workflows.places import index_of


def load_dataset(recipe: Recipe, progress: Progress, check: bool = False) -> Dataset:
    """The recipe's long-tailed training samples, its test samples, and its validation samples if it has any.

    check: decode each image file when it is indexed, if images are read on demand.

    Raises DataError if images are missing, incomplete or corrupt, or if the view space needs images of one
    size and they differ in size.
    """
    source = open_source(recipe.data.kind, **recipe.data.place())
    train = _training(source, recipe, progress, check)
    val = None if source.val is None else _untouched(source, "val", recipe, progress, check)
    dataset = Dataset(train, _untouched(source, "test", recipe, progress, check), val)
    if recipe.views.one_size:
        _require_one_size(dataset)
    return dataset


def load_training(recipe: Recipe, progress: Progress) -> Samples:
    """The recipe's long-tailed training samples only; raises DataError as `load_dataset` does."""
    return _training(open_source(recipe.data.kind, **recipe.data.place()), recipe, progress)


def load_test(recipe: Recipe, progress: Progress = SILENT) -> Samples:
    """The recipe's test samples only; raises DataError as `load_dataset` does."""
    return load_part(recipe, "test", progress)


def load_part(recipe: Recipe, part: str, progress: Progress) -> Samples:
    """The recipe's test or validation samples only. part: `test` or `val`.

    Raises DataError as `load_dataset` does, and if there is no validation set.
    """
    return _untouched(open_source(recipe.data.kind, **recipe.data.place()), part, recipe, progress)


def _training(source: Source, recipe: Recipe, progress: Progress, check: bool = False) -> Samples:
    data = recipe.data
    train = long_tailed(source, data.imbalance, data.seed, _reading(recipe, progress, check))
    _announce(train, recipe, progress)
    return train


def _reading(recipe: Recipe, progress: Progress, check: bool) -> Reading:
    views, root = recipe.views, recipe.data.place().get("root")
    index = None if root is None else index_of(root)
    return Reading(views.picture_size, not views.one_size, index, check, progress)


def _untouched(source: Source, part: str, recipe: Recipe, progress: Progress, check: bool = False) -> Samples:
    split: Split | None = getattr(source, part)
    if split is None:
        raise DataError(f"{recipe.name}: its data have no validation set; {recipe.data.without_val}")
    samples = untouched(split, source.classes, _reading(recipe, progress, check))
    if lacking := [source.classes[c] for c in range(len(source.classes)) if not samples.counts[c]]:
        images = {"test": "test", "val": "validation"}[part]
        shown = ", ".join(lacking[:10]) + (f" and {len(lacking) - 10} more" if len(lacking) > 10 else "")
        progress.warn(f"no {images} image of {shown}: left out of the accuracies of groups and classes")
    return samples


def _require_one_size(dataset: Dataset) -> None:
    """Raise DataError if test or validation images have another size than the training images."""
    train = dataset.train.pictures.shape
    for part, samples in (("test", dataset.test), ("validation", dataset.val)):
        shape = train if samples is None else samples.pictures.shape
        if shape != train and shape is not None and train is not None:
            raise DataError(
                f"training images have {train[1]}×{train[0]} pixels, {part} images {shape[1]}×{shape[0]}; "
                f"give them one size with views.size, for example --set views.size={min(train)}"
            )


def _announce(train: Samples, recipe: Recipe, progress: Progress) -> None:
    if (size := recipe.views.picture_size) is not None:
        progress.note(f"every image is resized and centre-cropped to {size}×{size} pixels (views.size)")
    progress.note(
        f"{recipe.name}: {len(train)} training images of {len(train.classes)} classes "
        f"({train.counts.max()} to {train.counts.min()} a class), {_where(train.pictures)}"
    )
    if recipe.data.imbalance is None:
        progress.note("  " + _counts(train))


def _where(pictures: Pictures) -> str:
    """Where the images are during a run, for a message."""
    if isinstance(pictures, HeldPictures):
        return f"{readable_size(pictures.nbytes)} in memory"
    return "read from their files when they are needed"


def warn_of_workers(images: Images, workers: int | None, progress: Progress) -> None:
    """Warn if `workers` is given but has no effect, because the images are resident on the device."""
    if workers is not None and images.resident:
        progress.warn("--workers has no effect here: the images are held in memory")


def _counts(train: Samples, most: int = 20) -> str:
    """Classes with their numbers of training images, largest first.

    If there are more than `most` classes, those in the middle are left out.
    """
    order = sorted(range(len(train.classes)), key=lambda c: -train.counts[c])
    listed = [f"{train.classes[c]} {train.counts[c]}" for c in order]
    if len(listed) > most:
        listed[most // 2 : -most // 2] = ["…"]
    return ", ".join(listed)


def load_recipe(config: str | Path | Mapping[str, Any] | None = None, *assignments: str) -> Recipe:
    """The recipe of a YAML file, of a shipped recipe's name, or of a mapping, checked.

    config: a YAML file, a name that `dive recipes` lists, or nested plain values; None for the paper's
        experiment. Keys that are left out have the paper's values.
    assignments: texts `KEY=VALUE` that override keys, as `--set` does: `"optimizer.lr=0.05"`.

    Raises RecipeError, which lists all unknown keys and invalid values together.

    >>> import dive
    >>> recipe = dive.load_recipe("digits_lt/bbn", "schedule.batch_size=64")
    >>> recipe.data.kind, recipe.schedule.batch_size
    ('digits', 64)
    """
    named = locate(Path(config)) if isinstance(config, str | Path) else config
    return load(named, assignments)


def open_images(data: str | Path | Recipe, split: str = "train") -> LabelledImages:
    """The images of a data set: a mapping from keys to arrays (H, W, channels) uint8, a `LabelledImages`.

    data: an image folder or a .zip of one, a `Recipe`, or the file or name of a recipe.
    split: `train`, `test` or `val`. `train` has every training image, not only the long-tailed draw.

    Raises:
        DataError: the images are missing, or there is no validation set.
        RecipeError: there is no such recipe, or it is invalid.
        ValueError: `split` has another value.

    >>> import dive
    >>> images = dive.open_images("digits_lt/bbn")
    >>> key = next(iter(images))
    >>> key, images[key].shape
    ('0/digit_0000', (8, 8, 1))
    """
    if isinstance(data, Recipe):
        return LabelledImages(data.data.kind, data.data.place(), split)
    path = Path(data)
    if path.is_dir() or path.suffix.lower() == ".zip":
        return LabelledImages("folder", {"root": str(path)}, split)
    return open_images(load_recipe(path), split)
