"""Networks of every family: built by name, trained a step, saved, opened again; torchvision's own."""

import copy
import importlib.util
import subprocess
import sys
from pathlib import Path

import own_networks
import pytest
import torch
import torchvision
from torch.nn import functional as F

from dive.errors import ModelError
from dive.models import checkpoint
from dive.models.batch_counts import BatchCounts
from dive.models.network import Architecture, Network, require_trainable
from dive.models.registry import FAMILIES, build_model, family_of, network_versions, require_known
from dive.recipe.recipe import Sgd
from dive.training.optimizers import Group, make_optimizer

CLASSES = 5
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
# A name, and the side in pixels of the views it is tried on.
NAMED = [
    ("resnet8", 8),
    ("imagenet/resnet10", 32),
    ("torchvision/resnet18", 32),
    ("torchvision/mobilenet_v3_small", 32),
    ("torchvision/shufflenet_v2_x0_5", 32),
    ("torchvision/regnet_x_400mf", 32),
    ("tiny:build", 8),
    pytest.param("timm/test_vit", 160, marks=needs_timm),
    pytest.param("timm/test_resnet", 32, marks=needs_timm),
    pytest.param("timm/mobilenetv3_small_050", 32, marks=needs_timm),
]
LARGE = [
    ("torchvision/convnext_tiny", 32),
    pytest.param("torchvision/vit_b_16", 224, marks=pytest.mark.slow),
]


@pytest.fixture(autouse=True)
def own_module():
    own_networks.write()


def architecture(name: str) -> Architecture:
    return Architecture(name, CLASSES, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


def views(count: int, side: int, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (count, 3, side, side), generator=generator).to(torch.uint8)


def trained(network: Network, pixels: torch.Tensor, counted: bool) -> None:
    """A step of the trainer's own optimiser, with batch counts on the host as it has them, or torch's way."""
    if counted:
        BatchCounts(network)
    group = Group(list(network.body.parameters()))
    optimizer = make_optimizer(Sgd(), [group], torch.tensor([1e-5]))  # a RegNet's first gradients are of 10⁶
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        loss = F.cross_entropy(network.train()(pixels), torch.arange(len(pixels)) % CLASSES)
    loss.backward()
    optimizer.step()


def document(name: str, network: Network) -> dict:
    """A finished teacher's checkpoint of a network."""
    state = network.body.state_dict()
    return {
        "kind": "teacher",
        "loss": "bsce",
        "architecture": architecture(name).as_dict() | {"parameters": 1},
        "recipe": {"name": "x", "model": {"name": name}},
        "seed": 0,
        "classes": list("abcde"),
        "class_counts": [9, 3, 2, 1, 1],
        "data_fingerprint": "f",
        "fingerprint_version": 2,
        "accuracy": {"many": None, "medium": None, "few": 0.5, "all": 0.5, "class_mean": 0.5},
        "per_class": [1.0, 0.5, 0.5, 0.0, 0.0],
        "train_accuracy": 0.75,
        "epochs": 2,
        "seconds": 1.5,
        "device": "CPU",
        "precision": "fp32",
        "threads": 2,
        "versions": {},
        "model": state,
        "weights_hash": checkpoint.weights_hash(state),
    }


@pytest.mark.parametrize(("name", "side"), NAMED)
def test_a_network_of_every_family_trains_a_step_is_saved_and_answers_alike_when_it_is_opened(name, side):
    pixels = views(4, side)
    network = architecture(name).build(seed=1).on(torch.device("cpu"))
    before = {key: tensor.clone() for key, tensor in network.body.state_dict().items()}
    require_trainable(network, architecture(name), (side, side))
    assert all(torch.equal(before[key], tensor) for key, tensor in network.body.state_dict().items())
    trained(network, pixels, counted=True)
    after = network.body.state_dict()
    assert any(not torch.equal(before[key], after[key]) for key in before)
    checkpoint.save(Path("model.pt"), document(name, network))
    opened, _ = checkpoint.load_model(Path("model.pt"), [name])
    with torch.inference_mode():
        logits = network.eval()(pixels)
        assert logits.shape == (4, CLASSES) and torch.isfinite(logits).all()
        assert torch.equal(opened.on(torch.device("cpu")).eval()(pixels), logits)


@pytest.mark.parametrize(("name", "side"), [*NAMED, *LARGE])
def test_state_dicts_with_counts_on_the_host_are_as_torchs(name, side):
    ours = architecture(name).build(seed=1)
    theirs = copy.deepcopy(ours)
    trained(ours, views(2, side), counted=True)
    trained(theirs, views(2, side), counted=False)
    found, expected = ours.body.state_dict(), theirs.body.state_dict()
    assert list(found) == list(expected)
    for key, tensor in expected.items():
        assert found[key].dtype == tensor.dtype and torch.equal(found[key], tensor), key


def constructed(name: str) -> torch.nn.Module:
    return getattr(torchvision.models, name)(weights=None, num_classes=CLASSES)


@pytest.mark.parametrize(
    "name", ["resnet18", "densenet121", "mnasnet0_5", "squeezenet1_0", "efficientnet_b0"]
)
def test_torchvisions_names_are_its_own_networks(name):
    ours = build_model(f"torchvision/{name}", CLASSES, seed=3)
    theirs = constructed(name)
    assert type(ours) is type(theirs)
    assert [(k, v.shape, v.dtype) for k, v in ours.state_dict().items()] == [
        (k, v.shape, v.dtype) for k, v in theirs.state_dict().items()
    ]
    theirs.load_state_dict(ours.state_dict())
    pictures = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        assert torch.equal(ours.eval()(pictures), theirs.eval()(pictures))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        same = constructed(name).state_dict()
    assert all(
        torch.equal(tensor, same[key])
        for key, tensor in build_model(f"torchvision/{name}", CLASSES, seed=3).state_dict().items()
    )


def test_resnet10_is_torchvisions_resnet_of_one_block_a_stage():
    body = build_model("imagenet/resnet10", 1000)
    assert sum(p.numel() for p in body.parameters()) == 5_418_792  # BALMS' ResNet-10, its 1000 classes
    blocks = [len(getattr(body, f"layer{stage}")) for stage in range(1, 5)]
    assert blocks == [1, 1, 1, 1] and type(body) is torchvision.models.ResNet
    deeper = torchvision.models.resnet18(num_classes=1000).state_dict()
    assert {k: v.shape for k, v in body.state_dict().items()} == {
        k: v.shape for k, v in deeper.items() if not k.split(".")[1].startswith("1") or "layer" not in k
    }


@pytest.mark.parametrize("name", ["imagenet/resnet10", "torchvision/mobilenet_v3_small", "tiny:build"])
def test_the_seed_alone_decides_the_weights_of_every_family(name):
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for p in build_model(name, CLASSES, seed=seed).parameters()])

    before = torch.get_rng_state()
    first = weights(1)
    assert torch.equal(torch.get_rng_state(), before)
    torch.rand(17)
    assert torch.equal(weights(1), first) and not torch.equal(weights(2), first)


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("torchvision/resnet51", "torchvision/resnet50"),
        ("torchvision/convnext_tin", "torchvision/convnext_tiny"),
        ("imagenet/resnet18", "imagenet/resnet10"),
        ("torchvison/resnet50", "torchvision/resnet50"),
        ("resnet33", "resnet32"),
        ("wideresnet", "resnet"),
    ],
)
def test_an_unknown_name_is_told_the_nearest_there_are(name, near):
    with pytest.raises(ModelError) as caught:
        build_model(name, CLASSES)
    assert f"there is no network '{name}'; did you mean" in str(caught.value) and near in str(caught.value)


