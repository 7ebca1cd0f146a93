"""On a CUDA device: captured graphs, views, whole runs. Skipped where there is none."""

import json
from pathlib import Path

import chain
import numpy as np
import pytest
import torch

from dive.cache.reader import LogitCache
from dive.data.dataset import load_dataset
from dive.feeds.images import ViewedImages
from dive.models import checkpoint
from dive.models.registry import build_model
from dive.progress import Progress
from dive.recipe.reading import load
from dive.training.device import Runtime
from dive.training.step import Step, Task
from dive.views.autoaugment import AutoAugmentCutout
from dive.views.draw import FreeViews
from dive.views.registry import view_space

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

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


def test_every_step_of_an_epoch_is_the_same_as_a_graph_the_last_smaller_one_too():
    """Steps of no size, so that differences do not grow: each loss is of the same weights."""
    recipe = load(chain.CONFIG, ("precision=fp32", "optimizer.lr=1e-6"))
    device = torch.device("cuda")
    train_set = load_dataset(recipe, Progress(quiet=True)).train
    space = view_space(recipe.views, train_set.images.shape[1:])
    found = []
    for capture in (True, False):
        model = build_model(recipe.model.name, 10, 1, seed=0).to(device, memory_format=torch.channels_last)
        images = ViewedImages(train_set.images, space, recipe.data.mean, recipe.data.std, device)
        labels = torch.from_numpy(train_set.labels).to(device)

        def loss(logits, labels, _):
            return torch.nn.functional.cross_entropy(logits.float(), labels, reduction="none")

        stream = torch.cuda.Stream(device)
        with torch.cuda.stream(stream):
            task = Task(recipe, {}, model, images, labels, train_set.hashes, FreeViews(space), None, loss)
            step = Step(task, Runtime(device, "fp32"))
            ids, columns = task.views.draw(0, 1, train_set.hashes)
            plan = np.stack([np.arange(len(ids)), ids, columns])
            step.take_plan(plan, [1e-6] * task.steps_per_epoch)
            if capture:
                step.capture()
            step.begin(plan, [1e-6] * task.steps_per_epoch)
            for _ in range(task.steps_per_epoch):
                step.advance()
            statistics = [value.cpu() for name, value in model.state_dict().items() if "running" in name]
            found.append((step.losses.cpu(), int(step.correct), statistics))
    (graph, right, means), (eager, right_too, means_too) = found
    assert len(graph) == 13 and (graph > 0).all()
    torch.testing.assert_close(graph, eager, rtol=1e-3, atol=1e-4)
    assert abs(right - right_too) <= 2
    torch.testing.assert_close(means, means_too, rtol=1e-3, atol=1e-4)


def test_auto_is_measured_and_its_choice_is_recorded(digits):
    arguments = ("student", *ON_CUDA, *GENTLE, "--precision", "auto", "--cache", digits.cache, "--out", OUT)
    outcome = chain.succeed(*arguments)
    (note,) = [line for line in outcome.err.splitlines() if line.startswith("precision ")]
    document = checkpoint.load(OUT)
    assert note.startswith(f"precision {document['precision']}: ")
    if torch.cuda.get_device_capability() >= (8, 0):
        assert "ms a batch in bf16" in note and "ms in tf32" in note and "ms in fp32" in note


def test_tf32_is_a_runs_own_and_a_checkpoint_counts_the_batches_of_its_captured_steps(digits):
    parts = (torch.backends.cuda.matmul, torch.backends.cudnn.conv, torch.backends.cudnn.rnn)
    before = [part.fp32_precision for part in parts]
    student(digits, "--precision", "tf32" if torch.cuda.get_device_capability() >= (8, 0) else "fp32")
    assert [part.fp32_precision for part in parts] == before
    weights = checkpoint.load(OUT)["model"]
    counts = [int(value) for name, value in weights.items() if name.endswith("num_batches_tracked")]
    assert counts == [2 * 13] * 7


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
    from dive.workflows import student as module

    resident = student(digits, "--precision", "fp32")
    monkeypatch.setattr(module, "fits", lambda *_: False)
    assert losses(student(digits, "--precision", "fp32")) == pytest.approx(losses(resident), rel=5e-3)


def test_a_stopped_run_goes_on(digits, monkeypatch):
    from dive.training import loop

    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
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


def test_views_without_an_end_are_the_same_bytes_on_both_devices():
    images = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    ids = torch.randint(0, 2**62, (1000,))
    rendered = []
    for device in ("cpu", "cuda"):
        space = AutoAugmentCutout(4, True, 32, 32)
        prepared = space.prepare(images.to(device))
        rendered.append(space.render(prepared, (torch.arange(1000) % 64).to(device), ids.to(device)).cpu())
    assert torch.equal(*rendered)


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
