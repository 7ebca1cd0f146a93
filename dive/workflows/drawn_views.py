"""A torch data set of the views that an export stores, without a cache, for teachers of other programs."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dive.cache.stored_views import canonical_views, default_views, stored_views
from dive.feeds.images import views_of
from dive.progress import SILENT
from dive.recipe.recipe import Recipe
from dive.views.registry import view_space
from dive.workflows.data import load_recipe, load_training


class DrawnViews(Dataset[Any]):
    """A torch data set of the views that an export of a recipe stores of the images of its long-tailed draw.

    It has N·V items, for N samples in V views each. Item i is sample i // V in the view of column i % V: a
    uint8 tensor (channels, H, W), or what `transform` returns for it. `dive.import_logits` takes the logits
    of all items in this order, reshaped to (N, V, C); do not shuffle the DataLoader. The data set can be
    pickled: images that are held in memory are pickled with it, others are read from their files.

    keys: the key of each sample, `<class>/<file name>`, N texts.
    labels: (N,) int64, positions in `classes`.
    classes: C names.
    class_counts: (C,) int64, the samples of each class.
    views: (N, V) integers, the id of the view in each column.

    Args:
        recipe: a `Recipe`, or the file or name of one.
        views: `all`, `clean`, or the number of views drawn for each sample. None takes the default of an
            export: all, or 50 if the view space is unbounded.
        transform: called with the uint8 tensor of a view. It should not augment, as the student sees the view
            without that augmentation.

    Raises:
        RecipeError: there is no such recipe, or it is invalid.
        DataError: the images are missing, or differ in size and the view space needs one size; on access, a
            file cannot be read or has changed.
        OptionError: the view space does not have such views.

    Example:
        >>> import dive, torch
        >>> from torch.utils.data import DataLoader
        >>> drawn = dive.DrawnViews("digits_lt/bbn", views=4)
        >>> len(drawn), drawn.views.shape, drawn[0].shape
        (1596, (399, 4), torch.Size([1, 8, 8]))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
        >>> logits = torch.cat([network(batch.float() / 255) for batch in DataLoader(drawn, batch_size=256)])
        >>> logits.reshape(*drawn.views.shape, -1).shape
        torch.Size([399, 4, 10])
    """

    def __init__(
        self,
        recipe: Recipe | str | Path,
        views: str | int | None = None,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        recipe = recipe if isinstance(recipe, Recipe) else load_recipe(recipe)
        train = load_training(recipe, SILENT)
        space = view_space(recipe.views.kind, train.pictures.shape, **recipe.views.keys())
        choice = canonical_views(default_views(space) if views is None else str(views), space)
        self.keys, self.labels = train.keys, train.labels
        self.classes, self.class_counts = train.classes, train.counts
        self.views = stored_views(choice, space, recipe.views.seed, train.hashes)
        self.transform = transform
        self._pictures, self._space = train.pictures, space

    def __len__(self) -> int:
        return self.views.size

    def __getitem__(self, item: int) -> Any:
        return self.__getitems__([item])[0]

    def __getitems__(self, items: Sequence[int]) -> list[Any]:
        """Several items. A DataLoader asks for a batch in this way, which is faster."""
        for item in items:
            if not -len(self) <= item < len(self):
                raise IndexError(f"there is no view {item}: there are {len(self)}")
        rows, columns = np.divmod(np.asarray(items, dtype=np.int64) % len(self), self.views.shape[1])
        views = torch.from_numpy(self._pixels(rows, columns)).permute(0, 3, 1, 2).contiguous()
        return list(views if self.transform is None else map(self.transform, views))

    def pixels(self, row: int, column: int) -> np.ndarray:
        """Sample `row` in the view of column `column`: (H, W, channels) uint8.

        Raises DataError if the image cannot be read or its file has changed.
        """
        return self._pixels(np.array([row]), np.array([column]))[0]

    def _pixels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        read = self._pictures.decoded if self._space.made == "host" else self._pictures.read
        return views_of(self._space, map(read, rows), self.views[rows, columns])
