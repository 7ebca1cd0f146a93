"""The recipes of large long-tailed sets: pinned to what is published, and their networks built."""

import pytest
import torch

from dive.models.registry import build_model, parameter_count
from dive.recipe.reading import load
from dive.recipe.recipe import Distillation, Listed, ResizedCrop

# name: network, classes, millions of parameters as torchvision's documents or the literature give them
NETWORKS = {
    "imagenet_lt/resnet10": ("imagenet/resnet10", 1000, 5.4),
    "imagenet_lt/resnet50": ("torchvision/resnet50", 1000, 25.6),
    "imagenet_lt/resnext50": ("torchvision/resnext50_32x4d", 1000, 25.0),
    "places_lt/resnet152": ("torchvision/resnet152", 1000, 60.2),
    "inat18/resnet50": ("torchvision/resnet50", 1000, 25.6),
    "folder_photos": ("torchvision/resnet18", 1000, 11.7),
}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
INATURALIST = ((0.466, 0.471, 0.380), (0.195, 0.194, 0.192))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_network_of_a_recipe_is_the_published_one(name, repository):
    network, classes, millions = NETWORKS[name]
    assert load(repository / "configs" / f"{name}.yaml").model.name == network
    with torch.device("meta"):
        assert round(parameter_count(build_model(network, classes)) / 1e6, 1) == millions


@pytest.mark.parametrize("name", [name for name in NETWORKS if name != "folder_photos"])
def test_views_and_optimizer_of_a_large_set_are_the_published_ones(name, repository):
    recipe = load(repository / "configs" / f"{name}.yaml")
    inat, places = name.startswith("inat"), name.startswith("places")
    assert isinstance(recipe.data, Listed) and recipe.data.imbalance is None
    jitter = (0.0, 0.0, 0.0, 0.0) if inat else (0.4, 0.4, 0.4, 0.0)
    assert recipe.views == ResizedCrop(size=224, flip=True, jitter=jitter)
    assert (recipe.model.input.mean, recipe.model.input.std) == (INATURALIST if inat else IMAGENET)
    assert recipe.optimizer.momentum == 0.9
    assert recipe.optimizer.weight_decay == (1e-4 if inat else 5e-4)
    assert (recipe.schedule.decay, recipe.schedule.milestones) == ("cosine", ())
    published = (90, 512, 0, 0.2)
    schedule = recipe.schedule
    found = (schedule.epochs, schedule.batch_size, schedule.warmup_epochs, recipe.optimizer.lr)
    assert (found == published) != places
    assert (recipe.model.weights == "IMAGENET1K_V1") == places
    assert recipe.distillation == Distillation()


def test_photographs_of_ones_own_begin_with_weights_and_a_new_head(repository):
    recipe = load(repository / "configs" / "folder_photos.yaml")
    assert (recipe.data.kind, recipe.views.kind, recipe.views.size) == ("folder", "resized_crop", 224)
    assert (recipe.model.weights, recipe.model.head) == ("IMAGENET1K_V1", "new")
    assert (recipe.model.input.mean, recipe.model.input.std) == IMAGENET


@pytest.mark.parametrize("name", NETWORKS)
def test_a_recipe_says_what_is_ours_and_that_it_was_not_run(name, repository):
    comment = " ".join(
        line.lstrip("# ").strip()
        for line in (repository / "configs" / f"{name}.yaml").read_text().splitlines()
        if line.startswith("#")
    )
    assert "Not run" in comment or "not run" in comment
    assert "urs" in comment
