"""Networks as files without dive: the same logits as the checkpoint's, for any batch, and what is refused."""

import importlib.util
import json
import re
import sys
from pathlib import Path

import chain
import numpy as np
import own_networks
import pytest
import torch
from PIL import ExifTags, Image, ImageOps

import dive
from dive.errors import DiveError, ModelError, OptionError
from dive.models import checkpoint
from dive.models.deployed import Deployed, program_of
from dive.models.formats import onnx, registry
from dive.models.network import Architecture
from dive.recipe.reading import build
from dive.recipe.records import FORMAT, VERSION
from dive.workflows import export_model as workflow

CLASSES = ["ant", "bee", "cat", "dog", "élan"]
needs_timm = pytest.mark.skipif(importlib.util.find_spec("timm") is None, reason="timm is not installed")
needs_onnx = pytest.mark.skipif(
    any(importlib.util.find_spec(name) is None for name in ("onnx", "onnxscript", "onnxruntime")),
    reason="onnx, onnxscript or onnxruntime is not installed",
)
FORMATS = ["pt2", pytest.param("onnx", marks=needs_onnx)]
# A name, the side of the network's own input, None where it is the view's, and a format.
CASES = [
    ("resnet32", None, "pt2"),
    pytest.param("resnet32", None, "onnx", marks=[needs_onnx, pytest.mark.slow]),
    ("tiny:build", None, "pt2"),
    pytest.param("tiny:build", None, "onnx", marks=needs_onnx),
    pytest.param("torchvision/resnet18", 40, "pt2", marks=pytest.mark.slow),
    pytest.param("torchvision/resnet18", 40, "onnx", marks=[needs_onnx, pytest.mark.slow]),
    pytest.param("timm/test_resnet", None, "pt2", marks=needs_timm),
    pytest.param("timm/test_resnet", 40, "onnx", marks=[needs_timm, needs_onnx, pytest.mark.slow]),
]


@pytest.fixture(autouse=True)
def own_module() -> None:
    own_networks.write()


def finished(name: str, size: int | None, digits: chain.Chain, views: dict | None = None) -> Path:
    """A checkpoint of a network with random weights and five classes of pictures of 32 pixels a side."""
    network = Architecture(name, len(CLASSES), 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3), size)
    document = checkpoint.load_finished(digits.teacher)
    built = network.build(3).train()
    with torch.no_grad():  # statistics of batch norm that are not those of a fresh network
        for _ in range(20):
            built(torch.from_numpy(noise(4, 32, 32)).permute(0, 3, 1, 2))
    body = built.body
    weights = body.state_dict()
    inputs = {"mean": [0.4, 0.5, 0.6], "std": [0.2, 0.25, 0.3], "size": size}
    recipe = {
        "name": "pictures",
        "data": {"kind": "folder", "root": "pictures"},
        "views": views or {"size": 32},
        "model": {"name": name, "input": inputs},
    }
    own = {"format": FORMAT, "version": VERSION, "kind": "teacher", "recipe": build(recipe).as_dict()}
    facts = {
        "architecture": network.as_dict() | {"parameters": 1},
        "classes": CLASSES,
        "class_counts": [9, 5, 4, 3, 2],
        "per_class": [0.5] * 5,
        "weights_hash": checkpoint.weights_hash(weights),
    }
    path = Path("network.pt")
    checkpoint.save(path, document | own | facts | {"model": weights})
    return path


def noise(count: int, height: int, width: int) -> np.ndarray:
    return np.random.default_rng(count).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def ran(path: Path, pictures: np.ndarray) -> np.ndarray:
    """The logits of an exported file by its own library alone."""
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        return session.run(["logits"], {"pictures": pictures})[0]
    with torch.no_grad():
        return torch.export.load(path).module()(torch.from_numpy(pictures.copy())).numpy()


