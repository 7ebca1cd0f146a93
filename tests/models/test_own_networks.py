"""Networks of one's own: imported where the user names them, never because a file does."""

import os
import re
import sys
from pathlib import Path

import chain
import own_networks
import pytest
import torch

import dive
from dive.errors import CheckpointError, ModelError
from dive.models import checkpoint
from dive.models.network import Architecture, require_trainable
from dive.models.registry import build_model, network_versions


@pytest.fixture(autouse=True)
def own_module():
    own_networks.write()


def test_a_network_of_ones_own_is_found_in_the_current_directory():
    before = list(sys.path)
    body = build_model("tiny:build", 4, seed=1)
    assert body(torch.zeros(2, 3, 8, 8)).shape == (2, 4) and sys.path == before


def test_a_network_may_stand_in_a_package_and_in_a_class():
    Path("mine/deep").mkdir(parents=True)
    Path("mine/deep/nets.py").write_text(
        "from torch import nn\nclass Zoo:\n    @staticmethod\n"
        "    def small(classes):\n        return nn.Sequential(nn.Flatten(), nn.Linear(3, classes))\n"
    )
    assert build_model("mine.deep.nets:Zoo.small", 6)(torch.zeros(1, 3, 1, 1)).shape == (1, 6)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("nosuch:build", "cannot be imported .*No module named 'nosuch'"),
        ("tiny:biuld", "the module tiny has no biuld; did you mean build"),
        ("tiny:three", "tiny:three is int, not a callable that returns a network"),
        ("tiny:number", "must return a torch.nn.Module when called with classes, not a int"),
        ("tiny:failing", r"cannot be built: ValueError: cannot tell 4 classes apart \(.*tiny.py, line 46\)"),
        ("os:getcwd", "cannot be built: TypeError"),
        ("broken:build", r"cannot be imported .*No module named 'missing' \(.*broken.py, line 1\)"),
        ("wrong:build", "cannot be imported .*SyntaxError"),
        ("leaving:build", "cannot be imported .*SystemExit: 3"),
    ],
)
def test_what_is_wrong_with_a_network_of_ones_own_is_told_in_one_line(name, said):
    for module, source in (
        ("broken", "import missing"),
        ("wrong", "def build(:"),
        ("leaving", "import sys; sys.exit(3)"),
    ):
        own_networks.write(module, source)
    with pytest.raises(ModelError, match=said) as caught:
        build_model(name, 4)
    assert "\n" not in str(caught.value)


def test_the_example_of_the_document_is_a_network_that_can_be_trained(repository):
    (source,) = re.findall(r"```python\n(.*?)```", (repository / "docs/networks.md").read_text(), re.DOTALL)
    own_networks.write("my_networks", source)
    made = Architecture("my_networks:small", 4, 3, (0.5,) * 3, (0.25,) * 3)
    require_trainable(made.build(), made, (32, 32))


def test_the_source_is_known_by_its_content():
    first = network_versions("tiny:build")
    assert list(first) == ["tiny:build"] and first["tiny:build"].startswith("sha256:")
    Path("tiny.py").write_text(own_networks.SOURCE + "\n# changed\n")
    assert network_versions("tiny:build") == first  # what was imported
    own_networks.write(source=own_networks.SOURCE + "\n# changed\n")
    assert network_versions("tiny:build") != first
    assert network_versions("resnet32") == network_versions("torchvision/resnet18") == {}


def test_a_callable_that_is_not_hashable_is_a_network():
    own_networks.write(
        "configured",
        "from dataclasses import dataclass\nfrom tiny import build as made\n\n"
        "@dataclass\nclass Build:\n    width: int\n\n"
        "    def __call__(self, classes):\n        return made(classes)\n\nbuild = Build(3)\n",
    )
    assert build_model("configured:build", 4)(torch.zeros(2, 3, 8, 8)).shape == (2, 4)
    assert network_versions("configured:build") == network_versions("configured:build") == {}


def forged(digits: chain.Chain, name: str) -> Path:
    """A finished checkpoint, soundly sealed, that says its network is another."""
    whole = checkpoint.load(digits.teacher)
    whole["architecture"] = whole["architecture"] | {"name": name}
    whole["recipe"] = whole["recipe"] | {"model": whole["recipe"]["model"] | {"name": name}}
    path = Path("forged.pt")
    checkpoint.save(path, {key: value for key, value in whole.items() if key not in ("format", "version")})
    return path


@pytest.fixture
def traps(monkeypatch) -> list[object]:
    """Everything that is called of what forged checkpoints name, or imported."""
    calls: list[object] = []
    monkeypatch.setattr(os, "system", calls.append)
    own_networks.write("trap", "import pathlib\npathlib.Path('hacked').touch()\ndef build(classes): pass\n")
    return calls


@pytest.mark.parametrize("name", ["os:system", "trap:build"])
def test_what_a_forged_checkpoint_names_is_neither_imported_nor_called(digits, traps, name):
    path = forged(digits, name)
    for command in (
        ("eval", path),
        ("eval", path, "--model", "tiny:build"),
        ("eval", path, "--config", chain.CONFIG),
        ("export-logits", *chain.DIGITS, "--teacher", path),
        ("verify", digits.cache, "--sample", 4, "--teacher", path, "--quiet"),
    ):
        complaint = chain.dive(*command).complaint
        assert f"forged.pt has a custom network: opening it would import and call '{name}'" in complaint
    with pytest.raises(CheckpointError, match="it would import and call"):
        dive.load_model(path)
    with pytest.raises(CheckpointError, match="it would import and call"):
        dive.load_model(path, own="tiny:build")
    with pytest.raises(dive.DiveError, match="it would import and call"):
        dive.evaluate([path])
    assert chain.dive("inspect", path).code == 0
    assert traps == [] and "trap" not in sys.modules and not Path("hacked").exists()


def test_the_weights_of_a_forged_checkpoint_can_be_begun_with_and_import_nothing(digits, traps):
    path = forged(digits, "os:system")
    arguments = ("--set", f"model.weights={path}", "--epochs", 1, "--out", "run.pt")
    chain.succeed("teacher", *chain.DIGITS, *arguments)
    assert traps == []
