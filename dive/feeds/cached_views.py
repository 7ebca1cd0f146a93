"""A torch data set of stored views with the teacher's logits, for custom training loops."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from torch.utils.data import Dataset

from dive.cache.reader import LogitCache
from dive.data.images import LabelledImages
from dive.data.longtail import PIXELS
from dive.data.pictures import fit
from dive.errors import CacheError, DataError
from dive.feeds.images import views_of
from dive.randomness import epoch_choice, key_hashes
from dive.views.registry import described_space
from dive.views.space import ViewSpace, require_ids, require_same


class CachedViews(Dataset[tuple[Any, int, torch.Tensor]]):
    """A torch data set of a cache's samples: (image in a stored view, label, teacher's logits of that view).

    The image is a uint8 tensor (channels, H, W), or what `transform` returns for it. The label is an int, the
    logits are a float32 tensor (C,). The stored view of a sample is a function of (seed, epoch, key). Call
    `set_epoch` before each epoch; the workers of a DataLoader see the change too, also with
    `persistent_workers=True`.

    Samples and images are joined by key. An image is compared with its digest in the cache when it is read.
    The data set can be pickled; the files are opened again.

    Args:
        cache: the logit cache, from `dive.open_cache`.
        images: the training images of the cache, from `dive.open_images`.
        seed: seed of the choice of views.
        transform: called with the uint8 tensor of a view. It should not augment, as the logits are those of
            the view without that augmentation.

    Raises:
        CacheError: the cache does not describe its views, or this version computes other pixels for them.
        DataError: a sample has no image; on access, its image cannot be read or differs from its digest.

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
        self._epoch = torch.ones(1, dtype=torch.int64).share_memory_()  # so that workers see it change

    def __len__(self) -> int:
        return len(self.cache.keys)

    @property
    def epoch(self) -> int:
        """The current epoch, 1 at first."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Use the views of epoch `epoch` from now on, in the workers of a DataLoader too."""
        self._epoch.fill_(epoch)

    def column(self, row: int) -> int:
        """The column of `cache.views` from which sample `row` is taken in the current epoch."""
        return int(self._columns(np.array([row]))[0])

    def _columns(self, rows: np.ndarray) -> np.ndarray:
        return epoch_choice(self.seed, self.epoch, self._hashes[rows], self.cache.shape[1])

    def __getitem__(self, row: int) -> tuple[Any, int, torch.Tensor]:
        return self.__getitems__([row])[0]

    def __getitems__(self, rows: Sequence[int]) -> list[tuple[Any, int, torch.Tensor]]:
        """The items of several samples. A DataLoader asks for a batch in this way, which is faster."""
        for row in rows:
            if not -len(self) <= row < len(self):
                raise IndexError(f"there is no sample {row}: there are {len(self)}")
        own = np.asarray(rows, dtype=np.int64) % len(self)
        columns = self._columns(own)
        views = torch.from_numpy(self._pixels(own, columns)).permute(0, 3, 1, 2).contiguous()
        given = views if self.transform is None else map(self.transform, views)
        logits = torch.from_numpy(self.cache.logits(own, columns))
        return list(zip(given, self.cache.labels[own].tolist(), logits, strict=True))

    def pixels(self, row: int, column: int) -> np.ndarray:
        """Sample `row` in the view of column `column`: (H, W, channels) uint8.

        Raises DataError if the image cannot be read or differs from its digest in the cache.
        """
        return self._pixels(np.array([row]), np.array([column]))[0]

    def _pixels(self, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
        return views_of(self._space, map(self._picture, rows), self.cache.views[rows, columns])

    def _picture(self, row: int) -> np.ndarray:
        """The image of a sample in the size of the images that the teacher was given."""
        cache = self.cache
        picture, found = self.images.known_by(cache.keys[row], cache.identity.get("digests", PIXELS))
        if found != cache.digests[row].tobytes():
            raise DataError(
                f"{cache.keys[row]} is not the image that the teacher of {cache.path} was given; "
                "open the data set that it was exported from, or export again"
            )
        height, width = self._space.shape
        if height == width and self._space.made == "device":
            picture = fit(picture, height)
        return np.require(picture, requirements=("C", "W"))  # torch warns of read-only arrays


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
