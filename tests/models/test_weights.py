"""Weights that a network begins with: from files and by name, with a new head and with their own."""

from pathlib import Path
from urllib.error import URLError

import pytest
import torch
import torchvision

from dive.errors import ModelError
from dive.files import file_sha256
from dive.models.registry import build_model, family_of
from dive.models.weights import initial_weights

NAME = "torchvision/resnet18"
PICTURES = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
FILE = Path("theirs.pth")


@pytest.fixture(scope="module")
def theirs() -> torchvision.models.ResNet:
    """A network of seven classes that somebody trained."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        body = torchvision.models.resnet18(num_classes=7).train()
        body(PICTURES)  # moves the statistics
    return body.eval()


def begun(classes: int, head: str = "new", given: str = "theirs.pth") -> tuple[torch.nn.Module, str]:
    body = build_model(NAME, classes, seed=2)
    return body, initial_weights(NAME, given, head).put_into(body, PICTURES)


def refused(match: str, classes: int = 7, head: str = "keep", given: str = "theirs.pth") -> None:
    with pytest.raises(ModelError, match=match) as caught:
        begun(classes, head, given)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 600


def test_a_kept_head_gives_the_very_answers_of_the_file(theirs):
    torch.save(theirs.state_dict(), FILE)
    body, said = begun(7, "keep")
    with torch.inference_mode():
        assert torch.equal(body.eval()(PICTURES), theirs(PICTURES))
    assert said == "torchvision/resnet18 starts from theirs.pth, including its head"


def test_a_new_head_is_the_seeds_and_the_rest_the_files(theirs):
    torch.save(theirs.state_dict(), FILE)
    for classes in (4, 7):  # also where the file's own head would fit
        body, said = begun(classes)
        fresh = build_model(NAME, classes, seed=2).state_dict()
        for key, tensor in body.state_dict().items():
            of = fresh if key in ("fc.weight", "fc.bias") else theirs.state_dict()
            assert torch.equal(tensor, of[key]), key
        assert said.endswith(f"its last linear layer, fc, is new: 512 features to {classes} classes")
    assert begun(4)[0](PICTURES).shape == (2, 4)


@pytest.mark.parametrize("key", ["model", "state_dict"])
def test_weights_within_a_larger_file_and_of_parallel_training_are_found(theirs, key):
    state = {f"module.{name}": tensor for name, tensor in theirs.state_dict().items()}
    torch.save({"epoch": 3, key: state, "optimizer": {"lr": 0.1}}, FILE)
    body, _ = begun(7, "keep")
    assert torch.equal(body.eval()(PICTURES), theirs(PICTURES))


def test_a_file_without_counts_of_batches_is_taken(theirs):
    state = {k: v for k, v in theirs.state_dict().items() if not k.endswith("num_batches_tracked")}
    torch.save(state, FILE)
    assert torch.equal(begun(7, "keep")[0].eval()(PICTURES), theirs(PICTURES))


def test_what_does_not_fit_is_counted_and_named(theirs):
    state = theirs.state_dict()
    torch.save(state, FILE)
    refused(
        r"2 of another shape \(fc.weight, …: \[7, 512\] instead of \[4, 512\]\); model.head new replaces", 4
    )
    del state["layer1.0.conv1.weight"], state["fc.bias"], state["conv1.weight"]
    torch.save(state | {"extra": torch.zeros(1)}, FILE)
    refused(
        r"3 of its 122 tensors missing \(conv1.weight, layer1.0.conv1.weight, …\), 1 unexpected \(extra\)"
    )
    refused(r"2 of its 120 tensors missing", head="new")
    torch.save(torchvision.models.resnet34(num_classes=7).state_dict(), FILE)
    refused("96 unexpected", head="new")


@pytest.mark.parametrize(
    "content", [[1, 2], {}, {"a": 3}, {1: torch.zeros(1)}, {"model": 3}, {"a": torch.zeros(2).to_sparse()}]
)
def test_a_file_that_holds_no_state_dict_is_refused(content):
    torch.save(content, FILE)
    refused("holds no state dict")


class Payload:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_a_file_that_would_run_code_is_refused_and_not_run(theirs):
    torch.save(theirs.state_dict() | {"extra": Payload()}, FILE)
    refused("is not a file of tensors that torch.save wrote")
    assert not Path("hacked").exists()


@pytest.mark.parametrize("content", [b"", b"hello", b"PK\x03\x04" * 9])
def test_a_file_of_another_kind_is_refused(content):
    FILE.write_bytes(content)
    refused("is not a file of tensors that torch.save wrote")


def test_a_file_is_known_by_its_content_and_must_not_change_meanwhile(theirs):
    torch.save(theirs.state_dict(), FILE)
    found = initial_weights(NAME, str(FILE))
    assert found.fact == f"sha256:{file_sha256(FILE)}"
    torch.save({}, FILE)
    with pytest.raises(ModelError, match="was changed while it was being read"):
        found.put_into(build_model(NAME, 4), PICTURES)


def test_what_is_neither_a_file_nor_a_name_is_refused_with_the_names_there_are():
    refused(
        r"IMAGENET_V9 of torchvision/resnet18 is not a file, nor one of its named weights: IMAGENET1K_V1",
        given="IMAGENET_V9",
    )
    with pytest.raises(ModelError, match=r"model.weights x of resnet8 is not a file$"):
        initial_weights("resnet8", "x")
    Path("folder").mkdir()
    refused("cannot read model.weights folder", given="folder")


def test_a_network_that_does_not_end_in_a_linear_layer_has_no_head_to_replace():
    name = "torchvision/squeezenet1_1"
    body = torchvision.models.squeezenet1_1(num_classes=7)
    torch.save(body.state_dict(), FILE)
    with pytest.raises(ModelError, match="does not end in a linear layer that could be replaced"):
        initial_weights(name, "theirs.pth", "new").put_into(build_model(name, 7), PICTURES)
    taken = build_model(name, 7)
    initial_weights(name, "theirs.pth", "keep").put_into(taken, PICTURES)
    assert torch.equal(taken.eval()(PICTURES), body.eval()(PICTURES))


def test_the_latest_weights_are_known_by_their_own_name():
    assert initial_weights("torchvision/resnet50", "DEFAULT").fact == "IMAGENET1K_V2"
    assert initial_weights("torchvision/resnet50", "IMAGENET1K_V1").fact == "IMAGENET1K_V1"
    assert family_of("resnet32").weights("resnet32") == []


def test_weights_by_name_are_those_that_torchvision_downloads(theirs, monkeypatch):
    asked = []

    def download(url: str, **options: object) -> dict:
        asked.append(url)
        return theirs.state_dict()

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    body, said = begun(7, "keep", "IMAGENET1K_V1")
    assert asked == [torchvision.models.ResNet18_Weights.IMAGENET1K_V1.url]
    assert torch.equal(body.eval()(PICTURES), theirs(PICTURES)) and "IMAGENET1K_V1" in said


def test_without_network_one_line_says_what_to_do(monkeypatch):
    def download(url: str, **options: object) -> dict:
        raise URLError(OSError("Temporary failure in name resolution"))

    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", download)
    refused(
        r"IMAGENET1K_V1 of torchvision/resnet18 cannot be downloaded .*resolution.*; download them elsewhere",
        given="IMAGENET1K_V1",
    )


def test_a_network_that_there_is_not_is_named_with_those_that_are_near():
    for given in ("DEFAULT", "IMAGENET1K_V1"):
        with pytest.raises(
            ModelError, match="no network 'torchvision/resnet81'; did you mean torchvision/resnet"
        ):
            initial_weights("torchvision/resnet81", given)
