"""Networks of other families from the command line: the whole chain on a small folder of pictures."""

import importlib.util
import json
from pathlib import Path

import chain
import folders
import numpy as np
import own_networks
import photographs
import pytest
import torch
import yaml
from PIL import Image
from torchvision.transforms import v2

import dive
from dive.models import checkpoint
from dive.training import loop
from dive.workflows import begin

ONE = ("--epochs", 1, "--device", "cpu", "--precision", "fp32", "--quiet")


@pytest.fixture
def recipe() -> Path:
    own_networks.write()
    return folders.write_recipe(Path("insects.yaml"), folders.write_images(Path("images")))


def chained(recipe: Path, name: str, *more: object, student: str | None = None) -> list[dict]:
    """Teacher, cache, student and evaluation; returns what eval tells of both.

    name: the teacher's network. student: the student's, where it is another.
    """
    told = ("--config", recipe, "--set", f"model.name={name}", *more)
    chain.succeed("teacher", *told, *ONE)
    chain.succeed("export-logits", *told, *ONE[2:])
    chain.succeed("student", *told, *ONE)
    found = chain.succeed("eval", *told, "--device", "cpu", "--json", "--quiet").document["checkpoints"]
    assert [one["kind"] for one in found] == ["teacher", "student"]
    for one, network in zip(found, (name, student or name), strict=True):
        record = json.loads(Path(one["path"]).with_suffix(".json").read_text())
        assert record["architecture"]["name"] == network and record["accuracy"] == one["accuracy"]
    sampled = (
        "--sample",
        10,
        "--teacher",
        "checkpoints/insects/teacher.pt",
        "--model",
        name,
        "--device",
        "cpu",
    )
    verified = chain.succeed("verify", "cache/insects.h5", *sampled, "--json", "--quiet").document
    assert verified["sampled"]["agreement"] == 1
    return found


def test_a_network_of_ones_own_goes_through_the_whole_chain(recipe):
    found = chained(recipe, "tiny:build")
    paths = [one["path"] for one in found]
    record = json.loads(Path(paths[0]).with_suffix(".json").read_text())
    assert record["versions"]["tiny:build"].startswith("sha256:") and "initial_weights" not in record
    complaint = chain.dive("eval", *paths, "--quiet").complaint
    assert "it would import and call 'tiny:build'" in complaint
    again = chain.succeed("eval", *paths, "--model", "tiny:build", "--json", "--quiet").document
    assert [one["accuracy"] for one in again["checkpoints"]] == [one["accuracy"] for one in found]
    network = dive.load_model(paths[0], own="tiny:build")
    assert network(torch.zeros(2, 3, 8, 8, dtype=torch.uint8)).shape == (2, 3)


def test_torchvisions_networks_go_through_the_whole_chain(recipe):
    chained(
        recipe,
        "torchvision/shufflenet_v2_x0_5",
        "--set",
        "model.input.size=32",
        "--set",
        "optimizer.lr=0.001",
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "own"),
    [
        ("torchvision/resnet18", ()),
        pytest.param(
            "timm/test_resnet",
            (),
            marks=pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="timm is not installed"),
        ),
        ("tiny:build", ("--model", "tiny:build")),
    ],
)
def test_a_network_trains_on_photographs_for_an_epoch_and_classifies_one(name, own):
    own_networks.write()
    photographs.write_all()
    told = ("--config", "folder.yaml", "--set", f"model.name={name}", "--set", "views.size=32")
    chain.succeed("teacher", *told, *ONE, "--workers", 1, "--out", "t.pt")
    path = Path("pictures/test/bee/000.jpg")
    predicted = chain.succeed("predict", "t.pt", path, "--top", 3, *own, "--json", "--quiet").document
    network = dive.load_model("t.pt", own=name)
    shown = v2.Compose([v2.Resize(round(32 * 256 / 224)), v2.CenterCrop(32), v2.PILToTensor()])
    with torch.no_grad():
        wanted = network(shown(Image.open(path).convert("RGB"))[None])[0].softmax(0).tolist()
    given = {one["class"]: one["probability"] for one in predicted["images"][0]["top"]}
    assert given == pytest.approx(dict(zip(("ant", "bee", "cat"), wanted, strict=True)), abs=1e-4)


@pytest.fixture
def pretrained(recipe) -> Path:
    """A teacher of the same pictures, whose weights others begin with."""
    given = ("--config", recipe, "--seed", 5, "--out", "given.pt")
    chain.succeed("teacher", *given, *ONE)
    return Path("given.pt")


