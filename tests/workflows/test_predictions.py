"""Classifying image files with a checkpoint, or with a recipe whose weights keep their head."""

import os
import re
from pathlib import Path

import chain
import conftest
import folders
import numpy as np
import own_networks
import pytest
import torch
from PIL import Image
from torch import nn
from torchvision.transforms import v2
from torchvision.transforms.functional import to_tensor

import dive
from dive.errors import CheckpointError, DataError, ModelError, RecipeError
from dive.models import checkpoint
from dive.models.registry import build_model
from dive.progress import Progress
from dive.recipe.reading import load
from dive.workflows.classifier import open_classifier
from dive.workflows.predict import predict

PHOTOGRAPHS = """\
name: photographs
data: {kind: folder, root: pictures}
views: {kind: resized_crop, size: 24}
model: {name: resnet8, input: {mean: [0.4, 0.5, 0.6], std: [0.2, 0.25, 0.3]}}
schedule: {epochs: 1, batch_size: 6, warmup_epochs: 0, milestones: []}
"""
HERE = ("--device", "cpu", "--precision", "fp32", "--quiet")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two teachers of noise: one of resized crops, and one of pictures brought to 8×8."""
    folder = tmp_path_factory.mktemp("predict")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        folders.write_images(Path("pictures"))
        Path("photographs.yaml").write_text(PHOTOGRAPHS)
        folders.write_recipe(Path("insects.yaml"), Path("pictures"))
        chain.succeed("teacher", "--config", "photographs.yaml", *HERE, "--out", "photographs.pt")
        chain.succeed("teacher", "--config", "insects.yaml", *HERE, "--out", "insects.pt")
    return folder


def photograph(path: Path, size: tuple[int, int] = (70, 50), seed: int = 0) -> Path:
    """A smooth picture of width × height in a file without loss."""
    small = Image.fromarray(np.random.default_rng(seed).integers(0, 256, (5, 7, 3), dtype=np.uint8))
    path.parent.mkdir(parents=True, exist_ok=True)
    small.resize(size, Image.Resampling.BICUBIC).save(path)
    return path


def softmax(logits: torch.Tensor) -> np.ndarray:
    """By NumPy in float64, of logits (C,)."""
    exponentials = np.exp(logits.detach().numpy().astype(np.float64))
    return exponentials / exponentials.sum()


def by_hand(path: Path, pixels: np.ndarray) -> dict[str, float]:
    """Class to probability that a checkpoint gives a view (H, W, 3) uint8, by its bare network alone."""
    document = checkpoint.load_finished(path)
    given = document["architecture"]["input"]
    views = torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None] / 255
    normalised = v2.functional.normalize(views, given["mean"], given["std"])
    with torch.no_grad():
        logits = dive.load_model(path).body(normalised)[0]
    return dict(zip(document["classes"], softmax(logits), strict=True))


def test_every_test_image_of_the_digits_gets_the_class_that_eval_counted(digits, tmp_path):
    images = dive.open_images("digits_lt/bbn", "test")
    for key, pixels in images.items():
        path = tmp_path / "digits" / f"{key}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[..., 0]).save(path)
    predicted = predict(digits.teacher, [tmp_path / "digits"])
    assert predicted.failures == [] and len(predicted.images) == len(images)
    right = [one.top[0][0] == one.path.parent.name for one in predicted.images]
    assert np.mean(right) == checkpoint.load_finished(digits.teacher)["accuracy"]["all"]
    with torch.no_grad():
        views = torch.from_numpy(np.stack(list(images.values()))).permute(0, 3, 1, 2)
        rows = dive.load_model(digits.teacher)(views)
    for key, logits in zip(images, rows, strict=True):
        (found,) = (one for one in predicted.images if str(one.path).endswith(f"{key}.png"))
        assert found.top[0][1] == pytest.approx(softmax(logits).max(), abs=1e-5)


@pytest.mark.parametrize("size", [(70, 50), (41, 130), (24, 24), (1000, 301)])
def test_a_photograph_is_seen_as_torchvisions_resize_and_centre_crop_show_it(place, size):
    path = photograph(Path("photograph.png"), size)
    (found,) = predict(place / "photographs.pt", [path], top=3).images
    shown = v2.Compose([v2.Resize(round(24 * 256 / 224)), v2.CenterCrop(24)])(Image.open(path))
    wanted = by_hand(place / "photographs.pt", np.asarray(shown))
    assert dict(found.top) == pytest.approx(wanted, abs=1e-5)
    shares = [share for _, share in found.top]
    assert shares == sorted(shares, reverse=True) and sum(shares) == pytest.approx(1)


def test_a_picture_for_a_space_of_one_size_is_brought_to_it_as_training_pictures_are(place):
    path = photograph(Path("picture.png"), (32, 20))
    (found,) = predict(place / "insects.pt", [path], top=9).images
    resized = Image.open(path).resize((13, 8), Image.Resampling.BICUBIC).crop((2, 0, 10, 8))
    assert dict(found.top) == pytest.approx(by_hand(place / "insects.pt", np.asarray(resized)), abs=1e-5)


def test_a_picture_on_its_side_is_turned_and_a_grey_one_is_as_good_as_one_in_colour(place):
    upright = photograph(Path("upright.png"))
    turned = Image.open(upright).rotate(90, expand=True)  # to be turned by 90° clockwise: orientation 6
    exif = Image.Exif()
    exif[0x0112] = 6
    turned.save("turned.png", exif=exif)
    Image.open(upright).convert("L").save("grey.png")
    Image.open("grey.png").convert("RGB").save("colour.png")
    model = place / "photographs.pt"
    one, other = predict(model, ["upright.png", "turned.png"], top=3).images
    assert dict(one.top) == pytest.approx(dict(other.top), abs=1e-6)
    grey, colour = predict(model, ["grey.png", "colour.png"], top=3).images
    assert grey.top == colour.top != one.top


def test_many_images_are_what_each_is_alone(place):
    paths = [photograph(Path(f"many/{i:03d}.png"), (30 + i, 90 - i), seed=i) for i in range(70)]
    together = predict(place / "photographs.pt", ["many"], top=3)
    assert [one.path for one in together.images] == paths
    for at in (0, 63, 64, 69):
        (alone,) = predict(place / "photographs.pt", [paths[at]], top=3).images
        assert dict(alone.top) == pytest.approx(dict(together.images[at].top), abs=1e-5)


def test_a_folder_is_searched_to_its_depth_and_each_real_folder_once(place):
    for name in ("b/deep/er/1.PNG", "b/0.png", "a.png", ".hidden/2.png", "b/.3.png"):
        photograph(Path("all") / name)
    Path("all/notes.txt").write_text("no image")
    Path("all/b/up").symlink_to("..")
    photograph(Path("elsewhere/4.png"))
    Path("all/link").symlink_to(Path("elsewhere").absolute())
    predicted = predict(place / "photographs.pt", [Path("all")])
    names = [str(one.path.relative_to("all")) for one in predicted.images]
    assert names == ["a.png", "b/0.png", "b/deep/er/1.PNG", "link/4.png"] and predicted.failures == []


def test_what_cannot_be_read_is_told_and_stops_nothing_else(place):
    good = photograph(Path("good.png"))
    Path("bad.png").write_bytes(good.read_bytes()[:200])
    Path("text.jpg").write_text("no image")
    Path("empty").mkdir()
    os.mkfifo("pipe.png")
    Image.new("RGB", (2000, 2)).save("narrow.png")
    given = ["bad.png", "text.jpg", good, "pipe.png", "nothing.png", "narrow.png", "empty"]
    predicted = predict(place / "photographs.pt", given)
    assert [one.path for one in predicted.images] == [good]
    told = [str(error) for error in predicted.failures]
    for name in map(str, given):
        assert sum(name in line for line in told) == (name != str(good)), name
    with pytest.raises(dive.DiveError):
        predicted.require_all()


class Recorder(Progress):
    def __init__(self) -> None:
        super().__init__(quiet=True)
        self.lines: list[str] = []

    def warn(self, text: str) -> None:
        self.lines.append(text)


def test_pictures_of_a_model_that_names_no_size_are_taken_as_they_are_with_a_warning(place):
    recipe = load(place / "insects.yaml", ("views.size=null", "schedule.epochs=1", "schedule.milestones=[]"))
    folders.write_images(Path("pictures"))
    model = dive.train_teacher(recipe, Path("teacher.pt"), dive.TrainOptions(device="cpu")).path
    paths = [photograph(Path(f"{w}.png"), (w, 10)) for w in (10, 20, 60)]
    large = photograph(Path("large.png"), (65, 10))
    progress = Recorder()
    predicted = predict(model, [*paths, large], top=3, progress=progress)
    (failure,) = predicted.failures
    assert str(failure).startswith("large.png: resnet8 is a network for images of at most 64 pixels")
    assert progress.lines == [f"{model} does not state an image size; images keep their own size"]
    assert len(predicted.images) == 3
    for path, one in zip(paths, predicted.images, strict=True):
        assert dict(one.top) == pytest.approx(by_hand(model, np.asarray(Image.open(path))), abs=1e-5)


def kept(extra: str = "", name: str = "tiny:build", data: str = "{kind: folder}") -> Path:
    """A recipe of a network that begins with the weights in weights.pt and keeps its head."""
    Path("kept.yaml").write_text(
        f"data: {data}\nviews: {{kind: resized_crop, size: 24}}\n"
        f"model: {{name: '{name}', weights: weights.pt, head: keep}}\n{extra}"
    )
    return Path("kept.yaml")


def own_weights(classes: int) -> nn.Module:
    """A network of one's own, its weights in weights.pt."""
    body = build_model(own_networks.write(), classes, seed=3)
    torch.save(body.state_dict(), "weights.pt")
    return body.eval()


