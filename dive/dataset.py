"""From a recipe to samples in memory: the one door through which commands get at images."""

from dive.longtail import Dataset, long_tailed
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
    if dataset.note:
        progress.warn(dataset.note)
    return dataset
