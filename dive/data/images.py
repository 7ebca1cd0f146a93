"""The images of a data set as a mapping by key, for programs that combine them with a logit cache."""

from collections.abc import Iterator, Mapping
from functools import cached_property
from typing import Any

import numpy as np

from dive.data.longtail import PIXELS
from dive.data.on_demand import file_digest
from dive.data.pictures import digest
from dive.data.sources.decode import decode
from dive.data.sources.registry import open_source
from dive.data.sources.source import Split
from dive.errors import DataError

SPLITS = ("train", "test", "val")


class LabelledImages(Mapping[str, np.ndarray]):
    """The images of one split of a data set: a mapping from keys to arrays (H, W, channels) uint8.

    `dive.open_images` returns it. The keys are `<class>/<file name>`, in ascending order. An image is read
    when it is accessed. A `LabelledImages` can be pickled: the location of the images is pickled, and the
    data set is opened again.

    Args:
        kind: the kind of data set, as `data.kind` of a recipe: `cifar100`, `cifar10`, `folder`, `list` or
            `digits`.
        place: the keys of `data` that locate the images, for example `{"root": "my_images"}`.
        split: `train`, `test` or `val`.

    Raises:
        DataError: the images or the validation set are missing; on access, an image cannot be read.
        KeyError: on access, there is no image with that key.
        ValueError: `split` has another value.
    """

    def __init__(self, kind: str, place: Mapping[str, Any], split: str = "train") -> None:
        if split not in SPLITS:
            raise ValueError(f"split must be train, test or val, not {split!r}")
        self._kind, self._place, self._name = kind, dict(place), split
        self._split  # noqa: B018  so that a missing data set is reported here

    @cached_property
    def _source(self) -> Any:
        return open_source(self._kind, **self._place)

    @cached_property
    def _split(self) -> Split:
        found = getattr(self._source, self._name)
        if found is None:
            raise DataError(f"the data set of kind {self._kind} has no validation set here")
        return found

    @cached_property
    def _position(self) -> dict[str, int]:
        return {key: position for position, key in enumerate(self._split.keys)}

    def __getstate__(self) -> dict[str, Any]:
        return {name: vars(self)[name] for name in ("_kind", "_place", "_name")}

    def __repr__(self) -> str:
        return f"<{len(self)} {self._name} images of {self._kind}>"

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the labels."""
        return self._source.classes

    @property
    def labels(self) -> np.ndarray:
        """The label of each image, (N,) int64: a position in `classes`."""
        return self._split.labels

    def __len__(self) -> int:
        return len(self._split.keys)

    def __iter__(self) -> Iterator[str]:
        return iter(self._split.keys)

    def __contains__(self, key: object) -> bool:
        return key in self._position

    def __getitem__(self, key: str) -> np.ndarray:
        if key not in self._position:
            raise KeyError(f"{self!r} has no image with the key {key!r}")
        with self._split.reading():
            return self._split.read(self._position[key])

    def known_by(self, key: str, digests_of: str) -> tuple[np.ndarray, bytes]:
        """The image with a key, (H, W, channels) uint8, and its digest, 16 bytes.

        digests_of: `pixels` for the digest of the pixels, `files` for that of the file's bytes.

        Raises KeyError if there is no such key, DataError if the image cannot be read or, for `files`, has no
        file of its own.
        """
        if digests_of == PIXELS:
            return (picture := self[key]), digest(picture)
        files, position = self._split.files, self._position[key]
        if files is None:
            raise DataError(f"the images of {self!r} do not have a file each")
        content = files.content(position)
        with self._split.reading():
            return decode(content, files.where(position), files.side), file_digest(content)

    def require(self, keys: list[str], where: str) -> None:
        """Raise DataError, with the first missing key, unless there is an image for every key.

        where: the origin of the keys, for the message.
        """
        if missing := [key for key in keys if key not in self._position]:
            raise DataError(
                f"{len(missing)} of {len(keys)} keys of {where} have no image in this data set, for example "
                f"{missing[0]}; open the data set that it was exported from"
            )