@pytest.mark.parametrize("classes", [2, 7])
def test_a_recipe_of_kept_weights_has_the_classes_of_their_last_linear_layer(classes):
    body = own_weights(classes)
    path = photograph(Path("photograph.png"))
    (found,) = predict(kept(), [path], top=99).images
    pixels = v2.Compose([v2.Resize(27), v2.CenterCrop(24)])(Image.open(path))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    with torch.no_grad():
        logits = body(v2.functional.normalize(to_tensor(pixels)[None], mean, std))[0]
    wanted = dict(zip(map(str, range(classes)), softmax(logits), strict=True))
    assert dict(found.top) == pytest.approx(wanted, abs=1e-5)


def test_a_photograph_for_a_network_of_cifar_is_brought_to_cifars_size():
    body = build_model("resnet8", 100, seed=3).eval()
    torch.save(body.state_dict(), "weights.pt")
    Path("kept.yaml").write_text("model: {name: resnet8, weights: weights.pt, head: keep}")
    path = photograph(Path("photograph.png"), (64, 48))
    (found,) = predict("kept.yaml", [path], top=100).images
    pixels = Image.open(path).resize((43, 32), Image.Resampling.BICUBIC).crop((5, 0, 37, 32))
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
    with torch.no_grad():
        logits = body(v2.functional.normalize(to_tensor(pixels)[None], mean, std))[0]
    assert dict(found.top) == pytest.approx(
        dict(zip(map(str, range(100)), softmax(logits), strict=True)), abs=1e-5
    )


