"""On a CUDA device: captured graphs, views, whole runs. Skipped where there is none."""

import json
from pathlib import Path

import caches
import chain
import numpy as np
import pytest
import torch
import torchrun

from dive.cache.reader import LogitCache
from dive.data.longtail import Samples
from dive.feeds.feed import Batch
from dive.feeds.images import Images, StreamedImages
from dive.feeds.logits import CachedLogits
from dive.method.objectives import BalancedSoftmaxLoss, CrossEntropyLoss, DiVELoss
from dive.models import checkpoint
from dive.progress import Progress
from dive.recipe.reading import load
from dive.recipe.recipe import Recipe
from dive.training.device import Runtime
from dive.training.spec import RunSpec
from dive.training.step import Step, inputs_of
from dive.views.autoaugment import AutoAugmentCutout
from dive.views.draw import FreeViews
from dive.views.registry import view_space
from dive.views.space import ViewSpace
from dive.workflows.data import load_training
from dive.workflows.results import architecture_of

pytestmark = [
    pytest.mark.cuda,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device"),
]

TWO = pytest.mark.skipif(torch.cuda.device_count() < 2, reason="NCCL needs a CUDA device a process: two")
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


IN_PARTS = (
    "--set",
    "optimizer.kind=adamw",
    "--set",
    "optimizer.clip_norm=1",
    "--set",
    "schedule.accumulate=3",
)


def test_graphs_of_parts_with_adamw_train_as_eager_ones_do_and_warn_of_nothing(digits, eager, recwarn):
    told = ("--precision", "fp32", *IN_PARTS, "--set", "optimizer.lr=1e-4")
    graph = student(digits, *told)
    assert not [warning for warning in recwarn if "capturable" in str(warning.message)]
    eager()
    assert losses(student(digits, *told)) == pytest.approx(losses(graph), rel=5e-3)


def digits_of(recipe: Recipe) -> tuple[Samples, ViewSpace]:
    """The recipe's training samples and its view space."""
    samples = load_training(recipe, Progress(quiet=True))
    return samples, view_space(recipe.views.kind, samples.pictures.shape, **recipe.views.keys())


def spec_of(recipe: Recipe, device: torch.device) -> RunSpec:
    """A teacher of plain cross-entropy on the recipe's samples."""
    samples, space = digits_of(recipe)
    return RunSpec(
        kind="teacher",
        out=OUT,
        seed=0,
        architecture=architecture_of(recipe, samples),
        optimizer=recipe.optimizer,
        schedule=recipe.schedule,
        precision="fp32",
        objective=CrossEntropyLoss(),
        images=Images(samples.pictures, space, device),
        labels=torch.from_numpy(samples.labels).to(device),
        hashes=samples.hashes,
        views=FreeViews(space),
        recipe=recipe.as_dict(),
        identity={},
        facts={},
    )


def test_every_step_of_an_epoch_is_the_same_as_a_graph_the_last_smaller_one_too():
    """Steps of no size, so that differences do not grow: each loss is of the same weights."""
    recipe = load(chain.CONFIG, ("precision=fp32", "optimizer.lr=1e-6"))
    device = torch.device("cuda")
    spec = spec_of(recipe, device)
    ids, columns = spec.views.draw(0, 1, spec.hashes)
    plan, rates = np.stack([np.arange(len(ids)), ids, columns]), [1e-6] * spec.steps_per_epoch
    found = []
    for capture in (True, False):
        network = spec.architecture.build(seed=0).to(device, memory_format=torch.channels_last)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            step = Step(spec, network, inputs_of(spec), Runtime(device, "fp32"))
            step.take_plan(plan, rates)
            if capture:
                step.capture()
            step.begin(plan, rates)
            for _ in range(spec.steps_per_epoch):
                step.advance()
            statistics = [value.cpu() for name, value in network.state_dict().items() if "running" in name]
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
        assert checkpoint.load(path)["trained_together"] == 3


def test_a_streamed_cache_trains_as_a_resident_one(digits, monkeypatch):
    from dive.workflows import student as module

    resident = student(digits, "--precision", "fp32")
    monkeypatch.setattr(module, "room_of", lambda _: lambda *_: False)
    assert losses(student(digits, "--precision", "fp32")) == pytest.approx(losses(resident), rel=5e-3)


def test_streamed_pictures_train_as_resident_ones(digits, monkeypatch):
    from dive.workflows import prepared as module

    resident = student(digits, "--precision", "fp32")
    monkeypatch.setattr(module, "room_of", lambda _: lambda *_: False)
    assert losses(student(digits, "--precision", "fp32")) == pytest.approx(losses(resident), rel=5e-3)


def test_a_stopped_run_is_resumed(digits, monkeypatch):
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


def test_views_of_an_unbounded_space_are_the_same_bytes_on_both_devices():
    pictures = torch.randint(0, 256, (64, 32, 32, 3), dtype=torch.uint8)
    ids = torch.randint(0, 2**62, (1000,))
    rendered = []
    for device in ("cpu", "cuda"):
        space = AutoAugmentCutout((32, 32), pad=4, flip=True)
        prepared = space.prepare(pictures.to(device))
        rendered.append(space.render(prepared, (torch.arange(1000) % 64).to(device), ids.to(device)).cpu())
    assert torch.equal(*rendered)


