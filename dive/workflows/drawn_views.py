"""A torch data set of the views that an export stores, without a cache: what other programs' teachers see."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dive.cache.stored_views import canonical_views, default_views, stored_views
from dive.feeds.images import one_view
from dive.progress import SILENT
from dive.recipe.recipe import Recipe
from dive.views.registry import view_space
from dive.workflows.data import load_recipe, load_training


class DrawnViews(Dataset[Any]):
    """The views that an export of a recipe stores, of its long-tailed draw: what a teacher is to classify.

    Item i is sample i // V in the view of column i % V, a uint8 tensor (channels, H, W), or what `transform`
    makes of it; there are N·V. In a DataLoader that does not shuffle, the logits of all items, reshaped to
    (N, V, C), are those to import. It can be pickled, for workers of a DataLoader however they are started:
    pictures in memory are pickled with it, photographs are read from their files.

    keys: N texts, `<class>/<file name>`. labels: (N,) int64, positions in `classes`. classes: C names.
    class_counts: (C,) int64, the samples of each. views: (N, V) integers, the view id of each column.

    Args:
        recipe: a recipe, or the name or file of one.
        views: `all`, `clean` or a number of views drawn for each sample, as `--views` of an export takes it;
            None takes what an export stores by default.
        transform: called on the uint8 tensor of a view. It should not augment: the student sees that view.

    Raises:
        RecipeError: the recipe has a fault.
        DataError: the pictures are missing, or have several sizes where the views need one; when an item is
            read, its file cannot be read or has changed.
        OptionError: the view space has no such views.

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
        if not -len(self) <= item < len(self):
            raise IndexError(f"there is no view {item}: there are {len(self)}")
        row, column = divmod(item % len(self), self.views.shape[1])
        view = torch.from_numpy(self.pixels(row, column)).permute(2, 0, 1).contiguous()
        return view if self.transform is None else self.transform(view)

    def pixels(self, row: int, column: int) -> np.ndarray:
        """A sample in the view of a column: (H, W, channels) uint8.

        Raises DataError where its picture cannot be read, or its file has changed.
        """
        read = self._pictures.decoded if self._space.made == "host" else self._pictures.read
        return one_view(self._space, read(row), int(self.views[row, column]))