def test_weights_of_a_checkpoint_are_where_training_begins_and_are_recorded(recipe, pretrained, monkeypatch):
    begun = {}
    real = loop.Run.begin_epoch

    def first(run: loop.Run) -> None:
        begun.update({name: tensor.clone() for name, tensor in run.network.body.state_dict().items()})
        real(run)

    monkeypatch.setattr(loop.Run, "begin_epoch", first)
    given = checkpoint.load(pretrained)["model"]
    told = ("--config", recipe, "--set", f"model.weights={pretrained}")
    outcome = chain.succeed("teacher", *told, *ONE[:-1], "--out", "new.pt")
    assert "starts from given.pt; its last linear layer, linear, is new: 64 features to 3" in outcome.err
    other = {name for name in given if not torch.equal(begun[name], given[name])}
    assert other == {"linear.weight", "linear.bias"}
    chain.succeed("teacher", *told, "--set", "model.head=keep", *ONE, "--out", "kept.pt")
    assert all(torch.equal(begun[name], given[name]) for name in given)
    record = json.loads(Path("new.json").read_text())
    assert record["initial_weights"].startswith("sha256:") and record["recipe"]["model"]["head"] is None
    assert "initial weights" in chain.succeed("inspect", "new.pt").out


def test_the_weights_that_training_begins_with_are_not_replaced(recipe, pretrained):
    told = ("--config", recipe, "--set", f"model.weights={pretrained}", "--set", "model.head=keep")
    before = pretrained.read_bytes()
    line = chain.dive("teacher", *told, *ONE, "--force", "--out", pretrained).complaint
    assert f"--out {pretrained} would replace {pretrained}, which the run reads" in line
    assert pretrained.read_bytes() == before


def test_a_stopped_run_is_of_its_initial_weights_wherever_they_lie(recipe, pretrained, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    told = ("--config", recipe, "--device", "cpu", "--precision", "fp32", "--quiet")
    with_weights = (*told, "--set", "model.weights=given.pt")
    chain.succeed("teacher", *with_weights, "--out", "whole.pt")
    with chain.stopped_at(5):
        assert chain.dive("teacher", *with_weights, "--out", "run.pt").code == 130
    assert Path("run.state").exists()
    complaint = chain.dive("teacher", *told, "--out", "run.pt").complaint
    assert "initial_weights: sha256:" in complaint and "now None" in complaint
    pretrained.rename("moved.pt")
    moved = (*told, "--set", "model.weights=moved.pt")
    chain.succeed("teacher", *moved, "--out", "run.pt")
    hashes = [json.loads(Path(name).read_text())["weights_hash"] for name in ("whole.json", "run.json")]
    assert hashes[0] == hashes[1]


def test_a_finished_student_of_a_grid_is_not_taken_for_one_of_other_weights(recipe, pretrained):
    chain.succeed("export-logits", "--config", recipe, "--teacher", pretrained, *ONE[2:])
    grid = ("--config", recipe, *ONE, "--seed", 0, 1)
    chain.succeed("student", *grid)
    assert "is finished already" in chain.dive("student", *(w for w in grid if w != "--quiet")).err
    complaint = chain.dive("student", *grid, "--set", "model.weights=given.pt").complaint
    assert "is of another recipe (initial_weights: None, now sha256:" in complaint


def test_dropout_draws_by_seed_and_a_resumed_run_goes_on_as_it_would_have(recipe, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    told = ("--config", recipe, "--set", "model.name=tiny:build", "--device", "cpu", "--quiet")
    told = (*told, "--precision", "fp32")

    def weights(name: str, *more: object) -> str:
        chain.succeed("teacher", *told, *more, "--out", f"{name}.pt")
        return json.loads(Path(f"{name}.json").read_text())["weights_hash"]

    torch.manual_seed(1)
    before = torch.get_rng_state()
    first = weights("first")
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert weights("second") == first != weights("third", "--seed", 1)
    with chain.stopped_at(5):
        assert chain.dive("teacher", *told, "--out", "run.pt").code == 130
    torch.manual_seed(3)
    assert weights("run") == first


def rows_of(path: str) -> list[dict]:
    """The learning that a history tells of: everything but times."""
    lines = Path(path).with_suffix(".history.jsonl").read_text().splitlines()
    return [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]


def test_dropout_in_parts_of_a_batch_is_resumed_as_it_would_have_been(recipe, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    told = ("--config", recipe, "--set", "model.name=tiny:build", "--device", "cpu", "--quiet")
    told = (*told, "--precision", "fp32", "--set", "schedule.accumulate=2", "--set", "optimizer.kind=adamw")
    chain.succeed("teacher", *told, "--out", "whole.pt")
    with chain.stopped_at(5):
        assert chain.dive("teacher", *told, "--out", "run.pt").code == 130
    chain.succeed("teacher", *told, "--out", "run.pt")
    assert rows_of("run.pt") == rows_of("whole.pt")
    hashes = [json.loads(Path(name).read_text())["weights_hash"] for name in ("whole.json", "run.json")]
    assert hashes[0] == hashes[1]


def test_the_body_of_weights_learns_at_its_factor(recipe, pretrained):
    """At a factor of 0 only the last linear layer is trained, and batch norm's statistics move on."""
    given = checkpoint.load(pretrained)["model"]
    told = ("--config", recipe, "--set", f"model.weights={pretrained}", "--set", "optimizer.body_factor=0")
    chain.succeed("teacher", *told, *ONE, "--out", "new.pt")
    found = checkpoint.load(Path("new.pt"))["model"]
    moved = {name for name in given if not torch.equal(found[name], given[name])}
    learnt = {name for name in moved if "running" not in name and "num_batches" not in name}
    assert learnt == {"linear.weight", "linear.bias"}


ONE_VIEW = """\
from torch import nn


def build(classes):
    return nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.BatchNorm1d(8), nn.Linear(8, classes)
    )
"""


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            ("schedule.accumulate=6",),
            "with schedule.accumulate 6, a part of a batch has a single image: lower it",
        ),
        (
            ("schedule.batch_size=13", "schedule.accumulate=4"),
            "a part of the last batch of an epoch has a single image",
        ),
        (
            ("schedule.batch_size=15",),
            "the last batch of an epoch has only one image: change schedule.batch_size",
        ),
        (
            ("schedule.batch_size=15", "schedule.accumulate=2"),
            "the last batch of an epoch has only one image: ",
        ),
        (("schedule.accumulate=2",), None),
    ],
)
def test_a_part_of_one_view_is_refused_by_what_leaves_it(recipe, settings, said):
    name = own_networks.write("single", ONE_VIEW)
    sets = [word for one in (f"model.name={name}", *settings) for word in ("--set", one)]
    arguments = ("teacher", "--config", recipe, *ONE, *sets, "--out", "t.pt")
    if said is None:
        chain.succeed(*arguments)
    else:
        complaint = chain.dive(*arguments).complaint
        assert "does not take 1 view" in complaint and said in complaint


