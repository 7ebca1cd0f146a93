"""From a recipe to samples in memory: the one door through which commands get at images."""

from dive.longtail import Dataset, Samples, long_tailed, untouched_test
from dive.progress import Progress
from dive.recipe import Recipe
from dive.sources import open_source


def load_dataset(recipe: Recipe, progress: Progress) -> Dataset:
    """The recipe's long-tailed training samples and its test samples.

    Raises DataError where they are missing, incomplete or corrupt.
    """
    dataset = long_tailed(open_source(recipe.data), recipe.data)
    counts = dataset.train.counts
    progress.note(
        f"{recipe.name}: {len(dataset.train)} training images of {len(counts)} classes "
        f"({counts.max()} to {counts.min()} a class), {len(dataset.test)} test images"
    )
    if recipe.data.source == "folder":
        progress.note("  " + _counts(dataset.train))
    if dataset.note:
        progress.warn(dataset.note)
    return dataset


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
    if source.note:
        progress.warn(source.note)
    return untouched_test(source)