@pytest.mark.parametrize("name", ["torchvision/googlenet", "torchvision/fcn_resnet50", "torchvision/r3d_18"])
def test_torchvisions_networks_that_give_no_logits_in_training_are_not_there(name):
    with pytest.raises(ModelError, match="there is no network"):
        require_known(name)


@needs_timm
@pytest.mark.parametrize(
    "name", ["timm/resnet5x", "timm/hf_hub:org/net", "timm/local-dir:x", "timm/resnet50.no_tag"]
)
def test_timms_names_are_those_it_lists_and_reach_no_hub(name):
    with pytest.raises(ModelError, match="there is no network"):
        require_known(name)


@needs_timm
def test_timms_names_may_say_the_tag_of_their_weights_and_take_grey_pictures():
    for name in ("timm/resnet18", "timm/resnet18.a1_in1k"):
        body = build_model(name, CLASSES, channels=1)
        assert body(torch.zeros(2, 1, 32, 32)).shape == (2, CLASSES)
    assert set(network_versions("timm/resnet18")) == {"timm"}


def test_without_timm_one_line_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(ModelError, match=r"cannot be imported.*pip install 'dive-longtail\[timm\]'"):
        build_model("timm/resnet18", CLASSES)


@pytest.mark.parametrize("name", ["torchvision/resnet18", "imagenet/resnet10"])
def test_networks_of_colour_pictures_refuse_grey_ones(name):
    with pytest.raises(ModelError, match="takes images of 3 channels, these have 1"):
        build_model(name, CLASSES, channels=1)


def test_small_networks_are_not_for_pictures_above_64_pixels():
    assert family_of("resnet32").refusal("resnet32", 64) == ""
    assert "did you mean torchvision/resnet50?" in family_of("resnet32").refusal("resnet32", 65)
    for name in ("torchvision/resnet50", "imagenet/resnet10", "timm/resnet18", "tiny:build"):
        assert family_of(name).refusal(name, 224) == ""


@pytest.mark.parametrize(
    ("name", "side", "said"),
    [
        ("torchvision/vit_b_16", 32, "Wrong image height! Expected 224 but got 32"),
        ("torchvision/alexnet", 32, "model.input.size sets the size"),
        ("tiny:pair", 8, r"must return logits, a tensor of shape \(2, 5\), not a tuple"),
        ("tiny:grey", 8, "has a lazy parameter"),
        ("tiny:frozen", 8, "has nothing to train"),
    ],
)
def test_a_network_that_cannot_be_trained_on_the_views_is_refused_before_it_is(name, side, said):
    made = architecture(name)
    with pytest.raises(ModelError, match=said) as caught:
        require_trainable(made.build(), made, (side, side))
    assert "\n" not in str(caught.value)


def test_a_batch_of_one_that_batch_norm_does_not_take_is_refused():
    made = architecture("torchvision/resnet18")
    require_trainable(made.build(), made, (32, 32), smallest=2)
    with pytest.raises(ModelError, match=r"does not take 1 view of 3×32×32 .*schedule\.batch_size"):
        require_trainable(made.build(), made, (32, 32), smallest=1)


def test_names_and_families_are_known_without_torch():
    code = (
        "import sys\nfrom dive.models.registry import family_of\n"
        "[family_of(n) for n in ('resnet32', 'imagenet/resnet10', 'torchvision/x', 'timm/x', 'os:system')]\n"
        "assert not {'torch', 'torchvision', 'timm'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[2])
    assert len(FAMILIES) == 5
