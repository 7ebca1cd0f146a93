"""The recipe's part `data`: a dataclass for each kind, with that kind's keys alone."""

import dataclasses
from dataclasses import dataclass
from typing import Any, ClassVar

from dive.recipe import bounds
from dive.recipe.bounds import within
from dive.recipe.keys import IMBALANCE, SEED, key
from dive.recipe.keys import kind as named


@dataclass(frozen=True)
class Data:
    """What every kind of data has in common.

    channels: of a picture. mirrored: whether a picture and its mirror image are of one class. side: pixels of
    each side of every picture, None where they may differ. without_val: how to get a validation part.
    dividing: the keys that say which pictures are of which part.
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
        """Which pictures these are, as plain values; where they lie does not matter."""
        drawn = ("kind", "imbalance", "seed")
        return {key: getattr(self, key) for key in drawn}

    def place(self) -> dict[str, Any]:
        """The keys that say where the pictures are: what the source of this kind is opened with."""
        drawn = ("kind", "imbalance", "seed")
        return {key: value for key, value in dataclasses.asdict(self).items() if key not in drawn}


@dataclass(frozen=True)
class Cifar100(Data):
    """CIFAR-100 below `root`, downloaded if it is missing.

    `imbalance` is the ratio of the largest to the smallest class after the draw by `seed`; null takes the
    classes as they are.
    """

    side: ClassVar[int | None] = 32

    kind: str = named("cifar100")
    root: str = key("data", bounds.path)
    imbalance: float | None = key(100.0, IMBALANCE)
    seed: int = key(0, SEED)


@dataclass(frozen=True)
class Cifar10(Data):
    """CIFAR-10 below `root`, downloaded if it is missing; drawn as `cifar100` is."""

    side: ClassVar[int | None] = 32

    kind: str = named("cifar10")
    root: str = key("data", bounds.path)
    imbalance: float | None = key(100.0, IMBALANCE)
    seed: int = key(0, SEED)


@dataclass(frozen=True)
class Folder(Data):
    """Your own pictures below `root`, a folder or a .zip of one.

    Either `train/<class>/*` and `test/<class>/*`, and perhaps `val/<class>/*`, or `<class>/*` alone.
    In the latter case `test_share` of each class is the test part, null is 0.2; in the former it must be
    null. `val_share` of each class's training pictures is set aside for validation before the draw; null sets
    none aside. Where there is a val/ it must be null. Shares depend on the file names alone, not on `seed`.
    """

    without_val: ClassVar[str] = "lay out a val/ or set data.val_share, and train with it"
    dividing: ClassVar[tuple[str, ...]] = ("test_share", "val_share")

    kind: str = named("folder")
    root: str = key("data", bounds.path)
    test_share: float | None = key(None, within(*bounds.SHARES))
    val_share: float | None = key(None, within(*bounds.SHARES))
    imbalance: float | None = key(None, IMBALANCE)
    seed: int = key(0, SEED)


@dataclass(frozen=True)
class Listed(Data):
    """Pictures below `root` that list files name, `relative/path label` a line, as large sets come.

    `val_list` names pictures for validation; null is none. `classes` is a file of class names, one a line;
    null calls a class after the folder of its pictures.
    """

    without_val: ClassVar[str] = "name a list of one with data.val_list"
    dividing: ClassVar[tuple[str, ...]] = ("train_list", "test_list", "val_list")

    kind: str = named("list")
    root: str = key("data", bounds.path)
    train_list: str = key("train.txt", bounds.path)
    test_list: str = key("test.txt", bounds.path)
    val_list: str | None = key(None, bounds.path)
    classes: str | None = key(None, bounds.path)
    imbalance: float | None = key(None, IMBALANCE)
    seed: int = key(0, SEED)


@dataclass(frozen=True)
class Digits(Data):
    """The grey digits of 8×8 pixels that come with scikit-learn, for a first run without a download."""

    channels: ClassVar[int] = 1
    mirrored: ClassVar[bool] = False
    side: ClassVar[int | None] = 8

    kind: str = named("digits")
    imbalance: float | None = key(50.0, IMBALANCE)
    seed: int = key(0, SEED)
