"""A trained network with all that is needed to classify an image: its clean view and its class names.

It is opened from a checkpoint, or from a recipe with `model.weights` and `model.head: keep`.
"""

import functools
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from dive.data.pictures import fit
from dive.data.sources.names import read_class_names
from dive.errors import CheckpointError, ModelError, RecipeError
from dive.feeds.images import one_view
from dive.files import user_path
from dive.models import checkpoint
from dive.models.network import Architecture, Network
from dive.progress import SILENT, Progress
from dive.recipe.reading import build
from dive.recipe.recipe import Recipe
from dive.recipe.shipped import recipes
from dive.recipe.views import Views
from dive.views.registry import view_space
from dive.views.space import ViewSpace
from dive.workflows.data import load_recipe
from dive.workflows.pretrained import Pretrained

RECIPE_SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Classifier:
    """A network in eval mode, and how images are prepared for it.

    classes: names, in the order of the logits. side: the side in pixels to which an image is resized and
    cropped before its view is made; None if the view has a size of its own, or images keep their own size.
    """

    network: Network
    architecture: Architecture
    classes: tuple[str, ...]
    views: Views
    side: int | None

    @property
    def any_size(self) -> bool:
        """Whether the recipe gives no image size, so that images keep their own size."""
        return self.side is None and self.views.one_size

    @property
    def preparation(self) -> str:
        """How an image becomes a view: a few sentences for a program that does it without dive."""
        upright = "An image is turned upright according to its EXIF orientation (Pillow's exif_transpose)"
        if self.any_size:
            return f"{upright} and keeps its size."
        if self.side is None:
            return (
                f"{upright}. The shorter side is resized to the view's side times 256/224 (bilinear, "
                "antialiased), and the centre is cropped, as torchvision's Resize and CenterCrop do with a "
                "PIL image."
            )
        return (
            f"{upright}. The shorter side is resized to the view's side (bicubic, Pillow's), and the centre "
            "is cropped."
        )

    def view(self, picture: np.ndarray) -> np.ndarray:
        """The clean view of an image (h, w, 3) uint8 of any size: (H, W, channels) uint8."""
        if self.side is not None:
            picture = fit(picture, self.side)
        height, width = picture.shape[:2]
        space = _clean(self.views, (height, width))
        view = one_view(space, np.require(picture, requirements=("C", "W")), space.clean_id)
        return self.channels_of(view)  # at the end, as an exported network does it

    def channels_of(self, picture: np.ndarray) -> np.ndarray:
        """An image (h, w, 3) uint8 with the channels of the network's input: (h, w, channels) uint8."""
        if self.architecture.channels == 1:
            return np.asarray(Image.fromarray(picture).convert("L"))[..., None]
        return picture


@functools.lru_cache(maxsize=64)
def _clean(views: Views, shape: tuple[int, int]) -> ViewSpace:
    return view_space(views.kind, shape, **views.keys()).clean


def open_classifier(path: Path, own: Collection[str] = (), progress: Progress = SILENT) -> Classifier:
    """The classifier of a checkpoint, or of a recipe's file or name, on the CPU.

    own: the custom networks that a checkpoint may have, as for `checkpoint.load_model`. Raises
    CheckpointError, RecipeError, or ModelError if weights are not available or do not fit.
    """
    if not is_recipe(path):
        return _of_checkpoint(path, own)
    if own:
        raise RecipeError(f"{path} is a recipe, whose model.name is its network; --model is for checkpoints")
    return _of_recipe(load_recipe(path), path, progress)


def is_recipe(path: Path) -> bool:
    """Whether `path` is a recipe, not a checkpoint: by its suffix, or as the name of a shipped recipe."""
    return path.suffix.lower() in RECIPE_SUFFIXES or (path.as_posix() in recipes() and not path.is_file())


def _of_checkpoint(path: Path, own: Collection[str]) -> Classifier:
    network, document = checkpoint.load_model(path, own)
    architecture = Architecture.of(document["architecture"])
    if architecture.channels not in (1, 3):
        raise CheckpointError(
            f"{path} takes images of {architecture.channels} channels; image files have 1 or 3"
        )
    recipe = build(document["recipe"], where=str(path))
    classes = tuple(document["classes"])
    return Classifier(network.eval(), architecture, classes, recipe.views, _side_of(recipe))


def _side_of(recipe: Recipe) -> int | None:
    """The side to which images are resized: that of the recipe, or the side of all images of its data.

    None if the view space takes images of any size, or neither side is known.
    """
    if not recipe.views.one_size:
        return None
    return recipe.views.picture_size or recipe.data.side


def _of_recipe(recipe: Recipe, path: Path, progress: Progress) -> Classifier:
    pretrained = Pretrained.of(recipe, path)
    side = _side_of(recipe)
    if (pixels := side or recipe.views.size) is None:
        raise RecipeError(f"{path}: views.size must be given, the side in pixels that images are resized to")
    given = recipe.data.place().get("classes")  # a file of class names, in the kinds that have one
    names = None if given is None else read_class_names(user_path(given, "data.classes"))
    shape = (pixels, pixels)
    count = _count(pretrained, shape, None if names is None else len(names))
    if names is not None and len(names) != count:
        model = pretrained.model
        raise ModelError(f"{given} names {len(names)} classes, {model.weights} of {model.name} have {count}")
    network = pretrained.network(count, shape, progress)
    classes = names or tuple(map(str, range(count)))
    return Classifier(network, pretrained.architecture(count), classes, recipe.views, side)


def _count(pretrained: Pretrained, shape: tuple[int, int], named: int | None) -> int:
    """The number of classes of the weights: the outputs of their last linear layer, or else `named`.

    named: the number of class names that are given, None without any. Raises ModelError if neither is known.
    """
    count = pretrained.classes(shape, named or 2) or named
    if count is None:
        model = pretrained.model
        raise ModelError(
            f"the number of classes of {model.weights} of {model.name} is not known, because the network has "
            "no last linear layer; name the classes in the file of data.classes (data.kind list)"
        )
    return count