def test_a_precision_is_tried_on_a_part_of_a_batch(recipe, monkeypatch):
    tried = []
    real = begin.choose_precision

    def noting(wanted, device, network, views, loss):
        tried.append(len(views))
        return real("fp32", device, network)

    monkeypatch.setattr(begin, "choose_precision", noting)
    told = ("--config", recipe, "--epochs", 1, "--device", "cpu", "--quiet", "--precision", "auto")
    chain.succeed("teacher", *told, "--set", "schedule.accumulate=4", "--out", "t.pt")
    assert tried == [2]  # of six


def test_a_changed_source_is_warned_of_where_a_run_is_resumed(recipe, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    told = ("--config", recipe, "--set", "model.name=tiny:build", "--device", "cpu", "--precision", "fp32")
    told = (*told, "--out", "run.pt")
    with chain.stopped_at(5):
        assert chain.dive("teacher", *told).code == 130
    own_networks.write(source=own_networks.SOURCE + "# another line\n")
    outcome = chain.succeed("teacher", *told)
    assert "warning: run.state was made with another source of tiny:build (SHA-256 " in outcome.err
    outcome = chain.succeed("export-logits", *told[:-2], "--teacher", "run.pt", "--out", "a.h5")
    assert "another source" not in outcome.err


def test_weights_of_another_source_of_a_network_are_told_from_a_network_that_is_not_there(recipe):
    told = ("--config", recipe, *ONE, "--set", "model.name=tiny:build", "--out", "run.pt")
    chain.succeed("teacher", *told)
    own_networks.write(source=own_networks.SOURCE.replace("3, 8, 3", "3, 9, 3").replace("(8)", "(9)"))
    evaluate = ("eval", "run.pt", "--model", "tiny:build")
    complaint = chain.dive(*evaluate).complaint
    assert complaint.endswith(
        "as its source here builds it, which is another version than it was trained with"
    )
    own_networks.write(source="")
    complaint = chain.dive(*evaluate).complaint
    assert complaint == "dive: run.pt has a network that cannot be built here: the module tiny has no build"


def test_small_networks_are_refused_for_large_pictures(recipe):
    for path in Path("images").rglob("*.png"):
        Image.open(path).resize((80, 80)).save(path)
    told = ("teacher", "--config", recipe, *ONE, "--set")
    complaint = chain.dive(*told, "views.size=80").complaint
    assert "at most 64 pixels a side, these have 80; did you mean torchvision/resnet50?" in complaint
    assert not Path("checkpoints/insects/teacher.pt").exists()
    chain.succeed(*told, "views.size=80", "--set", "model.input.size=16", "--out", "smaller.pt")
    chain.succeed(*told, "views.size=64", "--out", "fits.pt")


@pytest.mark.parametrize(
    ("assignment", "said", "code"),
    [
        ("model.name=torchvision/resnet51", "did you mean torchvision/resnet50", 1),
        ("model.name=resnet18", "did you mean torchvision/resnet18?", 2),
        ("model.name=torchvision/vit_b_16", "Wrong image height", 1),
        ("model.name=tiny:pair", "must return logits", 1),
        ("model.weights=nothing.pth", "model.weights nothing.pth of resnet8 is not a file", 1),
        ("model.head=keep", "model.head is for the head of model.weights", 2),
    ],
)
def test_a_network_that_cannot_be_had_is_refused_in_one_line_and_nothing_is_written(
    recipe, assignment, said, code
):
    outcome = chain.dive("teacher", "--config", recipe, *ONE, "--set", assignment)
    assert said in outcome.complaint and outcome.code == code
    assert not Path("checkpoints/insects/teacher.pt").exists()


def test_one_recipe_leads_from_a_large_teacher_to_a_small_student(recipe):
    """The student is bit for bit that of a recipe of its own, joined by the cache."""
    alone = {"model": {"name": "resnet8"}, "optimizer": {"lr": 0.05}}
    document = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump(document | {"optimizer": {"lr": 0.001}, "student": alone}))
    own = Path("own.yaml")
    own.write_text(yaml.safe_dump(document | {"optimizer": alone["optimizer"]}))
    found = chained(recipe, "tiny:build", student="resnet8")
    records = [json.loads(Path(one["path"]).with_suffix(".json").read_text()) for one in found]
    assert [record["recipe"]["optimizer"]["lr"] for record in records] == [0.001, 0.05]
    assert not any("student" in record["recipe"] for record in records)
    joined = ("--config", own, "--cache", "cache/insects.h5", "--out", "own.pt")
    chain.succeed("student", *joined, *ONE)
    assert json.loads(Path("own.json").read_text())["weights_hash"] == records[1]["weights_hash"]