def metadata(path: Path) -> dict[str, str]:
    """The texts in an exported file."""
    keys = ("format", "classes", "input", "preparation", "architecture", "weights_hash", "producer")
    if path.suffix == ".onnx":
        import onnxruntime

        session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
        found = session.get_modelmeta().custom_metadata_map
        return {key: found[key] for key in keys}
    extra = dict.fromkeys(keys, "")
    torch.export.load(path, extra_files=extra)
    return extra


@pytest.mark.parametrize(("name", "size", "form"), CASES)
def test_logits_are_the_checkpoints_for_any_number_of_pictures(name, size, form, digits):
    path, out = finished(name, size, digits), Path(f"out/network.{form}")
    words = (
        ("--format", form, "--out", out, "--model", name) if ":" in name else ("--format", form, "--out", out)
    )
    told = chain.succeed("export-model", path, *words, "--json", "--quiet").document
    own = name if ":" in name else None
    for count in (1, 3, 7):
        pictures = noise(count, 32, 32)
        with torch.no_grad():
            wanted = dive.load_model(path, own)(torch.from_numpy(pictures).permute(0, 3, 1, 2)).numpy()
        assert np.ptp(wanted, axis=1).min() > 0.01  # they say something
        np.testing.assert_allclose(ran(out, pictures), wanted, rtol=0, atol=1e-4)
    assert told["difference"] <= 1e-4 and told["classes"] == CLASSES
    found = metadata(out)
    assert registry.FORMATS[form].is_own(out) and json.loads(found["classes"]) == CLASSES
    assert json.loads(found["input"]) == {"height": 32, "width": 32, "channels": "RGB", "dtype": "uint8"}
    assert found["weights_hash"] == checkpoint.load_finished(path)["weights_hash"] == told["weights_hash"]
    assert json.loads(found["architecture"])["name"] == name
    assert str(Path(workflow.__file__).parent).encode() not in out.read_bytes()  # where source files lie


@pytest.mark.parametrize("form", FORMATS)
def test_a_network_of_one_channel_takes_rgb_as_predict_does(form, digits):
    out = Path(f"digits.{form}")
    chain.succeed("export-model", digits.teacher, "--format", form, "--out", out, "--quiet")
    pictures = noise(5, 8, 8)
    with torch.no_grad():
        grey = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])
        wanted = dive.load_model(digits.teacher)(torch.from_numpy(grey)[:, None]).numpy()
    np.testing.assert_allclose(ran(out, pictures), wanted, rtol=0, atol=1e-4)
    Image.fromarray(pictures[0]).save("one.png")
    (one,) = dive.predict(digits.teacher, ["one.png"]).images
    assert one.top[0][0] == json.loads(metadata(out)["classes"])[ran(out, pictures[:1]).argmax()]


def test_a_colour_picture_cut_as_the_file_says_is_grey_as_predict_makes_it(digits):
    """Grey is made of the cut picture: making it of the whole one first rounds otherwise."""
    exported = dive.export_model(digits.teacher, dive.ModelExportOptions("pt2", Path("digits.pt2")))
    assert "bicubic, Pillow's" in exported.record["preparation"]
    large = Image.fromarray(noise(1, 20, 30)[0])
    large.save("large.png")
    resized = large.resize((12, 8), Image.Resampling.BICUBIC).crop((2, 0, 10, 8))
    logits = torch.from_numpy(ran(exported.path, np.asarray(resized)[None])[0]).double()
    (found,) = dive.predict(digits.teacher, ["large.png"], top=10).images
    shares = dict(zip(exported.record["classes"], torch.softmax(logits, 0).tolist(), strict=True))
    assert dict(found.top) == pytest.approx(shares, rel=1e-5)


def test_grey_is_pillows_to_the_last_value():
    pictures = noise(4, 300, 300)
    deployed = Deployed(Seeing(), 1, (300, 300))
    wanted = np.stack([np.asarray(Image.fromarray(picture).convert("L")) for picture in pictures])
    seen = deployed(torch.from_numpy(pictures)).numpy()
    assert (seen == wanted[:, None]).all()


