"""The teachers of a cache, opened from their files: one teacher, or those of an ensemble."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dive.data.longtail import Samples
from dive.errors import CheckpointError, OptionError
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.method.agreement import Agreement
from dive.models.ensemble import AnyNetwork, Ensemble, equal_shares
from dive.progress import Progress
from dive.recipe.recipe import Recipe
from dive.recipe.teachers import PRIORS, told_teachers
from dive.training.device import Runtime
from dive.training.inference import batch_size, outputs
from dive.workflows.classifier import is_recipe
from dive.workflows.teachers.foreign import ForeignFile
from dive.workflows.teachers.teacher import Opened, Shown, Teacher
from dive.workflows.teachers.trained import Trained

_ASKED_OF_ORDER = 512  # the most images on which the order of a teacher's classes is checked


@dataclass(frozen=True)
class OpenedTeachers:
    """Teachers whose files have been read, in the order in which they were given."""

    each: tuple[Opened, ...]

    @classmethod
    def open(cls, paths: Sequence[Path], own: Collection[str], prior: str | None = None) -> "OpenedTeachers":
        """Open teachers from their files: checkpoints, and recipes for foreign teachers.

        own: custom networks that a checkpoint may have. prior: of the foreign teachers; None stands for
        `none`. Raises CheckpointError, RecipeError or ModelError if one cannot be used.
        """
        return cls(tuple(_opened(path, own, prior or "none") for path in paths))

    @property
    def recipe(self) -> dict[str, Any] | None:
        """The recipe of the first teacher that has one, which draws the images; None if none has one."""
        return next((one.recipe for one in self.each if one.recipe is not None), None)

    def require_networks(self, recipe: Recipe, own: Sequence[str]) -> None:
        """Raise CheckpointError if a single teacher's network is named neither in the recipe nor in `own`.

        The networks of an ensemble may differ from those of the recipe.
        """
        if len(self.each) == 1:
            self.each[0].require_network(recipe, own)

    def require_draw(self, train: Samples) -> None:
        """Raise CheckpointError if one was trained on other images, as far as that is known."""
        for one in self.each:
            one.require_draw(train)

    def warn_of_versions(self, progress: Progress) -> None:
        """Warn if one was trained with other versions of torch or of its network than are installed."""
        for one in self.each:
            one.warn_of_versions(progress)

    def shown(self, views: Shown, progress: Progress) -> "Teachers":
        """The teachers with their networks; see `Opened.shown`.

        Raises CheckpointError if two have the same weights.
        """
        teachers = tuple(one.shown(views, progress) for one in self.each)
        first: dict[str, Path] = {}
        for teacher in teachers:
            weights = teacher.weights_hash
            if (other := first.get(weights)) is not None:
                raise CheckpointError(f"{teacher.path} has the weights of {other}; give each teacher once")
            first[weights] = teacher.path
        return Teachers(teachers)


def _opened(path: Path, own: Collection[str], prior: str) -> Opened:
    return ForeignFile.open(path, prior) if is_recipe(path) else Trained.open(path, own)


@dataclass(frozen=True)
class Teachers:
    """Teachers with their networks, in the order in which they were given."""

    each: tuple[Teacher, ...]

    @property
    def paths(self) -> tuple[Path, ...]:
        """The files, or names of shipped recipes, from which they were opened."""
        return tuple(teacher.path for teacher in self.each)

    def network(self, device: torch.device) -> AnyNetwork:
        """The network on a device; for several teachers, an ensemble that returns their mean logits."""
        on_device = [teacher.network.on(device) for teacher in self.each]
        return on_device[0] if len(on_device) == 1 else Ensemble(on_device).eval()

    @property
    def versions(self) -> dict[str, str]:
        """The installed versions of the sources of their networks."""
        return {name: version for one in self.each for name, version in one.versions.items()}

    def identity(self) -> dict[str, Any]:
        """The entries for them in the identity of a cache; for an ensemble, including their equal weights."""
        weights = {} if len(self.each) == 1 else {"teacher_weights": equal_shares(len(self.each))}
        return told_teachers([teacher.identity() for teacher in self.each]) | weights

    def facts(self) -> dict[str, Any]:
        """The entry for them in the facts of a cache, without paths."""
        return told_teachers([teacher.facts() for teacher in self.each])

    def warn_of_order(self, images: Images, train: Samples, runtime: Runtime, progress: Progress) -> None:
        """Warn of each foreign teacher whose classes are probably in another order than those of the data.

        Each teacher is run alone, also in an ensemble, on the clean views of up to 512 training images, which
        are spread over all of them.
        """
        for teacher in self.each:
            if teacher.tells_classes:
                continue
            agreement = _agreement(teacher, images, train, runtime)
            if agreement.tells_nothing:
                told = agreement.told(f"{agreement.images} training images")
                progress.warn(f"{teacher.path} is {told}; its classes are probably not in the data's order")


def _agreement(teacher: Teacher, images: Images, train: Samples, runtime: Runtime) -> Agreement:
    """How well a teacher's predictions agree with the labels of some training images."""
    rows = np.unique(np.linspace(0, len(train) - 1, _ASKED_OF_ORDER).astype(np.int64))
    network = teacher.network.on(runtime.device)
    size = batch_size(images.space.shape, runtime.device, network)
    plan = Batch(rows, np.full_like(rows, images.space.clean_id), np.zeros_like(rows)).split(size)
    answers = [logits.argmax(dim=1).cpu() for logits in outputs(network, images, plan, runtime)]
    predicted, labels, classes = torch.cat(answers).numpy(), train.labels[rows], len(train.classes)
    return Agreement.of(
        np.bincount(predicted, minlength=classes),
        np.bincount(labels, minlength=classes),
        int((predicted == labels).sum()),
        len(rows),
    )


def require_own_of_checkpoint(paths: Sequence[Path], own: Sequence[str]) -> None:
    """Raise OptionError if custom networks are given and no teacher is a checkpoint."""
    if own and all(map(is_recipe, paths)):
        raise OptionError(
            f"{paths[0]} is a recipe, whose model.name is its network; --model is for checkpoints"
        )


def require_prior(paths: Sequence[Path], prior: str | None) -> None:
    """Raise OptionError unless a prior is given if and only if a teacher is foreign, and is a valid one."""
    foreign = [path for path in paths if is_recipe(path)]
    if prior is not None and prior not in PRIORS:
        raise OptionError(f"--teacher-prior {prior[:40]!r}: give one of {', '.join(PRIORS)}")
    if prior is not None and not foreign:
        raise OptionError(
            "--teacher-prior is for a recipe given to --teacher; a checkpoint states how dive trained it"
        )
    if prior is None and foreign:
        raise OptionError(
            f"{foreign[0]} is a teacher that dive did not train; give --teacher-prior train if it was "
            "trained with plain cross-entropy on these long-tailed images (the log of the class counts is "
            "subtracted from its logits), or --teacher-prior none if its logits do not follow their class "
            "sizes (balanced data, balanced softmax; they stay as they are)"
        )