def test_views_are_the_same_bytes_on_both_devices_resident_and_streamed():
    recipe = load(chain.CONFIG)
    samples, space = digits_of(recipe)
    rows = torch.arange(len(samples)).repeat_interleave(space.size)
    ids = torch.arange(space.size).repeat(len(samples))
    rendered, batches, normalised = [], [], []
    network = architecture_of(recipe, samples).build()
    some = Batch(rows[:99].numpy(), ids[:99].numpy(), ids[:99].numpy() * 0)
    for device in map(torch.device, ("cpu", "cuda")):
        padded = space.prepare(torch.from_numpy(samples.pictures.held).to(device))
        rendered.append(space.render(padded, rows.to(device), ids.to(device)).cpu())
        streamed = StreamedImages(samples.pictures, space, 99, device, workers=0)
        for feed in (Images(samples.pictures, space, device).feed(99), streamed):
            feed.begin([some])
            feed.load()
            views = feed.batch(*(torch.from_numpy(one).to(device) for one in vars(some).values()))
            batches.append(views.cpu())
            normalised.append(network.to(device).normalised(views).cpu())
    assert torch.equal(*rendered)
    assert all(torch.equal(batch, batches[0]) for batch in batches)
    for one in normalised:
        torch.testing.assert_close(one, normalised[0])


def test_an_export_on_the_gpu_says_what_one_on_the_cpu_does(digits):
    arguments = ("export-logits", *ON_CUDA, "--precision", "fp32", "--teacher", digits.teacher)
    chain.succeed(*arguments, "--out", "gpu.h5")
    gpu, cpu = (LogitCache(path) for path in (Path("gpu.h5"), digits.cache))
    assert gpu.identity == cpu.identity and gpu.keys == cpu.keys
    both = (cache.whole().astype(np.float32) for cache in (gpu, cpu))
    np.testing.assert_allclose(*both, atol=0.02)


@pytest.mark.parametrize("store", caches.STORES)
@pytest.mark.parametrize("precision", ["fp32", "tf32", "bf16"])
def test_rows_are_decoded_in_float32_whatever_the_network_computes_in(store, precision):
    """By a captured step's operations too: a product in TF32 would be off by some 10⁻³ of the logits."""
    device, generator = torch.device("cuda"), np.random.default_rng(0)
    rows, columns = generator.integers(0, 200, 128), generator.integers(0, 3, 128)
    cache = caches.write_cache(OUT.with_suffix(".h5"), caches.values(store, 200, 3, 90), store=store)
    feed = CachedLogits(cache, np.arange(200), device).feed(128)
    places = [torch.from_numpy(index).to(device) for index in (rows, columns, columns)]
    with Runtime(device, precision).autocast():
        found = feed.batch(*places).cpu().numpy()
    expected = caches.decoded(cache.path)[rows, columns]
    assert np.abs(found - expected).max() < 2e-5 * np.abs(expected).max()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream), Runtime(device, precision).computing():
        feed.batch(*places)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, stream=stream):
            captured = feed.batch(*places)
        graph.replay()
    stream.synchronize()
    assert np.abs(captured.cpu().numpy() - expected).max() < 2e-5 * np.abs(expected).max()


@pytest.mark.parametrize("objective", [BalancedSoftmaxLoss, DiVELoss])
def test_class_counts_that_lie_on_the_gpu_make_the_same_loss(objective):
    counts = [900, 90, 10]
    found = objective(torch.tensor(counts, device="cuda")).to("cuda").log_counts
    assert torch.equal(found.cpu(), objective(counts).log_counts)


@TWO
@pytest.mark.parametrize("size", [2, 3])
def test_synchronised_batch_norm_over_processes_is_that_of_one(size):
    """Statistics are over the whole batch; of the last, of one image, all but one process have nothing."""
    if size > torch.cuda.device_count():
        pytest.skip(f"{size} processes need as many CUDA devices")
    sets = ("model.sync_batchnorm=true", "schedule.batch_size=199", "optimizer.lr=0.01", "precision=fp32")
    words = ("teacher", *ON_CUDA, "--epochs", 2, *(word for one in sets for word in ("--set", one)))
    chain.succeed(*words, "--out", "one.pt")
    devices = {"CUDA_VISIBLE_DEVICES": ",".join(map(str, range(torch.cuda.device_count())))}
    done = torchrun.run(size, *words, "--out", "many.pt", settings=devices)
    assert done.returncode == 0, done
    assert losses(history(Path("many.pt"))) == pytest.approx(losses(history(Path("one.pt"))), rel=5e-3)
    one, many = (checkpoint.load_finished(Path(name))["model"] for name in ("one.pt", "many.pt"))
    for name in (name for name in one if "running" in name):
        torch.testing.assert_close(many[name], one[name], rtol=2e-2, atol=1e-2)


def test_synchronised_batch_norm_of_one_process_is_the_plain_one_and_is_captured():
    words = ("teacher", *ON_CUDA, *GENTLE, "--precision", "fp32")
    chain.succeed(*words, "--out", "plain.pt")
    outcome = chain.succeed(*words, "--set", "model.sync_batchnorm=true", "--out", "sync.pt")
    assert "eagerly" not in outcome.err
    assert losses(history(Path("sync.pt"))) == pytest.approx(losses(history(Path("plain.pt"))), rel=5e-3)
