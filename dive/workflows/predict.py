"""Classifying image files, as `dive predict` does."""

import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from dive.arguments import as_paths, as_texts
from dive.data.pictures import HeldPictures
from dive.data.sources.decode import decode, refusing_huge_images
from dive.data.sources.names import EXTENSIONS, has_extension, is_hidden
from dive.data.sources.tree import read_file
from dive.errors import DataError, DiveError, ModelError, raise_any
from dive.feeds.images import Images
from dive.models.network import require_logits
from dive.models.registry import family_of
from dive.progress import SILENT, Progress
from dive.training.device import Runtime, choose_device
from dive.training.inference import batch_size, clean_plan, outputs
from dive.views.registry import view_space
from dive.workflows.classifier import Classifier, open_classifier

_NOT_FINITE = "the network's logits for it are not finite"
AT_ONCE = 64  # images that are read before the network is run on them


@dataclass(frozen=True)
class Prediction:
    """The prediction for an image.

    path: the image file.
    top: the most probable classes, the first the most probable, as (name, probability in [0, 1]).
    """

    path: Path
    top: tuple[tuple[str, float], ...]


@dataclass(frozen=True)
class Predictions:
    """The result of `dive.predict`. images: the predictions, in order. failures: the errors of the rest."""

    images: list[Prediction]
    failures: list[DiveError]

    def require_all(self) -> None:
        """Raise the error of the image that failed, or SeveralErrors if several did."""
        raise_any(self.failures)


def predict(
    model: str | Path,
    images: str | Path | Iterable[str | Path],
    top: int = 1,
    device: str = "auto",
    progress: Progress = SILENT,
    own: str | Collection[str] = (),
) -> Predictions:
    """Classify image files; returns the most probable classes of each image, and the errors.

    Each image is classified in the clean view of the model's recipe, in fp32. The probabilities are the
    softmax of the logits, without a class prior. An image that cannot be read is a failure and does not stop
    the others.

    model: a checkpoint, or the file or name of a recipe with `model.weights` and `model.head: keep`.
    images: image files and folders; a folder stands for all images below it that are not hidden.
    top: the number of classes to return for each image, at most all.
    device: `auto` (CUDA if available), `cpu`, `cuda` or `cuda:N`.
    progress: receives notes, warnings and progress bars; by default only warnings are printed, on stderr.
    own: the custom networks (`package.module:callable`) that a checkpoint may import and call.

    Raises:
        CheckpointError: the checkpoint is missing or corrupt, or has a custom network that `own` lacks.
        DiveError: the device does not exist.
        ModelError: the network cannot be built, or its weights are missing or do not fit.
        RecipeError: the recipe is invalid, or `own` is given with a recipe.

    >>> import dive
    >>> from PIL import Image
    >>> digit = next(iter(dive.open_images("digits_lt/bbn", "test").values()))
    >>> Image.fromarray(digit[..., 0]).save("digit.png")
    >>> predicted = dive.predict("checkpoints/digits_lt_bbn/teacher.pt", ["digit.png"], top=3)
    >>> [len(image.top) for image in predicted.images], predicted.failures
    ([3], [])
    """
    target = choose_device(device)
    classifier = open_classifier(Path(model), as_texts(own), progress)
    classifier.network.on(target)
    if classifier.any_size:
        progress.warn(f"{model} does not state an image size; images keep their own size")
    files, failures = _listed(as_paths(images))
    predictions: list[Prediction] = []
    pool = ThreadPoolExecutor(os.cpu_count() or 1)
    try:
        with progress.bar("predict", len(files)) as bar, refusing_huge_images():
            for start in range(0, len(files), AT_ONCE):
                some = files[start : start + AT_ONCE]
                views = list(pool.map(lambda path: _view(classifier, path), some))
                for path, found in zip(some, _probabilities(classifier, views, target), strict=True):
                    if isinstance(found, ModelError):
                        failures.append(ModelError(f"{path}: {found}"))
                    elif isinstance(found, DiveError):
                        failures.append(found)
                    else:
                        predictions.append(Prediction(path, _top(classifier.classes, found, top)))
                bar.advance(len(some))
    finally:  # so that Ctrl-C does not wait for the images that remain
        pool.shutdown(cancel_futures=True)
    return Predictions(predictions, failures)


