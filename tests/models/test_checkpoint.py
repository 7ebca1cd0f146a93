"""Checkpoints: what goes in comes out, bit for bit, and nothing else is ever taken for one."""

import hashlib
import io
import json
import random
import resource
import zipfile
from pathlib import Path

import pytest
import torch

from dive.data.longtail import long_tailed
from dive.data.sources.registry import open_source
from dive.errors import CheckpointError
from dive.models import checkpoint
from dive.models.network import Architecture, Network
from dive.models.registry import build_model
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.records import fault_of

PATH = Path("model.pt")
ARCHITECTURE = Architecture("resnet8", 4, 1, mean=(0.3,), std=(0.4,))


def document(**changes: object) -> dict:
    """A finished teacher's checkpoint, small."""
    model = build_model("resnet8", 4, channels=1, seed=1)
    whole = {
        "kind": "teacher",
        "loss": "bsce",
        "architecture": ARCHITECTURE.as_dict() | {"parameters": 75_002},
        "recipe": {"name": "x", "schedule": {"milestones": [1, 2]}},
        "seed": 0,
        "classes": ["a", "b", "c", "d"],
        "class_counts": [9, 3, 2, 1],
        "data_fingerprint": "f",
        "fingerprint_version": 2,
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
    if "weights_hash" not in whole:
        whole["weights_hash"] = checkpoint.weights_hash(whole["model"])
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
    assert found["format"] == "dive-checkpoint" and found["version"] == 2
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
        refused(r"model\.pt (was not written by dive as a checkpoint, or was cut short|is corrupt)")
    PATH.write_bytes(whole)
    assert checkpoint.load(PATH)["kind"] == "teacher"


def test_a_single_flipped_bit_anywhere_is_noticed():
    checkpoint.save(PATH, {"kind": "teacher", "weights": torch.arange(200.0)})
    whole = PATH.read_bytes()
    for at in {*random.Random(0).sample(range(len(whole)), 200), *range(len(whole) - 100, len(whole))}:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << (at % 8)
        PATH.write_bytes(damaged)
        refused(r"model\.pt (is corrupt|was not written by dive as a checkpoint)")


def test_bytes_behind_the_end_are_noticed():
    checkpoint.save(PATH, document())
    PATH.write_bytes(PATH.read_bytes() + b"\n")
    refused("was not written by dive as a checkpoint")


def test_a_file_of_another_program_is_refused():
    torch.save({"model": {}, "format": "dive-checkpoint", "version": 1}, PATH)
    refused("was not written by dive as a checkpoint")
    PATH.write_text("hello")
    refused("was not written by dive as a checkpoint")


def test_another_format_or_version_is_refused_and_named(monkeypatch):
    with monkeypatch.context() as newer:
        newer.setattr(checkpoint, "VERSION", 3)
        checkpoint.save(PATH, document())
    refused(
        r"has format dive-checkpoint version 3; this version of dive reads dive-checkpoint up to version 2"
    )
    with monkeypatch.context() as other:
        other.setattr(checkpoint, "FORMAT", "dive-cache")
        checkpoint.save(PATH, document())
    refused("has format dive-cache version 2")


class Payload:
    """Unpickling it would make a file."""

    def __reduce__(self):
        return Path.touch, (Path("hacked"),)


def test_a_sealed_pickle_that_names_a_callable_is_refused_and_not_run():
    checkpoint.save(PATH, {**document(), "extra": Payload()})
    refused(r"model\.pt")
    assert not Path("hacked").exists()


def test_a_finished_model_answers_as_before():
    network = ARCHITECTURE.build(seed=1)
    views = torch.randint(0, 256, (16, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    network(views)  # moves the batch statistics
    checkpoint.save(PATH, document(model=network.body.state_dict()))
    loaded, found = checkpoint.load_model(PATH)
    assert isinstance(loaded, Network) and found["recipe"]["name"] == "x"
    with torch.inference_mode():
        assert torch.equal(loaded.eval()(views), network.eval()(views))
        by_hand = ((views / 255) - 0.3) / 0.4
        torch.testing.assert_close(loaded(views), network.body(by_hand), rtol=1e-4, atol=1e-5)


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
        Architecture("resnet14", 4, 1, (0.3,), (0.4,)),
        Architecture("resnet8", 5, 1, (0.3,), (0.4,)),
        Architecture("resnet8", 4, 3, (0.3,) * 3, (0.4,) * 3),
        Architecture("resnet8", 4, 1, (0.3,) * 3, (0.4,)),
        Architecture("resnet8", 4, 1, (0.3,), ()),
    ],
)
def test_weights_of_another_architecture_are_refused(architecture):
    checkpoint.save(PATH, document(architecture=architecture.as_dict() | {"parameters": 9}))
    with pytest.raises(CheckpointError, match=rf"does not hold the weights of a {architecture.name}"):
        checkpoint.load_model(PATH)


@pytest.mark.parametrize("claim", [{"classes": 10**11}, {"channels": 10**9}, {"name": "resnet6000002"}])
def test_an_architecture_larger_than_its_weights_takes_no_memory(claim):
    architecture = document()["architecture"] | claim
    checkpoint.save(PATH, document(architecture=architecture))
    told = "there is no network 'resnet6000002'" if "name" in claim else "does not hold the weights of"
    with pytest.raises(CheckpointError, match=told):
        checkpoint.load_model(PATH)


@pytest.mark.parametrize("name", ["torchvision/regnet_x_400mf", "torchvision/vit_h_14", "torchvision/vgg11"])
def test_weights_that_are_not_a_large_networks_are_refused_before_memory_is_taken_for_it(name):
    checkpoint.save(
        PATH,
        document(
            architecture=document()["architecture"]
            | {"name": name, "channels": 3}
            | {"input": {"size": None, "mean": [0.3] * 3, "std": [0.4] * 3}}
        ),
    )
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(CheckpointError, match=f"does not hold the weights of a {name}"):
        checkpoint.load_model(PATH)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000  # kB; vgg11 has 500 MB


def test_a_checkpoint_whose_weights_are_not_those_it_names_is_refused():
    checkpoint.save(PATH, document(**{"weights_hash": "0" * 64}))
    with pytest.raises(CheckpointError, match="its weights do not match its weights hash"):
        checkpoint.load_model(PATH)


def test_tensors_that_claim_more_than_they_hold_take_no_memory():
    claimed = torch.zeros(1).expand(10**12)
    checkpoint.save(PATH, document(model={"linear.weight": claimed}, **{"weights_hash": "0"}))
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


def old_document() -> dict:
    """A finished teacher's checkpoint as dive 0.1.0 wrote it: its normalisation among the data."""
    whole = document()
    for key in ("weights_hash", "data_fingerprint"):
        whole[key.replace("_", " ")] = whole.pop(key)
    del whole["fingerprint_version"], whole["architecture"]["input"]
    data = {"source": "digits", "path": "data", "imbalance": 50.0, "seed": 0, "size": None}
    whole["recipe"] = {
        "name": "x",
        "data": data | {"mean": [0.3], "std": [0.4]},
        "views": {"kind": "crop_flip", "pad": 1, "flip": False, "seed": 0},
        "model": {"name": "resnet8"},
    }
    return whole


def test_a_model_of_version_1_is_read_with_the_normalisation_of_its_recipe(monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "VERSION", 1)
        checkpoint.save(PATH, old_document())
    assert torch.load(PATH, weights_only=True)["version"] == 1
    network, found = checkpoint.load_model(PATH)
    assert found["version"] == 2 and found["fingerprint_version"] == 1
    assert Architecture.of(found["architecture"]) == ARCHITECTURE
    views = torch.randint(0, 256, (5, 1, 8, 8), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    with torch.inference_mode():
        model = build_model("resnet8", 4, channels=1, seed=1).eval()
        expected = model((views / 255 - 0.3) / 0.4)
        torch.testing.assert_close(network.eval()(views), expected, rtol=1e-4, atol=1e-5)


def test_the_state_of_a_run_of_version_1_is_refused_by_name(monkeypatch):
    with monkeypatch.context() as older:
        older.setattr(checkpoint, "VERSION", 1)
        checkpoint.save(PATH, {"kind": "state", "epoch": 3})
    refused(r"model\.pt is the state of a run of another version of dive \(1\)")


@pytest.fixture(scope="module")
def kept(repository) -> tuple[Network, dict]:
    """The teacher that dive 0.1.0 trained, as this version reads it."""
    return checkpoint.load_model(repository / "results/cifar100_lt_bbn/teacher.pt")


def test_the_kept_teacher_of_version_1_has_the_weights_that_its_record_names(kept, repository):
    network, found = kept
    written = json.loads((repository / "results/cifar100_lt_bbn/teacher.json").read_text())
    assert checkpoint.weights_hash(network.body.state_dict()) == written["weights hash"]
    assert fault_of({key: value for key, value in found.items() if key != "model"}) == ""
    assert {key: found[key] for key in upgraded(written)} == upgraded(written)
    architecture = Architecture.of(found["architecture"])
    assert (architecture.name, architecture.classes, architecture.channels) == ("resnet32", 100, 3)
    assert (architecture.mean, architecture.std) == ((0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.201))


def test_the_kept_teacher_was_trained_on_the_images_that_are_drawn_now(kept, shared_data):
    _, found = kept
    data = build(found["recipe"]).data
    source = open_source(data.kind, root=str(shared_data))
    train = long_tailed(source, data.imbalance, data.seed)
    assert found["fingerprint_version"] == 1
    assert train.fingerprint_of(1) == found["data_fingerprint"] != train.fingerprint
    assert train.counts.tolist() == found["class_counts"] and list(train.classes) == found["classes"]


def test_an_architecture_survives_the_way_through_plain_values():
    for size in (None, 24):
        architecture = Architecture("resnet20", 7, 3, (0.1, 0.2, 0.3), (0.4, 0.5, 0.6), size)
        document = json.loads(json.dumps(architecture.as_dict()))
        assert document["input"] == {"size": size, "mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6]}
        assert Architecture.of(document | {"parameters": 3}) == architecture
