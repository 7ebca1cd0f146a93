"""Checkpoints: what goes in comes out, bit for bit, and nothing else is ever taken for one."""

import hashlib
import io
import random
import zipfile
from pathlib import Path

import pytest
import torch

from dive.errors import CheckpointError
from dive.models import checkpoint
from dive.models.registry import build_model

PATH = Path("model.pt")


def document(**changes: object) -> dict:
    """A finished teacher's checkpoint, small."""
    model = build_model("resnet8", 4, channels=1, seed=1)
    whole = {
        "kind": "teacher",
        "loss": "bsce",
        "architecture": {"name": "resnet8", "classes": 4, "channels": 1, "parameters": 75_002},
        "recipe": {"name": "x", "schedule": {"milestones": [1, 2]}},
        "seed": 0,
        "classes": ["a", "b", "c", "d"],
        "class_counts": [9, 3, 2, 1],
        "data fingerprint": "f",
        "accuracy": {"many": None, "medium": None, "few": 0.5, "all": 0.5, "class_mean": 0.5},
        "per_class": [1.0, 0.5, 0.5, 0.0],
        "train_accuracy": 0.75,
        "epochs": 2,
        "seconds": 1.5,
        "device": "CPU",
        "precision": "fp32",
        "threads": 2,
        "versions": {"torch": "2.0"},
        "model": model.state_dict(),
        **changes,
    }
    if "weights hash" not in whole:
        whole["weights hash"] = checkpoint.weights_hash(whole["model"])
    return {key: value for key, value in whole.items() if value is not None}


def refused(match: str) -> None:
    with pytest.raises(CheckpointError, match=match):
        checkpoint.load(PATH)


def test_tensors_and_plain_values_come_back_as_they_went_in():
    values = {
        "half": torch.tensor([1.5, -0.0, 65504.0], dtype=torch.float16),
        "rounded": torch.randn(3, 5, generator=torch.Generator().manual_seed(0)).bfloat16(),
        "odd": torch.tensor([float("nan"), float("inf"), 1e-45]),
        "count": torch.tensor(7),
        "last": torch.arange(48.0).reshape(2, 3, 4, 2).to(memory_format=torch.channels_last),
        "history": [{"epoch": 1, "loss": 2.5, "test_accuracy": None}],
        "nested": {"a": {"b": [True, "é", 2**40]}},
    }
    checkpoint.save(PATH, values)
    found = checkpoint.load(PATH)
    assert found["format"] == "dive-checkpoint" and found["version"] == 1
    assert found["producer"].startswith("dive ")
    assert found["history"] == values["history"] and found["nested"] == values["nested"]
    for name in ("half", "rounded", "odd", "count", "last"):
        assert found[name].dtype == values[name].dtype and found[name].shape == values[name].shape
        bits = [t.contiguous().reshape(-1).view(torch.uint8) for t in (found[name], values[name])]
        assert torch.equal(*bits), name
    assert found["last"].is_contiguous(memory_format=torch.channels_last)


def test_any_torch_can_open_a_checkpoint():
    checkpoint.save(PATH, document())
    found = torch.load(PATH, weights_only=True)
    assert found["architecture"]["name"] == "resnet8"
    assert torch.equal(found["model"]["linear.bias"], document()["model"]["linear.bias"])


def test_a_checkpoint_replaces_an_older_one_whole():
    checkpoint.save(PATH, document(note="a" * 100_000))
    checkpoint.save(PATH, document(note="b"))
    assert checkpoint.load(PATH)["note"] == "b"
    assert [path.name for path in Path().iterdir()] == ["model.pt"]


def test_a_document_that_cannot_be_written_leaves_the_older_one():
    checkpoint.save(PATH, document())
    before = PATH.read_bytes()
    with pytest.raises(Exception, match="pickle"):
        checkpoint.save(PATH, {"kind": "teacher", "bad": lambda: None})
    assert PATH.read_bytes() == before
    assert [path.name for path in Path().iterdir()] == ["model.pt"]


def test_a_missing_checkpoint_is_refused_by_name():
    refused(r"there is no checkpoint model\.pt")
    PATH.mkdir()
    refused(r"cannot read model\.pt: it is a folder, not a regular file")