class Seeing(torch.nn.Module):
    """A network that gives the pixels that its body would see."""

    def __init__(self, size: int | None = None) -> None:
        super().__init__()
        self.size, self.body = size, torch.nn.Identity()

    def sees(self, shape: tuple[int, int]) -> tuple[int, int]:
        return shape if self.size is None else (self.size, self.size)

    def standardised(self, pixels: torch.Tensor) -> torch.Tensor:
        return pixels


@pytest.mark.parametrize(("shape", "size"), [((32, 48), 224), ((250, 230), 64), ((17, 9), 13), ((8, 5), 8)])
def test_the_resize_is_torchs_antialiased_one(shape, size):
    pictures = torch.from_numpy(noise(2, *shape))
    found = Deployed(Seeing(size), 3, shape)(pictures)
    pixels = pictures.permute(0, 3, 1, 2).double()
    wanted = torch.nn.functional.interpolate(pixels, (size, size), mode="bilinear", antialias=True)
    torch.testing.assert_close(found.double(), wanted, rtol=0, atol=2e-3)  # of 255, in float32


def test_a_photograph_cut_as_the_file_says_gets_the_classes_that_predict_gives(digits):
    path = finished("resnet8", None, digits, {"kind": "resized_crop", "size": 24})
    exported = dive.export_model(path, dive.ModelExportOptions("pt2", Path("network.pt2")))
    assert "256/224" in exported.record["preparation"] and exported.record["input"]["height"] == 24
    assert "exif_transpose" in exported.record["preparation"]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    Image.fromarray(noise(1, 50, 70)[0]).save("photograph.png", exif=exif)
    (wanted,) = dive.predict(path, ["photograph.png"], top=5).images
    from torchvision.transforms import v2

    picture = ImageOps.exif_transpose(Image.open("photograph.png")).convert("RGB")
    assert picture.size == (50, 70)  # 50 rows of 70 pixels, turned
    view = v2.Compose([v2.Resize(round(24 * 256 / 224)), v2.CenterCrop(24)])(picture)
    logits = torch.from_numpy(ran(exported.path, np.asarray(view)[None])[0]).double()
    shares = dict(zip(CLASSES, torch.softmax(logits, 0).tolist(), strict=True))
    assert shares == pytest.approx(dict(wanted.top), abs=1e-5)


def test_a_recipe_of_kept_weights_is_exported_like_a_checkpoint(digits):
    weights = Architecture("resnet8", 5, 3, (0.5,) * 3, (0.2,) * 3).build(1)
    torch.save(weights.body.state_dict(), "weights.pth")
    Path("names.txt").write_text("\n".join(CLASSES))
    Path("foreign.yaml").write_text(
        "name: foreign\ndata: {kind: list, classes: names.txt}\nviews: {kind: resized_crop, size: 32}\n"
        "model: {name: resnet8, weights: weights.pth, head: keep}\n"
    )
    exported = dive.export_model("foreign.yaml", dive.ModelExportOptions("pt2", Path("foreign.pt2")))
    assert exported.record["classes"] == CLASSES
    assert exported.record["weights_hash"] == checkpoint.weights_hash(weights.body.state_dict())


@pytest.mark.parametrize("given", ["24", "16x40"])
def test_pictures_without_a_size_in_the_recipe_need_one(given, digits):
    path = finished("resnet8", None, digits, {"pad": 2})
    words = ("export-model", path, "--format", "pt2", "--out", "network.pt2", "--quiet")
    complaint = chain.dive(*words).complaint
    assert complaint == "dive: network.pt does not record the size of its images; give --size"
    told = chain.succeed(*words, "--size", given, "--json").document["input"]
    height, width = (int(side) for side in (given.split("x") * 2)[:2])
    assert (told["height"], told["width"]) == (height, width)
    assert ran(Path("network.pt2"), noise(3, height, width)).shape == (3, 5)


