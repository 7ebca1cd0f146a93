"""A torch data set of stored views with the teacher's logits, for training loops of your own."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dive.cache.reader import LogitCache
from dive.data.images import LabelledImages
from dive.data.longtail import PIXELS
from dive.data.pictures import fit
from dive.errors import CacheError, DataError
from dive.feeds.images import one_view
from dive.randomness import epoch_choice, key_hashes
from dive.views.registry import described_space
from dive.views.space import ViewSpace, require_ids, require_same


class CachedViews(Dataset[tuple[Any, int, torch.Tensor]]):
    """The samples of a cache: (picture in a stored view, label, the teacher's logits of that view).

    The picture is a uint8 tensor (channels, H, W), or what `transform` makes of it; the label an int; the
    logits float32 (C,). Which of its stored views a sample is seen in is a function of (seed, epoch, key):
    call `set_epoch` before each epoch, which reaches the workers of a DataLoader too, those that live on
    between epochs (`persistent_workers`) included. Samples are joined with pictures by key, and a picture
    whose pixels are not those that the teacher saw is an error. It can be pickled; files are opened again.

    Args:
        cache: the logit cache, of `dive.open_cache`.
        images: the pictures that it is of, by key, of `dive.open_images`.
        seed: of the choice of views.
        transform: called on the uint8 tensor of a view. It should not augment: the teacher has not seen that.

    Raises:
        CacheError: the cache does not say of which views it is, or this version makes those of other pixels.
        DataError: a sample of the cache has no picture, or, when it is read, another one.

    Example:
        >>> import dive
        >>> cache = dive.open_cache("cache/digits_lt_bbn.h5")
        >>> views = dive.CachedViews(cache, dive.open_images("digits_lt/bbn"))
        >>> views.set_epoch(1)
        >>> picture, label, teacher_logits = views[0]
        >>> picture.shape, teacher_logits.shape
        (torch.Size([1, 8, 8]), torch.Size([10]))
    """

    def __init__(
        self,
        cache: LogitCache,
        images: LabelledImages,
        seed: int = 0,
        transform: Callable[[torch.Tensor], Any] | None = None,
    ) -> None:
        self.cache, self.images, self.seed, self.transform = cache, images, seed, transform
        images.require(cache.keys, str(cache.path))
        self._space = _space_of(cache)
        self._hashes = key_hashes(cache.keys)
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()  # which workers see change

    def __len__(self) -> int:
        return len(self.cache.keys)

    @property
    def epoch(self) -> int:
        """The epoch whose views are given, from 1."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Give the views of epoch `epoch` from now on."""
        self._epoch.fill_(epoch)

    def column(self, row: int) -> int:
        """The column of the cache that a sample is seen in in this epoch."""
        hashes = self._hashes[row : row + 1]
        return int(epoch_choice(self.seed, self.epoch, hashes, self.cache.shape[1])[0])

    def __getitem__(self, row: int) -> tuple[Any, int, torch.Tensor]:
        if not -len(self) <= row < len(self):
            raise IndexError(f"there is no sample {row}: there are {len(self)}")
        row %= len(self)
        column, cache = self.column(row), self.cache
        view = torch.from_numpy(self.pixels(row, column)).permute(2, 0, 1).contiguous()
        logits = torch.from_numpy(cache.logits([row], [column])[0])
        return view if self.transform is None else self.transform(view), int(cache.labels[row]), logits

    def pixels(self, row: int, column: int) -> np.ndarray:
        """A sample in the view of a column of the cache: (H, W, channels) uint8.

        Raises DataError where its picture cannot be read, or is another one than the teacher saw.
        """
        cache = self.cache
        picture, found = self.images.known_by(cache.keys[row], cache.identity.get("digests", PIXELS))
        if found != cache.digests[row].tobytes():
            raise DataError(
                f"{cache.keys[row]} is another picture than the teacher of {cache.path} saw; "
                "open the data set that it was exported from, or export again"
            )
        height, width = self._space.shape
        if height == width and self._space.made == "device":
            picture = fit(picture, height)  # as the data set that the teacher saw
        writable = np.require(picture, requirements=("C", "W"))  # torch warns of others
        return one_view(self._space, writable, int(cache.views[row, column]))


def _space_of(cache: LogitCache) -> ViewSpace:
    said = cache.identity.get("view_space")
    described: dict[str, Any] = said if isinstance(said, dict) else {}
    try:
        space = described_space(described)
    except ValueError as error:
        raise CacheError(
            f"{cache.path} does not say which views it holds: {error}; export it again"
        ) from error
    require_same(space, described, str(cache.path))
    require_ids(space, cache.views, str(cache.path))
    return space
