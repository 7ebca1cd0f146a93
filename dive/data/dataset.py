"""From a recipe to samples in memory: the one door through which commands get at images."""

from dive.data.longtail import Dataset, Samples, long_tailed, untouched_test
from dive.data.sources.registry import open_source
from dive.data.sources.source import Source
from dive.progress import Progress
from dive.recipe.recipe import Recipe


def load_dataset(recipe: Recipe, progress: Progress) -> Dataset:
    """The recipe's long-tailed training samples and its test samples.

    Raises DataError where they are missing, incomplete or corrupt.
    """
    source = open_source(recipe.data)
    _announce(source, progress)
    return Dataset(_drawn(source, recipe, progress), untouched_test(source))


def load_training(recipe: Recipe, progress: Progress) -> Samples:
    """The recipe's long-tailed training samples alone; raises DataError as `load_dataset` does."""
    source = open_source(recipe.data)
    _announce(source, progress)
    return _drawn(source, recipe, progress)


def _announce(source: Source, progress: Progress) -> None:
    if source.note:
        progress.warn(source.note)


def _drawn(source: Source, recipe: Recipe, progress: Progress) -> Samples:
    train = long_tailed(source, recipe.data)
    progress.note(
        f"{recipe.name}: {len(train)} training images of {len(train.classes)} classes "
        f"({train.counts.max()} to {train.counts.min()} a class)"
    )
    if recipe.data.source == "folder":
        progress.note("  " + _counts(train))
    return train


def _counts(train: Samples, most: int = 20) -> str:
    """Classes with their training images, largest first; the middle left out where they are many."""
    order = sorted(range(len(train.classes)), key=lambda c: -train.counts[c])
    listed = [f"{train.classes[c]} {train.counts[c]}" for c in order]
    if len(listed) > most:
        listed[most // 2 : -most // 2] = ["…"]
    return ", ".join(listed)


def load_test(recipe: Recipe, progress: Progress) -> Samples:
    """The recipe's test samples alone; raises DataError as `load_dataset` does."""
    source = open_source(recipe.data)
    _announce(source, progress)
    return untouched_test(source)