def _listed(given: Iterable[Path]) -> tuple[list[Path], list[DiveError]]:
    """The image files among the paths and below folders, and an error for each folder that gives none."""
    files: list[Path] = []
    failures: list[DiveError] = []
    for path in given:
        try:
            files += _below(path) if os.path.isdir(path) else [path]
        except DataError as error:
            failures.append(error)
    return files, failures


def _below(folder: Path) -> list[Path]:
    """The files below a folder with an image's extension, ordered by path, without hidden files and folders.

    Links are followed, but each folder is read only once. Raises DataError if a folder cannot be read or
    there is no image.
    """
    try:
        found = sorted(_walk(folder, set()))
    except OSError as error:
        raise DataError(f"cannot read {error.filename or folder}: {error.strerror}") from error
    if not found:
        raise DataError(f"{folder} has no image, a file whose name ends in {', '.join(EXTENSIONS)}")
    return found


def _walk(folder: Path, visited: set[tuple[int, int]]) -> Iterator[Path]:
    status = os.stat(folder)
    if (status.st_dev, status.st_ino) in visited:
        return
    visited.add((status.st_dev, status.st_ino))
    for name in sorted(os.listdir(folder)):
        path = folder / name
        if is_hidden(name):
            continue
        if path.is_dir():
            yield from _walk(path, visited)
        elif has_extension(name):
            yield path


def _view(classifier: Classifier, path: Path) -> np.ndarray | DiveError:
    """The clean view of an image file, (H, W, channels) uint8, or the error if it cannot be read."""
    try:
        return classifier.view(decode(read_file(path), str(path)))
    except DataError as error:
        return error
    except OSError as error:
        return DataError(f"cannot read {path}: {error.strerror or error}")
    except MemoryError:
        return DataError(f"{path} cannot be resized: there is not enough memory")


def _probabilities(
    classifier: Classifier, views: Sequence[np.ndarray | DiveError], device: torch.device
) -> list[np.ndarray | DiveError]:
    """The probabilities (C,) float64 of each view, or an error; views of equal size share a batch.

    views: the views, and errors, which are returned as they are.
    """
    found: list[np.ndarray | DiveError] = []
    of_shape: dict[tuple[int, ...], list[tuple[int, np.ndarray]]] = {}
    for at, view in enumerate(views):
        found.append(view)
        if not isinstance(view, DiveError):
            of_shape.setdefault(view.shape, []).append((at, view))
    for members in of_shape.values():
        places = [at for at, _ in members]
        try:
            logits = _logits(classifier, np.stack([view for _, view in members]), device)
        except ModelError as error:
            for at in places:
                found[at] = error
            continue
        for at, row in zip(places, logits, strict=True):
            sound = bool(torch.isfinite(row).all())
            found[at] = torch.softmax(row, dim=0).numpy() if sound else ModelError(_NOT_FINITE)
    return found


def _logits(classifier: Classifier, views: np.ndarray, device: torch.device) -> torch.Tensor:
    """The network's logits (B, C) float64, on the CPU, of views (B, H, W, channels) uint8.

    Raises ModelError if the network does not take views of this size.
    """
    network, (height, width) = classifier.network, views.shape[1:3]
    if classifier.any_size:
        name = classifier.architecture.name
        if refusal := family_of(name).refusal(name, max(network.sees((height, width)))):
            raise ModelError(refusal)
        blank = network.blank(classifier.architecture.channels, (height, width), 1)
        require_logits(network, classifier.architecture, blank)
    as_they_are = view_space("crop_flip", (height, width), pad=0, flip=False)
    images = Images(HeldPictures(views), as_they_are, device)
    plan = clean_plan(len(views), as_they_are.clean_id, batch_size((height, width), device, network))
    return torch.cat(list(outputs(network, images, plan, Runtime(device, "fp32")))).cpu().double()


def _top(classes: Sequence[str], probabilities: np.ndarray, count: int) -> tuple[tuple[str, float], ...]:
    """The `count` most probable classes with their probabilities; of equal ones, the first comes first."""
    order = np.argsort(-probabilities, kind="stable")[:count]
    return tuple((classes[c], float(probabilities[c])) for c in order)