def test_a_checkpoint_cut_short_anywhere_is_refused():
    checkpoint.save(PATH, document())
    whole = PATH.read_bytes()
    for length in [0, 1, 75, 76, 77, len(whole) // 2, len(whole) - 77, len(whole) - 76, len(whole) - 1]:
        PATH.write_bytes(whole[:length])
        refused(r"model\.pt is (not a checkpoint of dive's, or was cut short|corrupt)")
    PATH.write_bytes(whole)
    assert checkpoint.load(PATH)["kind"] == "teacher"


def test_a_single_flipped_bit_anywhere_is_noticed():
    checkpoint.save(PATH, {"kind": "teacher", "weights": torch.arange(200.0)})
    whole = PATH.read_bytes()
    for at in {*random.Random(0).sample(range(len(whole)), 200), *range(len(whole) - 100, len(whole))}:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        PATH.write_bytes(damaged)
        refused(r"model\.pt is (corrupt|not a checkpoint)")


def test_bytes_behind_the_end_are_noticed():
    checkpoint.save(PATH, document())
    PATH.write_bytes(PATH.read_bytes() + b"\n")
    refused("not a checkpoint of dive's")


def test_a_file_of_another_program_is_refused():
    torch.save({"model": {}, "format": "dive-checkpoint", "version": 1}, PATH)
    refused("not a checkpoint of dive's")
    PATH.write_text("hello")
    refused("not a checkpoint of dive's")


def test_another_format_or_version_is_refused_and_named(monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "VERSION", 2)
        checkpoint.save(PATH, document())
    refused(r"has format dive-checkpoint version 2; this dive reads dive-checkpoint version 1")
    checkpoint.save(PATH, document(format="dive-cache"))
    refused("has format dive-cache version 1")


class Payload:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_a_sealed_pickle_that_names_a_callable_is_refused_and_not_run():
    checkpoint.save(PATH, {**document(), "extra": Payload()})
    refused(r"model\.pt")
    assert not Path("hacked").exists()


def test_a_finished_model_answers_as_before():
    model = build_model("resnet8", 4, channels=1, seed=1)
    x = torch.randn(16, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    model(x)  # moves the batch statistics
    checkpoint.save(PATH, document(model=model.state_dict()))
    loaded, found = checkpoint.load_model(PATH)
    assert found["recipe"]["name"] == "x"
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(x), model.eval()(x))


def test_the_state_of_an_unfinished_run_is_no_model():
    checkpoint.save(PATH, document(kind="state"))
    with pytest.raises(CheckpointError, match="unfinished run, not a finished model"):
        checkpoint.load_model(PATH)
    checkpoint.save(PATH, {"kind": "teacher"})
    with pytest.raises(CheckpointError, match="not a finished model"):
        checkpoint.load_model(PATH)


@pytest.mark.parametrize(
    "architecture",
    [
        {"name": "resnet14", "classes": 4, "channels": 1, "parameters": 9},
        {"name": "resnet8", "classes": 5, "channels": 1, "parameters": 9},
        {"name": "resnet8", "classes": 4, "channels": 3, "parameters": 9},
    ],
)
def test_weights_of_another_architecture_are_refused(architecture):
    checkpoint.save(PATH, document(architecture=architecture))
    with pytest.raises(CheckpointError, match=rf"does not hold the weights of a {architecture['name']}"):
        checkpoint.load_model(PATH)


@pytest.mark.parametrize("claim", [{"classes": 10**11}, {"channels": 10**9}, {"name": "resnet6000002"}])
def test_an_architecture_larger_than_its_weights_takes_no_memory(claim):
    architecture = document()["architecture"] | claim
    checkpoint.save(PATH, document(architecture=architecture))
    with pytest.raises(CheckpointError, match="does not hold the weights of"):
        checkpoint.load_model(PATH)


def test_a_checkpoint_whose_weights_are_not_those_it_names_is_refused():
    checkpoint.save(PATH, document(**{"weights hash": "0" * 64}))
    with pytest.raises(CheckpointError, match="its weights hash is of other weights"):
        checkpoint.load_model(PATH)


def test_tensors_that_claim_more_than_they_hold_take_no_memory():
    claimed = torch.zeros(1).expand(10**12)
    checkpoint.save(PATH, document(model={"linear.weight": claimed}, **{"weights hash": "0"}))
    refused("a tensor without values of its own")


@pytest.mark.parametrize("name", ["wideresnet", "vgg16", "resnetx"])
def test_an_architecture_dive_does_not_know_is_refused_by_name(name):
    checkpoint.save(PATH, document(architecture=document()["architecture"] | {"name": name}))
    with pytest.raises(CheckpointError, match=name):
        checkpoint.load_model(PATH)


def test_the_hash_of_weights_sees_every_bit_name_shape_and_type():
    state = build_model("resnet8", 4).state_dict()
    before = checkpoint.weights_hash(state)
    hashes = {before}
    bit = {name: tensor.clone() for name, tensor in state.items()}
    bit["conv.weight"].view(-1)[5] = torch.nextafter(bit["conv.weight"].view(-1)[5], torch.tensor(9.0))
    hashes.add(checkpoint.weights_hash(bit))
    hashes.add(checkpoint.weights_hash({f"x{name}": tensor for name, tensor in state.items()}))
    hashes.add(checkpoint.weights_hash({**state, "linear.weight": state["linear.weight"].reshape(64, 4)}))
    hashes.add(checkpoint.weights_hash({**state, "linear.bias": state["linear.bias"].view(torch.int32)}))
    hashes.add(checkpoint.weights_hash({**state, "bn.num_batches_tracked": torch.tensor(1)}))
    assert len(hashes) == 6


def test_the_hash_of_weights_does_not_see_order_memory_layout_or_file():
    model = build_model("resnet8", 4)
    state = model.state_dict()
    before = checkpoint.weights_hash(state)
    assert checkpoint.weights_hash(dict(reversed(state.items()))) == before
    assert checkpoint.weights_hash(model.to(memory_format=torch.channels_last).state_dict()) == before
    checkpoint.save(PATH, document(model=state))
    assert checkpoint.weights_hash(checkpoint.load(PATH)["model"]) == before


def test_a_checkpoint_is_a_zip_whose_comment_is_the_seal():
    checkpoint.save(PATH, document())
    whole = PATH.read_bytes()
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        assert archive.testzip() is None
        assert archive.comment == b"dive-sha256:" + hashlib.sha256(whole[:-76]).hexdigest().encode()
