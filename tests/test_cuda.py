"""On a CUDA device: captured graphs, views, whole runs. Skipped where there is none."""

import json
from pathlib import Path

import chain
import numpy as np
import pytest
import torch

from dive import checkpoint
from dive.dataset import load_dataset
from dive.logit_cache import LogitCache
from dive.progress import Progress
from dive.recipe import load
from dive.step import Step
from dive.views import ViewedImages, view_space

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")

ON_CUDA = ("--config", chain.CONFIG, "--device", "cuda")
OUT = Path("s.pt")
# Gentle steps magnify rounding less; kernels that add in no fixed order still move losses by some per mille.
GENTLE = ("--set", "optimizer.lr=0.01", "--epochs", 2)


def student(digits, *arguments: object) -> list[dict]:
    """Train a student on the GPU; its history."""
    chain.succeed("student", *ON_CUDA, *GENTLE, "--cache", digits.cache, "--force", "--out", OUT, *arguments)
    return history(OUT)


def history(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.with_suffix(".history.jsonl").read_text().splitlines()]


def losses(entries: list[dict]) -> list[float]:
    return [entry["loss"] for entry in entries]


@pytest.fixture
def eager(monkeypatch):
    """Steps that are not captured."""

    def refuse(self: Step) -> None:
        raise RuntimeError("not here")

    return lambda: monkeypatch.setattr(Step, "capture", refuse)


@pytest.mark.parametrize(("precision", "tolerance"), [("fp32", 5e-3), ("bf16", 2e-2)])
def test_a_graph_trains_as_eager_steps_do(digits, eager, precision, tolerance):
    graph = student(digits, "--precision", precision)
    eager()
    assert losses(student(digits, "--precision", precision)) == pytest.approx(losses(graph), rel=tolerance)


def test_a_failing_capture_says_so_in_one_line_and_trains_eagerly(digits, eager):
    eager()
    outcome = chain.dive("student", *ON_CUDA, *GENTLE, "--cache", digits.cache, "--quiet", "--out", OUT)
    assert outcome.code == 0
    assert outcome.err == (
        "warning: the step could not be captured as a CUDA graph and runs eagerly: not here\n"
    )


def test_the_gpu_trains_as_the_cpu_does(digits):
    gpu = student(digits, "--precision", "fp32")
    chain.succeed("student", *chain.DIGITS, *GENTLE, "--cache", digits.cache, "--force", "--out", OUT)
    assert losses(gpu) == pytest.approx(losses(history(OUT)), rel=5e-3)


def test_students_side_by_side_are_those_trained_alone(digits):
    alone = {seed: losses(student(digits, "--precision", "fp32", "--seed", seed)) for seed in (0, 1, 2)}
    chain.succeed(
        *("student", *ON_CUDA, *GENTLE, "--precision", "fp32", "--cache", digits.cache, "--out", OUT),
        *("--seed", 0, 1, 2),
    )
    for seed, expected in alone.items():
        path = Path(f"s-t3-p0.5-w0.5-s{seed}.pt")
        assert losses(history(path)) == pytest.approx(expected, rel=5e-3)
        assert checkpoint.load(path)["trained together"] == 3


def test_a_streamed_cache_trains_as_a_resident_one(digits, monkeypatch):
    from dive import student as module

    resident = student(digits, "--precision", "fp32")
    monkeypatch.setattr(module, "fits", lambda *_: False)
    assert losses(student(digits, "--precision", "fp32")) == pytest.approx(losses(resident), rel=5e-3)


def test_a_stopped_run_goes_on(digits, monkeypatch):
    from dive import training

    monkeypatch.setattr(training, "SAVING_SHARE", float("inf"))
    whole = student(digits, "--precision", "fp32", "--epochs", 4)
    real, calls = Step.advance, []

    def stopping(self: Step) -> None:
        calls.append(1)
        if len(calls) == 13 * 2 + 5:
            raise KeyboardInterrupt
        real(self)

    arguments = ("student", *ON_CUDA, *GENTLE, "--precision", "fp32", "--epochs", 4, "--cache", digits.cache)
    with monkeypatch.context() as patch:
        patch.setattr(Step, "advance", stopping)
        assert chain.dive(*arguments, "--out", "again.pt").code == 130
    chain.succeed(*arguments, "--out", "again.pt")
    assert losses(history(Path("again.pt"))) == pytest.approx(losses(whole), rel=5e-3)


def test_views_are_the_same_bytes_on_both_devices():
    recipe = load(chain.CONFIG)
    samples = load_dataset(recipe, Progress(quiet=True)).train
    space = view_space(recipe.views, samples.images.shape[1:])
    rows = torch.arange(len(samples)).repeat_interleave(space.size)
    ids = torch.arange(space.size).repeat(len(samples))
    rendered = []
    for device in ("cpu", "cuda"):
        padded = space.prepare(torch.from_numpy(samples.images).to(device))
        rendered.append(space.render(padded, rows.to(device), ids.to(device)).cpu())
    assert torch.equal(*rendered)
    batches = []
    for device in ("cpu", "cuda"):
        images = ViewedImages(samples.images, space, recipe.data.mean, recipe.data.std, torch.device(device))
        batches.append(images.batch(rows[:99].to(device), ids[:99].to(device)).cpu())
    torch.testing.assert_close(*batches)


def test_an_export_on_the_gpu_says_what_one_on_the_cpu_does(digits):
    arguments = ("export-logits", *ON_CUDA, "--precision", "fp32", "--teacher", digits.teacher)
    chain.succeed(*arguments, "--out", "gpu.h5")
    gpu, cpu = (LogitCache(path) for path in (Path("gpu.h5"), digits.cache))
    assert gpu.identity == cpu.identity and gpu.keys == cpu.keys
    np.testing.assert_allclose(gpu.logits.astype(np.float32), cpu.logits.astype(np.float32), atol=0.02)