def test_the_students_part_is_no_business_of_a_stopped_teacher(recipe, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e9)
    told = ("--config", recipe, "--set", "model.name=tiny:build", "--epochs", 4, *ONE[2:])
    with chain.stopped_at(5):
        assert chain.dive("teacher", *told).code == 130
    outcome = chain.succeed("teacher", *told[:-1], "--set", "student.model.name=resnet8")
    assert "resuming after epoch" in outcome.err


def test_a_student_of_the_recipes_own_network_may_be_exported_too(recipe):
    told = ("--config", recipe, "--set", "model.name=tiny:build", "--set", "student.model.name=resnet8")
    chained(recipe, "tiny:build", "--set", "student.model.name=resnet8", student="resnet8")
    student = "checkpoints/insects/student.pt"
    chain.succeed("export-logits", *told, *ONE[2:], "--teacher", student, "--out", "next.h5")
    assert dive.open_cache("next.h5").identity["teacher"]["architecture"]["name"] == "resnet8"


@pytest.mark.slow
@pytest.mark.skipif(not importlib.util.find_spec("timm"), reason="timm is not installed")
def test_a_network_of_timm_teaches_a_student_by_its_features(recipe):
    name = "timm/test_resnet"
    told = ("--config", recipe, "--set", "student.model.name=resnet8", "--set", f"model.name={name}")
    chain.succeed("teacher", *told, "--set", "model.input.size=32", *ONE, "--out", "t.pt")
    exported = chain.succeed(
        "export-logits",
        *told,
        *ONE[2:],
        "--teacher",
        "t.pt",
        "--store",
        "features",
        "--out",
        "f.h5",
        "--json",
    ).document
    teacher, cache = dive.load_model("t.pt"), dive.open_cache("f.h5")
    assert exported["identity"]["teacher"]["architecture"]["name"] == name
    images, clean = dive.open_images("images"), list(cache.views[0]).index(cache.facts["clean_id"])
    pixels = torch.tensor(np.stack([images[key] for key in cache.keys])).permute(0, 3, 1, 2)
    with torch.no_grad():
        wanted = teacher(pixels)
    rows = range(len(cache.keys))
    torch.testing.assert_close(
        torch.from_numpy(cache.logits(rows, [clean] * len(rows))), wanted, rtol=1e-3, atol=1e-3
    )
    chain.succeed("student", *told, *ONE, "--cache", "f.h5", "--out", "s.pt")
    assert json.loads(Path("s.json").read_text())["teacher"]["loss"] == "bsce"
    words = ("--sample", 20, "--teacher", "t.pt", "--device", "cpu")
    chain.succeed("verify", "--cache", "f.h5", *words, "--quiet")