def test_the_recipe_of_the_documents_can_be_given(repository):
    """But for its weights, which would be downloaded."""
    text = (repository / "docs" / "your-own-images.md").read_text()
    (block,) = re.findall(r"```yaml\n(.*?)```", text, flags=re.DOTALL)
    body = build_model("torchvision/resnet50", 5)
    torch.save(body.state_dict(), "resnet50.pth")
    Path("resnet50.yaml").write_text(block.replace("DEFAULT", "resnet50.pth"))
    Path("imagenet_classes.txt").write_text("a\nb\nc\nd\ne\n")
    (found,) = predict("resnet50.yaml", [photograph(Path("photo.png"))], top=9).images
    assert sorted(name for name, _ in found.top) == list("abcde")


def test_a_file_names_the_classes_of_kept_weights():
    own_weights(3)
    Path("names.txt").write_text("ant\nbee, or wasp\ncat\n")
    path = photograph(Path("photograph.png"))
    (numbered,) = predict(kept(), [path], top=3).images
    (named,) = predict(kept(data="{kind: list, classes: names.txt}"), [path], top=3).images
    names = ["ant", "bee, or wasp", "cat"]
    assert [(names[int(number)], share) for number, share in numbered.top] == list(named.top)
    Path("names.txt").write_text("ant\nbee\n")
    with pytest.raises(ModelError, match=r"names\.txt names 2 classes, weights\.pt of tiny:build have 3"):
        predict(kept(data="{kind: list, classes: names.txt}"), [path])


