"""The part `data` of a recipe: a dataclass for each kind, with only the keys of that kind."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from dive.recipe import bounds
from dive.recipe.bounds import within
from dive.recipe.keys import SEED, key
from dive.recipe.keys import kind as named

# Keys that several kinds have: what a value must be, and what it means.
IMBALANCE = (
    within(1.0, 1e9),
    "ratio of the largest to the smallest class after the long-tailed draw; null keeps every image",
)
DRAWN = (SEED, "seed of the long-tailed draw")
_CIFAR = (bounds.path, "folder of the official files, an image folder, or a .zip of one")
_SHARES = within(*bounds.SHARES)


@dataclass(frozen=True)
class Data:
    """What every kind of data has in common.

    channels: of an image. mirrored: whether an image and its mirror image are of the same class. side: height
    and width of every image in pixels, None if they may differ. without_val: how to get a validation set, for
    a message. dividing: the keys that divide the images into training, test and validation sets.
    """

    channels: ClassVar[int] = 3
    mirrored: ClassVar[bool] = True
    side: ClassVar[int | None] = None
    without_val: ClassVar[str] = "data of this kind have none"
    dividing: ClassVar[tuple[str, ...]] = ()

    kind: str
    imbalance: float | None
    seed: int

    def identity(self) -> dict[str, Any]:
        """Which images these are, as plain values; independent of where they are stored."""
        drawn = ("kind", "imbalance", "seed")
        return {key: getattr(self, key) for key in drawn}

    def place(self) -> dict[str, Any]:
        """The keys with which the source of this kind is opened, for example where the images are."""
        drawn = ("kind", "imbalance", "seed")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in drawn}


@dataclass(frozen=True)
class Cifar100(Data):
    """CIFAR-100, in the folder `root`; downloaded if it is missing."""

    side: ClassVar[int | None] = 32

    kind: str = named("cifar100")
    root: str = key("data", *_CIFAR)
    imbalance: float | None = key(100.0, *IMBALANCE)
    seed: int = key(0, *DRAWN)


@dataclass(frozen=True)
class Cifar10(Data):
    """CIFAR-10, in the folder `root`; downloaded if it is missing."""

    side: ClassVar[int | None] = 32

    kind: str = named("cifar10")
    root: str = key("data", *_CIFAR)
    imbalance: float | None = key(100.0, *IMBALANCE)
    seed: int = key(0, *DRAWN)


@dataclass(frozen=True)
class Folder(Data):
    """An image folder, `root` (docs/your-own-images.md).

    Its layout is either `train/<class>/*` and `test/<class>/*`, with an optional `val/<class>/*`, or
    `<class>/*` alone. `test_share` and `val_share` are taken of each class, before the long-tailed draw. The
    files that they select depend on the file names only, not on `seed`.
    """

    without_val: ClassVar[str] = "lay out a val/ or set data.val_share, and train with it"
    dividing: ClassVar[tuple[str, ...]] = ("test_share", "val_share")

    kind: str = named("folder")
    root: str = key("data", bounds.path, "the image folder, or a .zip of one")
    test_share: float | None = key(
        None, _SHARES, "share of the images set aside as the test set; null: `test/` if it exists, else 0.2"
    )
    val_share: float | None = key(
        None,
        _SHARES,
        "share of the training images set aside for validation; null: `val/` if it exists, else none",
    )
    imbalance: float | None = key(None, *IMBALANCE)
    seed: int = key(0, *DRAWN)


@dataclass(frozen=True)
class Listed(Data):
    """Images below `root`, named by list files with a line `relative/path label` for each image."""

    without_val: ClassVar[str] = "name its list file with data.val_list"
    dividing: ClassVar[tuple[str, ...]] = ("train_list", "test_list", "val_list")

    kind: str = named("list")
    root: str = key("data", bounds.path, "folder to which the paths in the lists are relative")
    train_list: str = key("train.txt", bounds.path, "list file of the training images")
    test_list: str = key("test.txt", bounds.path, "list file of the test images")
    val_list: str | None = key(None, bounds.path, "list file of the validation images; null: none")
    classes: str | None = key(
        None, bounds.path, "file with one class name per line; null names a class after its images' folder"
    )
    imbalance: float | None = key(None, *IMBALANCE)
    seed: int = key(0, *DRAWN)


@dataclass(frozen=True)
class Digits(Data):
    """The greyscale digits of 8×8 pixels that come with scikit-learn. They need no download."""

    channels: ClassVar[int] = 1
    mirrored: ClassVar[bool] = False
    side: ClassVar[int | None] = 8

    kind: str = named("digits")
    imbalance: float | None = key(50.0, *IMBALANCE)
    seed: int = key(0, *DRAWN)
