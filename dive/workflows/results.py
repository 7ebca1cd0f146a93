"""The results of training, and the record of a finished result."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from dive.arguments import TakesTexts
from dive.data.longtail import FINGERPRINT_VERSION, Samples
from dive.errors import TrainingError, raise_any
from dive.models import checkpoint
from dive.models.network import Architecture
from dive.models.registry import network_versions
from dive.models.weights import InitialWeights, initial_weights
from dive.recipe.recipe import Recipe
from dive.recipe.records import FORMAT, VERSION
from dive.training.device import Runtime, device_name
from dive.training.evaluation import Accuracy
from dive.training.saved_state import EpochRecord
from dive.training.spec import RunSpec
from dive.versions import versions


@dataclass(frozen=True)
class TrainOptions(TakesTexts):
    """Options of `dive.train_teacher` and `dive.train_student`, besides the recipe.

    device: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.
    force: start over and replace a finished result.
    eval_every: evaluate after every `eval_every` epochs, on the validation set or, without one, on the test
        set. 0 evaluates at the end only.
    workers: the number of processes that read images which are not held in memory. 0 reads them in the main
        process; None takes one process fewer than there are CPU cores, but at least one.
    check_images: before training, decode every image file that is not held in memory; if False, only the
        headers of these files are checked.
    tensorboard: a folder for TensorBoard event files, in <recipe>/<checkpoint name> below it; None for none.
        It needs the extra `tensorboard`.
    """

    device: str = "auto"
    force: bool = False
    eval_every: int = 0
    workers: int | None = None
    check_images: bool = False
    tensorboard: Path | None = None


DEFAULT = TrainOptions()
INITIAL = "initial_weights"  # the fact that names the weights that a network started from


@dataclass(frozen=True)
class Result:
    """The result of a finished run, or of the evaluation of a checkpoint.

    path: the checkpoint.
    record: its recipe, seed, classes, accuracy, versions and more, in plain values.
    accuracy: the top-1 accuracies, in [0, 1], of all images, of many-, medium- and few-shot classes, and of
        each class.
    """

    path: Path
    record: dict[str, Any]
    accuracy: Accuracy

    def validated(self) -> "Result | None":
        """The same result with the accuracy on the validation set; None if the record has none."""
        if (figures := self.record.get("val_accuracy")) is None:
            return None
        return replace(self, accuracy=Accuracy(**figures, per_class=()))


@dataclass(frozen=True)
class Trained:
    """The runs of one command. results: of finished runs, in order. failures: the errors of the others."""

    results: list[Result]
    failures: list[TrainingError]

    def require_all(self) -> None:
        """Raise the TrainingError of the run that failed, or SeveralErrors if several did."""
        raise_any(self.failures)


def architecture_of(recipe: Recipe, samples: Samples) -> Architecture:
    """The architecture that a recipe trains on these samples."""
    given = recipe.model.input
    classes, channels = len(samples.classes), samples.pictures.channels
    return Architecture(recipe.model.name, classes, channels, given.mean, given.std, given.size)


def initial_of(recipe: Recipe) -> InitialWeights | None:
    """The initial weights of a recipe's network, None if they are drawn from the seed.

    Raises ModelError if there are no weights of that name or path.
    """
    given = recipe.model
    if given.weights is None:
        return None
    return initial_weights(given.name, given.weights, given.head or "new")


def initial_facts(initial: InitialWeights | None) -> dict[str, Any]:
    """The entry of a record for the initial weights of a network; empty if they are drawn from the seed."""
    return {} if initial is None else {INITIAL: initial.fact}


def identity_of(recipe: Recipe, kind: str, fingerprint: str, facts: dict[str, Any]) -> dict[str, Any]:
    """What must be equal for a run to be resumed: the recipe, the images, and the run's facts.

    The paths of images and initial weights are left out, as the fingerprint and the facts identify them. The
    precision is left out, as a resumed run keeps that of its state. The hash of a cache covers the precision
    of its export.
    """
    cache = {key: value for key, value in (facts.get("cache") or {}).items() if key != "precision"}
    document = recipe.as_dict() | {"data": recipe.data.identity()}
    del document["precision"], document["model"]["weights"]
    return {
        "kind": kind,
        "recipe": document,
        "data_fingerprint": fingerprint,
        **facts,
        **({"cache": cache} if cache else {}),
    }


def record_of(
    spec: RunSpec,
    samples: Samples,
    runtime: Runtime,
    weights: dict[str, torch.Tensor],
    accuracy: Accuracy,
    history: list[EpochRecord],
) -> dict[str, Any]:
    """The record of a finished result, in plain values.

    samples: the training set. weights: the state dict of the trained network. history: of all epochs.
    """
    return {
        "format": FORMAT,
        "version": VERSION,
        "kind": spec.kind,
        **spec.facts,
        "recipe": spec.recipe,
        "seed": spec.seed,
        "architecture": spec.architecture.as_dict(),
        "classes": list(samples.classes),
        "class_counts": samples.counts.tolist(),
        "data_fingerprint": samples.fingerprint,
        "fingerprint_version": FINGERPRINT_VERSION,
        "digests": samples.digests_of,
        "weights_hash": checkpoint.weights_hash(weights),
        "accuracy": accuracy.as_dict(),
        "per_class": list(accuracy.per_class),
        "group_confusion": accuracy.group_confusion,
        "train_accuracy": history[-1].train_accuracy,
        "epochs": len(history),
        "seconds": round(sum(epoch.seconds for epoch in history), 1),
        "device": device_name(runtime.device, runtime.threads),
        "precision": runtime.precision,
        "threads": runtime.threads,
        "versions": versions() | network_versions(spec.architecture.name),
    }
