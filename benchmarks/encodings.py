"""The size, exactness and speed of each encoding: bytes, divergence of targets, step and tune pass."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import torch

from benchmarks.measure import Figure, interleaved
from benchmarks.scene import CLASSES, Scene, content_of_one_view, write_cache
from benchmarks.stepping import Stepping
from benchmarks.tuning import in_process_of_its_own
from dive.cache.encodings.codec import Codec, Head
from dive.cache.encodings.registry import ENCODINGS
from dive.cli.tables import new_table, print_table
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.models import checkpoint
from dive.models.features import FeatureNetwork
from dive.progress import SILENT
from dive.recipe.reading import load
from dive.training.device import Runtime
from dive.training.inference import batch_size, outputs
from dive.views.registry import view_space
from dive.workflows.data import load_training
from dive.workflows.fidelity import TEMPERATURES, Comparison, Fidelity

CPU = torch.device("cpu")
ROOT = Path(__file__).resolve().parents[1]
TEACHER = ROOT / "results" / "cifar100_lt_bbn" / "teacher.pt"
DATA = ROOT / "data" / "cifar100.zip"
VIEWS = 4000  # random ones, over which the divergence is averaged
# KL(exact ‖ stored) in nats at T = 1, 2 and 6 of that teacher's views, as first measured.
MEASURED = {
    "float16": (3.2e-7, 2.9e-7, 3.7e-8),
    "int8": (2.1e-5, 2.6e-5, 1.1e-5),
    "features": (5.2e-8, 5.9e-8, 1.6e-8),
    "features-int8": (5.0e-5, 5.1e-5, 1.5e-5),
}
MOST = 2.0  # the bar is this many times the measured value
IMAGENET_LT = (115_846, 1_000, 2_048)  # images, classes, features of a ResNet-50


def encodings(folder: Path, full: bool) -> Iterator[Figure]:
    """A student's step from each encoding against float16, KL on the recorded teacher, and a table of all."""
    scene = Scene(folder, CPU, share=1 if full else 8)
    stepping = {store: Stepping(scene.student(store), scene.runtime) for store in ENCODINGS}
    times = interleaved(stepping, rounds=30, warm_ups=3)
    steps = {store: times.ratio(store, "float16") for store in ENCODINGS}
    tuned = {store: _tune_seconds(scene.stored_cache(store).path) for store in ENCODINGS}
    kept = fidelities()
    _print(steps, tuned, kept, full)
    for store in ENCODINGS:
        if store.startswith("features"):
            name = f"step from {store} / from float16"
            yield Figure(name, steps[store], at_most=1.03, seconds=times.medians())
    for store, measured in MEASURED.items():
        for one, before in zip(kept.get(store, []), measured, strict=False):
            bar = MOST * before
            yield Figure(f"KL of {store} at T = {one.temperature:g}", one.kl, "nats", at_most=bar)


def _tune_seconds(cache: Path) -> float:
    return in_process_of_its_own(cache, (1.0, 2.0, 6.0, 12.0))[0]["tune"]


def _print(
    steps: dict[str, float], tuned: dict[str, float], kept: dict[str, list[Fidelity]], full: bool
) -> None:
    columns = ["bytes a view", *(f"KL at T={t:g}" for t in TEMPERATURES), "step / float16", "tune s"]
    table = new_table("Encodings" + ("" if full else ", an eighth of the images"), ["store"], columns)
    for store, encoding in ENCODINGS.items():
        divergences = [f"{one.kl:.1e}" for one in kept.get(store, [])] or ["–"] * len(TEMPERATURES)
        size = encoding.row_bytes(CLASSES, 64)
        table.add_row(store, f"{size}", *divergences, f"{steps[store]:.3f}", f"{tuned[store]:.2f}")
    print_table(table)


def fidelities(data: Path = DATA, teacher: Path = TEACHER) -> dict[str, list[Fidelity]]:
    """The divergence of each encoding on random views of the recorded teacher; empty without it or data."""
    if not (data.exists() and teacher.exists()):
        print(f"KL is not measured: there is no {data if teacher.exists() else teacher}", file=sys.stderr)
        return {}
    exact, features, head = recorded_answers(data, teacher)
    found = {}
    for store, encoding in ENCODINGS.items():
        codec = Codec(encoding, exact.shape[1], head if encoding.of_features else None)
        comparison = Comparison()
        values = features if encoding.of_features else exact
        comparison.add(exact, codec.decode(codec.encode(values)))
        found[store] = comparison.fidelities()
    return found


def recorded_answers(data: Path, teacher: Path) -> tuple[np.ndarray, np.ndarray, Head]:
    """Logits (VIEWS, C) and features (VIEWS, D) of a teacher in fp32 on random views, and its head."""
    network, document = checkpoint.load_model(teacher)
    recipe = load(document["recipe"], (f"data.root={data}",))
    train = load_training(recipe, SILENT)
    space = view_space(recipe.views.kind, train.pictures.shape, **recipe.views.keys())
    generator = np.random.default_rng(0)
    rows, ids = generator.integers(0, len(train), VIEWS), generator.integers(0, space.size or 1, VIEWS)
    network = network.on(CPU).eval()
    asked = FeatureNetwork(network, network.blank(train.pictures.channels, space.shape))
    runtime, images = Runtime(CPU, "fp32"), Images(train.pictures, space, CPU)
    plan = list(Batch(rows, ids, ids).split(batch_size(space.shape, CPU)))
    logits, features = (
        np.concatenate([one.numpy() for one in outputs(viewer, images, plan, runtime)])
        for viewer in (network, asked)
    )
    return logits, features, Head(asked.weight.numpy(), asked.bias.numpy())


def tune_features(folder: Path, full: bool) -> Iterator[Figure]:
    """The tune pass at ImageNet-LT's shape from features against one float32 product; only with `--full`."""
    if full:
        yield from _tune_features(folder, share=1)


def _tune_features(folder: Path, share: int) -> Iterator[Figure]:
    n, classes, width = IMAGENET_LT[0] // share, *IMAGENET_LT[1:]
    generator = np.random.default_rng(0)
    weight = generator.standard_normal((classes, width), dtype=np.float32) / np.float32(width**0.5)
    head = Head(weight, np.zeros(classes, np.float32))
    cache = write_cache(folder / "imagenet.h5", content_of_one_view(n, classes, "features", head))
    peaks = []

    def ours() -> float:
        document, peak = in_process_of_its_own(cache.path, (1.0, 2.0, 3.0, 6.0, 20.0, 40.0))
        peaks.append(peak)
        return document["tune"]

    features = generator.standard_normal((n, width), dtype=np.float32)
    logits = np.empty((n, classes), np.float32)

    def product() -> float:
        start = time.perf_counter()
        np.matmul(features, weight.T, out=logits)
        return time.perf_counter() - start

    times = interleaved({"tune": ours, "product": product}, rounds=3)
    size = "" if share == 1 else f", 1/{share} of the rows"
    yield times.figure(f"tune from features / one float32 product{size}", "tune", "product", at_most=1.5)
    yield Figure(f"memory of tune from features{size}", max(peaks) / 1e9, "GB", at_most=1)
