"""View spaces by the name that a recipe gives them: a space is a module beside this one and a line here."""

from dive.recipe.recipe import Views
from dive.views.autoaugment import AutoAugmentCutout
from dive.views.crop_flip import CropFlip
from dive.views.space import ViewSpace

SPACES = {"crop_flip": CropFlip, "autoaugment": AutoAugmentCutout}


def view_space(views: Views, image_shape: tuple[int, ...]) -> ViewSpace:
    """The view space a recipe names, for images of shape (H, W, channels)."""
    return SPACES[views.kind](views.pad, views.flip, *image_shape[:2])
