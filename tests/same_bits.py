"""Whether two commits compute the same bits: teacher, cache, tune table and student, from two clones.

    python tests/same_bits.py BEFORE AFTER [--data cifar100.zip]

BEFORE and AFTER are clones. Each runs the chain in a folder of its own, in turn on this machine: the digits
in full, and with --data (a .zip of CIFAR-100 as an image folder) ten classes of it under the recipes bbn and
bbn_autoaug. Weights, logits and tune tables are compared bit for bit; file formats may differ. Exit code 1
where bits do.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from pathlib import Path

import h5py
import numpy as np
import torch

EPOCHS = ("--epochs", "3")
TRAINING_IMAGES, TEST_IMAGES, CLASSES = 40, 5, 10  # of the subset, a class


def subset(archive: Path, folder: Path) -> Path:
    """An image folder of the first images of the first classes."""
    with zipfile.ZipFile(archive) as images:
        names = sorted(name for name in images.namelist() if name.endswith(".png"))
        for split, count in (("train", TRAINING_IMAGES), ("test", TEST_IMAGES)):
            of_class: dict[str, list[str]] = {}
            for name in names:
                *_, part, label, _ = ("", *name.split("/"))
                if part == split:
                    of_class.setdefault(label, []).append(name)
            for label in sorted(of_class)[:CLASSES]:
                for name in of_class[label][:count]:
                    place = folder / split / label / Path(name).name
                    place.parent.mkdir(parents=True, exist_ok=True)
                    place.write_bytes(images.read(name))
    return folder


def recipes(data: Path | None) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Names of what is run, with the options of each."""
    yield "digits", ("--config", "digits_lt/bbn.yaml")
    if data is not None:
        sets = ("--set", "data.kind=folder", "--set", "data.imbalance=10", "--data", str(data))
        for recipe in ("bbn", "bbn_autoaug"):
            yield recipe, ("--config", f"cifar100_lt/{recipe}.yaml", *sets)


def run(clone: Path, folder: Path, options: tuple[str, ...]) -> dict[str, np.ndarray]:
    """What a clone's chain computes, by name."""
    config = str(clone / "configs" / options[1])
    known = (clone / "dive" / "recipe" / "recipe.py").read_text()
    if "source: str" in known:  # what data.kind was called before
        options = tuple(word.replace("data.kind", "data.source") for word in options)
    of_images = [word for word in options[2:] if word != "--data" and not word.startswith(os.sep)]
    data = options[-2:] if "--data" in options else ()

    def dive(command: str, *words: str) -> str:
        whole = [sys.executable, "-m", "dive", command, "--config", config, *of_images, *words]
        environment = os.environ | {"PYTHONPATH": str(clone)}
        return subprocess.run(
            whole, cwd=folder, env=environment, check=True, stdout=subprocess.PIPE, text=True
        ).stdout

    here = ("--device", "cpu", "--precision", "fp32", "--quiet", *data)
    dive("teacher", *EPOCHS, "--out", "t.pt", *here)
    dive("export-logits", "--teacher", "t.pt", "--out", "c.h5", *here)
    table = json.loads(dive("tune-tau", "--cache", "c.h5", "--json"))
    dive("student", *EPOCHS, "--cache", "c.h5", "--out", "s.pt", *here)
    found = {}
    for name in ("t.pt", "s.pt"):
        weights = torch.load(folder / name, weights_only=True)["model"]
        found |= {f"{name} {key}": tensor.numpy() for key, tensor in weights.items()}
    with h5py.File(folder / "c.h5") as cache:
        found |= {name: cache[name][:] for name in ("logits", "views", "labels", "keys")}
    for pair in table["pairs"]:
        found[f"tune τ={pair['tau']} p={pair['power']}"] = np.array(pair["per_class"] + [pair["information"]])
    return found


def main() -> None:
    """Run both, print what differs."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("--data", type=Path)
    options = parser.parse_args()
    different = []
    with tempfile.TemporaryDirectory(prefix="dive-bits-") as name:
        data = subset(options.data, Path(name, "images")) if options.data else None
        for recipe, words in recipes(data):
            sides = []
            for side in ("before", "after"):
                folder = Path(name, f"{recipe}-{side}")
                folder.mkdir()
                sides.append(run(getattr(options, side).resolve(), folder, words))
            one, other = sides
            wrong = [key for key in one.keys() | other.keys() if not _same(one.get(key), other.get(key))]
            print(f"{recipe}: {len(one)} arrays, {len(wrong)} different", *sorted(wrong)[:10], sep="\n  ")
            different += wrong
    sys.exit(1 if different else 0)


def _same(one: np.ndarray | None, other: np.ndarray | None) -> bool:
    if one is None or other is None or (one.shape, one.dtype) != (other.shape, other.dtype):
        return False
    return one.tobytes() == other.tobytes()


if __name__ == "__main__":
    main()