def test_a_network_without_a_last_linear_layer_needs_names_for_its_classes():
    from torchvision.models import squeezenet1_1

    torch.save(squeezenet1_1(num_classes=4).state_dict(), "weights.pt")
    path = photograph(Path("photograph.png"))
    with pytest.raises(
        ModelError, match=r"the number of classes of weights\.pt of torchvision/squeezenet1_1 is not known"
    ):
        predict(kept(name="torchvision/squeezenet1_1"), [path])
    Path("names.txt").write_text("a\nb\nc\nd\n")
    data = "{kind: list, classes: names.txt}"
    (found,) = predict(kept(name="torchvision/squeezenet1_1", data=data), [path], top=9).images
    assert sorted(name for name, _ in found.top) == ["a", "b", "c", "d"]


@pytest.mark.parametrize(
    ("text", "error", "complaint"),
    [
        ("model: {name: resnet8}", ModelError, "has no finished network: give model.weights and model.head"),
        ("model: {name: resnet8, weights: w.pt}", ModelError, "has no finished network"),
        ("model: {name: resnet8, weights: w.pt, head: keep}", ModelError, r"w\.pt of resnet8 is not a file"),
        (
            "data: {kind: folder}\nmodel: {name: resnet8, weights: w.pt, head: keep}",
            RecipeError,
            "views.size must be given",
        ),
        ("model: {nonsense: 1}", RecipeError, "model.nonsense is not a known key"),
    ],
)
def test_a_recipe_that_cannot_classify_is_refused_in_a_line(text, error, complaint):
    Path("recipe.yaml").write_text(text)
    with pytest.raises(error, match=complaint):
        open_classifier(Path("recipe.yaml"))


def test_a_checkpoint_of_ones_own_network_runs_only_where_it_is_named(place):
    name = own_networks.write()
    recipe = load(place / "photographs.yaml", (f"model.name={name}",))
    folders.write_images(Path("pictures"))
    model = dive.train_teacher(recipe, Path("own.pt"), dive.TrainOptions(device="cpu")).path
    path = photograph(Path("photograph.png"))
    with pytest.raises(CheckpointError, match="has a custom network: opening it would import and call"):
        predict(model, [path])
    assert len(predict(model, [path], own=[name]).images) == 1
    with pytest.raises(RecipeError, match="--model is for checkpoints"):
        predict(place / "photographs.yaml", [path], own=[name])


def test_logits_that_are_no_numbers_fail_the_image(place):
    document = checkpoint.load_finished(place / "photographs.pt")
    document["model"]["linear.bias"][1] = float("nan")
    document["weights_hash"] = checkpoint.weights_hash(document["model"])
    checkpoint.save(Path("nan.pt"), document)
    predicted = predict(Path("nan.pt"), [photograph(Path("photograph.png"))])
    assert predicted.images == []
    assert [str(error) for error in predicted.failures] == [
        "photograph.png: the network's logits for it are not finite"
    ]


def test_a_huge_picture_is_refused_by_its_header(place, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    Path("large.png").write_bytes(conftest.png(conftest.noise(0, 16, 16)))
    predicted = predict(place / "photographs.pt", ["large.png"])
    assert [type(error) for error in predicted.failures] == [DataError]
    assert "large.png is far too large an image" in str(predicted.failures[0])