def test_another_size_than_the_checkpoints_is_refused(digits):
    words = ("export-model", digits.teacher, "--format", "pt2", "--out", "digits.pt2", "--size")
    assert "was trained on views of 8×8 pixels; leave --size out" in chain.dive(*words, "16").complaint
    for wrong in ("0", "8x", "x8", "8x8x8", "eight"):
        assert chain.dive(*words, wrong).code == 2
    assert not Path("digits.pt2").exists()


def test_only_a_file_of_its_own_format_is_replaced(digits):
    out = Path("digits.pt2")
    words = ("export-model", digits.teacher, "--format", "pt2", "--out", out, "--quiet")
    chain.succeed(*words)
    before = out.read_bytes()
    assert "exists already" in chain.dive(*words).complaint and out.read_bytes() == before
    chain.succeed(*words, "--force")
    for form, one in registry.FORMATS.items():
        for content in (b"mine", b"PK\x03\x04 mine", b"\x08 mine", digits.teacher.read_bytes()):
            words = ("export-model", digits.teacher, "--format", form, "--out", f"digits.{form}", "--force")
            Path(f"digits.{form}").write_bytes(content)
            assert not one.is_own(Path(f"digits.{form}"))
            assert "is in the way" in chain.dive(*words).complaint
            assert Path(f"digits.{form}").read_bytes() == content
    assert sorted(path.name for path in Path().glob("*digits*")) == ["digits.onnx", "digits.pt2"]


def test_the_checkpoint_itself_and_another_suffix_are_refused(digits):
    with pytest.raises(OptionError, match="must end in .pt2"):
        dive.export_model(digits.teacher, dive.ModelExportOptions("pt2", Path("network.onnx")))
    path = finished("resnet8", None, digits).rename("network.pt2")
    complaint = chain.dive("export-model", path, "--format", "pt2", "--out", path, "--force").complaint
    assert "is a file that the command reads" in complaint


@pytest.mark.parametrize("missing", onnx.NEEDED)
def test_without_the_extra_one_line_names_the_pip_command(missing, digits, monkeypatch):
    monkeypatch.setitem(sys.modules, missing, None)
    words = ("export-model", digits.teacher, "--format", "onnx", "--out", "digits.onnx")
    complaint = chain.dive(*words).complaint
    assert f"needs {missing}" in complaint and "pip install 'dive-longtail[onnx]'" in complaint


@needs_onnx
def test_without_onnx_runtime_the_file_is_written_and_the_table_says_that_it_was_not_run(digits, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    monkeypatch.setattr(onnx.Onnx, "written", lambda *_: b"a model")
    words = ("export-model", digits.teacher, "--format", "onnx", "--out", "digits.onnx")
    told = chain.succeed(*words, "--quiet").out
    assert "onnxruntime is not installed" in told and Path("digits.onnx").exists()


def test_a_written_network_with_other_logits_is_refused(digits, monkeypatch):
    class Wrong(type(registry.FORMATS["pt2"])):
        def opened(self, content):
            right = super().opened(content)
            return lambda pictures: right(pictures) + 0.01

    monkeypatch.setitem(workflow.FORMATS, "pt2", Wrong())
    with pytest.raises(ModelError, match="does not return the logits of the model: they differ by 0.01"):
        dive.export_model(digits.teacher, dive.ModelExportOptions("pt2", Path("digits.pt2")))
    assert not Path("digits.pt2").exists()


def test_a_network_that_torch_cannot_trace_is_refused_in_a_line():
    class Branching(torch.nn.Module):
        def forward(self, x):
            return x.mean((2, 3)) if x.sum() > 0 else x.amax((2, 3))

    network = Seeing()
    network.body = Branching()
    with pytest.raises(DiveError, match="torch.export cannot export the network") as caught:
        program_of(Deployed(network, 3, (8, 8)), (8, 8))
    assert len(str(caught.value)) < 300 and not re.search("\n", str(caught.value))
