"""The captured step against the eager one, bit for bit, without a GPU (see `recorder`).

Every fault of a list that such a step can have is put into its source, and the comparison has to
find it.
"""

import functools
import inspect
import random
import types
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import caches
import numpy as np
import pytest
import recorder
import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import _get_current_dispatch_mode

from dive.cache.reader import LogitCache
from dive.data.pictures import HeldPictures
from dive.feeds import images, logits
from dive.feeds.feed import Feed
from dive.method.objectives import DiVELoss
from dive.models.network import Architecture, Network
from dive.models.resnet import CifarResNet
from dive.progress import Progress
from dive.randomness import epoch_order, key_hashes, stored_choice
from dive.recipe.reading import load
from dive.recipe.recipe import AdamW
from dive.training import step
from dive.training.device import Runtime
from dive.training.evaluation import Accuracy
from dive.training.loop import Run, train
from dive.training.spec import RunSpec
from dive.training.step import Inputs, Step
from dive.views.autoaugment import AutoAugmentCutout
from dive.views.crop_flip import CropFlip
from dive.views.draw import StoredViews

CPU = torch.device("cpu")
N, SIZE, CLASSES, SIDE, VIEWS = 37, 16, 5, 8, 4  # steps of 16, 16 and 5 images
EPOCHS = 3
RECIPE = load(
    {"model": {"name": "resnet8"}, "schedule": {"batch_size": SIZE, "warmup_epochs": 0}},
    ("schedule.milestones=[2]", "schedule.gamma=0.1", f"schedule.epochs={EPOCHS}"),
)
COUNTS = [20, 9, 4, 2, 1]
OPTIMIZERS = {
    "sgd": RECIPE.optimizer,
    "clipped": replace(RECIPE.optimizer, clip_norm=0.5),
    "adamw": AdamW(clip_norm=0.5),
}
SPACES = {"crop_flip": CropFlip, "autoaugment": AutoAugmentCutout}


@dataclass(frozen=True)
class Case:
    """What is trained, how. step, logits, images: the modules whose code trains.

    streamed: whether the teacher's logits are, streamed_images: whether the pictures are. optimizer: by its
    name here. accumulate: parts of a batch. n: samples.
    store: how the teacher's logits are encoded.
    """

    views: str = "crop_flip"
    streamed: bool = False
    precision: str = "fp32"
    streamed_images: bool = False
    optimizer: str = "sgd"
    accumulate: int = 1
    n: int = N
    store: str = "float16"
    step: types.ModuleType = step
    logits: types.ModuleType = logits
    images: types.ModuleType = images


@dataclass(frozen=True)
class Made:
    """A run of a case before its first step."""

    spec: RunSpec
    network: Network
    inputs: Inputs

    def step(self, case: Case = Case()) -> Step:
        """The step of the run, of the case's code."""
        return case.step.Step(self.spec, self.network, self.inputs, Runtime(CPU, case.precision))


@pytest.fixture(autouse=True)
def one_thread():
    """Tensors of a few hundred values are computed faster by one thread than by two."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def graphs(monkeypatch) -> recorder.Recorder:
    """torch.cuda's graphs, recorded on the CPU."""
    return recorder.Recorder().install(monkeypatch)


class Together:
    """What a spec is given in the place of images or logits of which the test makes the feed itself."""

    def __init__(self, feed: Feed) -> None:
        self._feed = feed

    def feed(self, batch_size: int) -> Feed:
        """The one feed."""
        assert batch_size == SIZE
        return self._feed


def teacher_cache(n: int, store: str) -> LogitCache:
    """A cache of noise for `n` samples, written once in a test's folder."""
    path = Path(f"teacher{n}-{store}.h5")
    if path.exists():
        return LogitCache(path)
    return caches.write_cache(path, caches.values(store, n, VIEWS, CLASSES, scale=1.0), store=store)


def make(case: Case = Case(), objective: type[DiVELoss] = DiVELoss, out: str = "s.pt") -> Made:
    """A student on pictures and teacher's logits of noise."""
    n, rng = case.n, np.random.default_rng(0)
    space = SPACES[case.views]((SIDE, SIDE), pad=1, flip=True)
    hashes = key_hashes([f"class/{i}.png" for i in range(n)])
    labels = torch.from_numpy(rng.integers(0, CLASSES, n))
    pixels, place = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8), rng.permutation(n)
    cache = teacher_cache(n, case.store)
    if case.streamed:
        teacher = case.logits.StreamedLogits(cache, place, SIZE, CPU)
    else:
        teacher = case.logits.ResidentLogits.of(cache, place, CPU)
    if case.streamed_images:
        views = case.images.StreamedImages(HeldPictures(pixels), space, SIZE, CPU, 0, in_place=True)
    else:
        views = case.images.ResidentImages(pixels, space, CPU)
    architecture = Architecture("resnet8", CLASSES, 3, (0.5,) * 3, (0.25,) * 3)
    spec = RunSpec(
        kind="student",
        out=Path(out),
        seed=0,
        architecture=architecture,
        optimizer=OPTIMIZERS[case.optimizer],
        schedule=replace(RECIPE.schedule, accumulate=case.accumulate),
        precision=case.precision,
        objective=objective(COUNTS, tau=3.0, power=0.5, weight=0.5),
        images=Together(views),
        labels=labels,
        hashes=hashes,
        views=StoredViews(stored_choice(0, hashes, space.size, VIEWS)),
        recipe=RECIPE.as_dict(),
        identity={"kind": "student"},
        facts={},
        teacher=Together(teacher),
    )
    network = architecture.build().to(memory_format=torch.channels_last)
    return Made(spec, network, Inputs(views, labels, (teacher,)))


def begun(made: Made, epoch: int) -> tuple[np.ndarray, list[float]]:
    """The plan of an epoch, and learning rates that differ from step to step."""
    order = epoch_order(0, epoch, made.spec.hashes)
    ids, columns = made.spec.views.draw(0, epoch, made.spec.hashes)
    rates = [0.1 / epoch / (1 + at) for at in range(made.spec.steps_per_epoch)]
    return np.stack([order, ids[order], columns[order]]), rates


def state(step: Step, made: Made) -> dict[str, torch.Tensor]:
    """Everything a step has trained or counted."""
    found = {name: tensor.clone() for name, tensor in made.network.state_dict().items()}
    for i, buffers in enumerate(step.optimizer.state.values()):
        found |= {f"{name} {i}": tensor.clone() for name, tensor in buffers.items()}
    counters = {"losses": step.losses, "correct": step.correct}
    counters |= {"cursor": step._cursor, "taken": step._taken}
    return found | {name: tensor.clone() for name, tensor in counters.items()}


def go(step: Step, made: Made, epoch: int) -> None:
    """All steps of an epoch."""
    step.begin(*begun(made, epoch))
    for _ in range(made.spec.steps_per_epoch):
        step.advance()


def trained(case: Case, capture: bool, made: Made | None = None) -> dict[str, torch.Tensor]:
    """Three epochs: the losses and hits of each, and what was trained."""
    made = made or make(case)
    step = made.step(case)
    step.take_plan(*begun(made, 1))
    if capture:
        step.capture()
    found = {}
    for epoch in range(1, EPOCHS + 1):
        go(step, made, epoch)
        found[f"losses of epoch {epoch}"] = step.losses.clone()
        found[f"hits of epoch {epoch}"] = step.correct.clone()
    return found | state(step, made)


@functools.cache
def eager(case: Case = Case()) -> dict[str, torch.Tensor]:
    """What eager steps of dive's own code train."""
    return trained(case, capture=False)


def differences(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> list[str]:
    """The names under which two states hold other bits."""
    assert one.keys() == other.keys()
    return [name for name in one if one[name].numpy().tobytes() != other[name].numpy().tobytes()]


def changed_by_a_capture(case: Case) -> list[str]:
    """What a capture has trained or counted, in a run of one epoch."""
    made = make(case)
    step = made.step(case)
    go(step, made, 1)
    step.take_plan(*begun(made, 2))
    before = state(step, made)
    step.capture()
    return differences(before, state(step, made))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("views", list(SPACES))
def test_three_epochs_of_captured_steps_are_those_of_eager_ones_bit_for_bit(
    graphs, views, streamed, precision
):
    case = Case(views, streamed, precision)
    captured = trained(case, capture=True)
    assert [len(graph.calls) > 50 for graph in graphs.graphs] == [True, True]
    assert differences(captured, eager(case)) == []
    losses_of_epochs = [captured[f"losses of epoch {epoch}"] for epoch in (1, 2, 3)]
    assert torch.stack(losses_of_epochs).isfinite().all() and losses_of_epochs[0].unique().numel() == 3


@pytest.mark.parametrize("streamed", [False, True], ids=["resident", "streamed"])
@pytest.mark.parametrize("store", [store for store in caches.STORES if store != "float16"])
def test_rows_are_decoded_within_the_captured_step(graphs, store, streamed):
    """As they are without a graph, also where the network computes in bf16; streamed as resident."""
    case = Case(streamed=streamed, precision="bf16", store=store)
    captured = trained(case, capture=True)
    assert [len(graph.calls) > 50 for graph in graphs.graphs] == [True, True]
    assert differences(captured, trained(case, capture=False)) == []
    resident = trained(Case(precision="bf16", store=store), capture=False)
    assert differences(captured, resident) == []


@pytest.mark.parametrize(("n", "captured"), [(32, 1), (16, 1), (9, 1), (17, 2)])
def test_there_is_a_graph_for_each_batch_size_that_occurs(graphs, n, captured):
    found = trained(Case(n=n), capture=True)
    assert len(graphs.graphs) == captured
    assert differences(found, trained(Case(n=n), capture=False)) == []


# Samples, and how many kinds of part there are: 16 is 6, 5 and 5.
PARTS = [
    (37, 6),  # 5 is 2, 2 and 1
    (31, 4),  # 15 is 5, 5 and 5: only its first is of another kind, and the others' shares are larger
    (18, 5),  # 2 is 1 and 1
    (17, 4),  # 1 is a part that is first and last
    (16, 3),
]


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize(("n", "captured"), PARTS)
def test_captured_parts_of_batches_are_eager_ones_bit_for_bit(graphs, n, captured, optimizer):
    case = Case(optimizer=optimizer, accumulate=3, n=n)
    found = trained(case, capture=True)
    assert [len(graph.calls) > 50 for graph in graphs.graphs] == [True] * captured
    assert differences(found, eager(case)) == []
    assert changed_by_a_capture(case) == []


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_captured_steps_of_an_optimiser_are_eager_ones_bit_for_bit(graphs, optimizer):
    case = Case(optimizer=optimizer)
    assert differences(trained(case, capture=True), eager(case)) == []
    assert changed_by_a_capture(case) == []


def test_captured_parts_on_streamed_pictures_and_logits_are_eager_ones_on_resident_ones(graphs):
    case = Case(accumulate=3, n=31)
    captured = trained(replace(case, streamed=True, streamed_images=True), capture=True)
    assert len(graphs.graphs) == 4 and differences(captured, eager(case)) == []


def test_torch_is_told_of_a_capture_of_adamw_while_it_lasts(graphs, monkeypatch):
    """As torch refuses to capture its step otherwise, and warns of one outside a capture."""
    real, told = torch.optim.AdamW.step, []

    def watched(optimizer: torch.optim.AdamW) -> None:
        capturing = isinstance(_get_current_dispatch_mode(), recorder.Capture)
        told.append((capturing, optimizer.param_groups[0]["capturable"]))
        real(optimizer)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    trained(Case(optimizer="adamw"), capture=True)
    assert told == [(False, False)] * 2 * step.WARM_UPS + [(True, True)] * 2


@pytest.mark.parametrize("views", list(SPACES))
def test_captured_steps_on_streamed_pictures_are_eager_ones_on_resident_pictures(graphs, views):
    captured = trained(Case(views, streamed=True, streamed_images=True), capture=True)
    assert [len(graph.calls) > 50 for graph in graphs.graphs] == [True, True]
    assert differences(captured, eager(Case(views))) == []


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_capture_trains_nothing(graphs, precision):
    assert changed_by_a_capture(Case(precision=precision)) == []
    assert len(graphs.graphs) == 2


def test_a_replay_runs_no_python_of_the_step(graphs, monkeypatch):
    made = make()
    step = made.step()
    step.take_plan(*begun(made, 1))
    step.capture()
    monkeypatch.setattr(Step, "_run", lambda *_: pytest.fail("the step was run"))
    go(step, made, 1)
    assert step.losses.isfinite().all() and (step.losses > 0).all()


def test_the_graphs_of_a_step_share_one_memory_pool_and_those_of_two_steps_do_not(graphs):
    for _ in range(2):
        made = make()
        step = made.step()
        step.take_plan(*begun(made, 1))
        step.capture()
    pools = [id(graph.pool) for graph in graphs.graphs]
    assert pools[0] == pools[1] != pools[2] == pools[3]


def test_the_step_has_no_count_of_batches_in_it(graphs):
    """The only in-place additions are those of two cursors and of the hits, and no other int64 is kept."""
    trained(Case(), capture=True)
    for graph in graphs.graphs:
        additions = [call for call in graph.calls if call.function is recorder.aten.add_.Tensor]
        assert [tuple(call.args[0].shape) for call in additions] == [(1,)] * 3


# What makes a step wait for the device, or copies from the host, without changing its loss.
WAITING: dict[str, Callable[[torch.Tensor], object]] = {
    "item": lambda loss: loss[0].item(),
    "bool": lambda loss: bool(loss[0] > 0),
    "nonzero": lambda loss: loss.nonzero(),
    "mask": lambda loss: loss[loss > 0],
    "masked assignment": lambda loss: loss.detach().clone().__setitem__(loss > 0, loss[0].detach()),
    "masked_select": lambda loss: loss.masked_select(loss > 0),
    "equal": lambda loss: torch.equal(loss, loss),
    "constant": lambda loss: loss * torch.tensor(2.0),
    "array": lambda loss: loss + torch.from_numpy(np.zeros(1, np.float32)),
}


@pytest.mark.parametrize(
    ("wait", "sizes"),
    [*((name, (SIZE, N % SIZE)) for name in WAITING), ("item", (N % SIZE,))],
    ids=[*WAITING, "item in the second graph"],
)
def test_a_step_that_waits_for_the_device_is_not_captured_and_trains_eagerly(graphs, wait, sizes):
    class Waiting(DiVELoss):
        def per_example(self, *arguments: torch.Tensor) -> torch.Tensor:
            found = super().per_example(*arguments)
            if len(found) in sizes:
                WAITING[wait](found)
            return found

    made = make(objective=Waiting)
    step = made.step()
    step.take_plan(*begun(made, 1))
    before = state(step, made)
    with pytest.raises(recorder.CannotCapture):
        step.capture()
    assert differences(before, state(step, made)) == []
    assert len(graphs.graphs) == 3 - len(sizes)
    for graph in graphs.graphs:
        graph.calls.clear()  # a replay of any would now fail
    go(step, made, 1)
    assert torch.equal(step.losses, eager()["losses of epoch 1"])
    assert torch.equal(step.correct, eager()["hits of epoch 1"])


@pytest.mark.parametrize("draw", [lambda: torch.rand(1), np.random.random, random.random])
def test_a_step_that_draws_on_the_host_is_not_captured(graphs, draw):
    """Its graph would draw once and for all."""

    class Drawing(DiVELoss):
        def per_example(self, *arguments: torch.Tensor) -> torch.Tensor:
            return super().per_example(*arguments) * (1 + 0 * float(draw()))

    made = make(objective=Drawing)
    step = made.step()
    step.take_plan(*begun(made, 1))
    before = state(step, made)
    with pytest.raises(RuntimeError, match="draws random numbers on the host, which its graph would repeat"):
        step.capture()
    assert differences(before, state(step, made)) == [] and graphs.graphs == []
    go(step, made, 1)
    assert torch.equal(step.losses, eager()["losses of epoch 1"])


def operations_on_the_host(
    views: str, constant: Callable[[], torch.Tensor | float], size: int | None = None
) -> list[str]:
    """What views, network and loss of a batch on a GPU do with tensors of the host; computes nothing.

    constant: made while the batch is computed, and multiplied into its loss. size: of the network's input.
    """
    space, gpu = SPACES[views]((SIDE, SIDE), pad=1, flip=True), torch.device("cuda:0")
    with FakeTensorMode(allow_non_fake_inputs=True):
        with gpu:
            network = Network(CifarResNet(blocks=1, classes=CLASSES), (0.5,) * 3, (0.25,) * 3, size)
            rows = torch.zeros(SIZE, dtype=torch.int64)
            said, log_counts = torch.zeros(SIZE, CLASSES, dtype=torch.float16), torch.zeros(CLASSES)
        objective = DiVELoss(COUNTS)
        objective.log_counts = log_counts  # its buffer, on the GPU
        for module in network.modules():
            if isinstance(module, torch.nn.BatchNorm2d):
                module.num_batches_tracked = None  # as in a step
        pixels = np.zeros((N, SIDE, SIDE, 3), np.uint8)
        feed = images.ResidentImages(pixels, space, gpu)
        with recorder.Devices() as devices:
            loss = objective(network(feed.batch(rows, rows, rows)), rows, said) * constant()
    assert devices.operations > 50 and loss.device == gpu
    return devices.on_host


@pytest.mark.parametrize("views", list(SPACES))
def test_views_model_and_loss_bring_nothing_from_the_host(views):
    assert operations_on_the_host(views, lambda: 2.0) == []


def test_a_network_that_resizes_its_input_brings_nothing_from_the_host():
    assert operations_on_the_host("crop_flip", lambda: 2.0, size=12) == []


@pytest.mark.parametrize("store", caches.STORES)
def test_looking_logits_up_brings_nothing_from_the_host(store):
    cache, gpu = teacher_cache(N, store), torch.device("cuda:0")
    with FakeTensorMode(allow_non_fake_inputs=True):
        feed = logits.ResidentLogits.of(cache, np.arange(N), gpu)
        rows = torch.zeros(SIZE, dtype=torch.int64, device=gpu)
        with recorder.Devices() as devices:
            found = feed.batch(rows, rows, rows)
    assert devices.operations >= 4 and devices.on_host == []
    assert (found.device, found.dtype, found.shape) == (gpu, torch.float32, (SIZE, CLASSES))


def test_a_constant_of_the_host_in_the_loss_is_found():
    assert operations_on_the_host("crop_flip", lambda: torch.tensor(2.0)) != []


RATES = "torch.tensor([[rate * factor for factor in self._factors] for rate in rates])"
BRING_RATES = f"self._rates.copy_({RATES})"
# Faults of `dive.training.step` as pairs of source text (old, new) that a comparison of training has to find.
TRAINS_OTHERWISE = {
    "cursor bound anew": [("self._cursor += 1", "self._cursor = self._cursor + 1")],
    "counter bound anew": [("self.correct += (", "self.correct = self.correct + (")],
    "losses bound anew": [
        (
            "self.losses.index_add_(0, self._cursor, ",
            "self.losses = self.losses.index_add(0, self._cursor, ",
        )
    ],
    "plan bound anew": [
        ("self._plan.copy_(torch.from_numpy(plan[:, self._places]))", "self._plan = torch.from_numpy(plan)")
    ],
    "rates bound anew": [(BRING_RATES, f"self._rates = {RATES}")],
    "rate bound anew": [
        (
            "self._rate.copy_(self._rates.index_select(0, self._cursor)[0])",
            "self.optimizer.param_groups[0]['lr'] = self._rates.index_select(0, self._cursor)[0] * 1",
        ),
        (BRING_RATES, f"self._rates = {RATES}"),
    ],
    "rate a number of the host": [
        (BRING_RATES, "self._on_host = rates"),
        (
            "self._rate.copy_(self._rates.index_select(0, self._cursor)[0])",
            "self.optimizer.param_groups[0]['lr'] = self._on_host[self._at]",
        ),
    ],
    "loss stored at an index of the host": [
        (
            "self.losses.index_add_(0, self._cursor, loss.detach()[None])",
            "self.losses[self._at] += loss.detach()",
        )
    ],
    "plan read at an index of the host": [
        (
            "self._plan.index_select(1, self._taken + self._offsets[: part.size])",
            "self._plan[:, self._at * len(self._offsets) :][:, : part.size]",
        )
    ],
    "one graph for both sizes": [("self._graphs.get(part)", "self._graphs.get(self._parts[-1][0])")],
    "gradients kept": [("            if part.first:\n                self._forget_gradients()\n", "")],
    "momentum not restored": [("*model.buffers(), *moments]", "*model.buffers()]")],
    "statistics not restored": [("*model.buffers(), *moments]", "*moments]")],
    "weights not restored": [("[*model.parameters(), *model.buffers()", "[*model.buffers()")],
    "passes of a replay not counted": [("self._counts.add(recorded.passes)", "pass")],
    "passes of a capture counted": [("self._counts.restore(counts)", "pass")],
}
# Faults that a capture shows before anything is trained.
CAPTURE_TRAINS = {
    "momentum not restored": TRAINS_OTHERWISE["momentum not restored"],
    "statistics not restored": TRAINS_OTHERWISE["statistics not restored"],
    "weights not restored": TRAINS_OTHERWISE["weights not restored"],
    "cursor and counters not restored": [
        ("self._counts.restore(counts)\n            self._rewind()", "self._counts.restore(counts)")
    ],
    "passes of a capture counted": TRAINS_OTHERWISE["passes of a capture counted"],
}


def faulty(module: types.ModuleType, replacements: list[tuple[str, str]]) -> types.ModuleType:
    """A module whose source has other text in some places."""
    source = inspect.getsource(module)
    for old, new in replacements:
        assert source.count(old) == 1, old
        source = source.replace(old, new)
    made = types.ModuleType(module.__name__)
    exec(compile(source, f"faulty {module.__file__}", "exec"), vars(made))
    return made


def trains_otherwise(case: Case) -> bool:
    """Whether captured steps train otherwise than dive's eager ones, or are lost in overwritten memory."""
    right = Case(optimizer=case.optimizer, accumulate=case.accumulate, n=case.n)
    try:
        return differences(trained(case, capture=True), eager(right)) != []
    except (IndexError, RuntimeError) as error:
        return "out of" in str(error)  # an index read from there


@pytest.mark.parametrize("fault", TRAINS_OTHERWISE)
def test_a_fault_of_the_step_is_found_by_the_comparison_with_eager_steps(graphs, fault):
    assert trains_otherwise(Case(step=faulty(step, TRAINS_OTHERWISE[fault])))
    assert all(graph.calls for graph in graphs.graphs) and len(graphs.graphs) == 2


# Faults that show where batches are gone through in parts, or with another optimiser than SGD.
TRAINS_OTHERWISE_IN_PARTS = {
    "gradients of one graph in the memory of all": [
        ("zero_grad(set_to_none=not self._in_shares)", "zero_grad(set_to_none=True)")
    ],
    "gradients never begun anew": [("            if part.first:\n", "            if False:\n")],
    "gradients begun anew in each part": [("            if part.first:\n", "            if True:\n")],
    "an update in each part": [("if part.last:\n                self._update()", "self._update()")],
    "a share of the first batch": [("self._sizes.index_select(0, self._cursor)[0]", "self._sizes[0]")],
    "a share that is left out": [("if self._in_shares:  #", "if False:  #")],
    "losses of the last part alone": [("self.losses.index_add_(", "self.losses.index_copy_(")],
    "one graph for parts of one size": [
        ("self._graphs.get(part)", "{p.size: g for p, g in self._graphs.items()}.get(part.size)")
    ],
    "moments not restored": TRAINS_OTHERWISE["momentum not restored"],
    "steps not restored": [
        ("for tensor in state.values()]", "for name, tensor in state.items() if name != 'step']")
    ],
    "gradients not clipped": [("if self._clip_norm is not None:", "if False:")],
}


@pytest.mark.parametrize("fault", TRAINS_OTHERWISE_IN_PARTS)
def test_a_fault_of_parts_is_found_by_the_comparison_with_eager_steps(graphs, fault):
    wrong = faulty(step, TRAINS_OTHERWISE_IN_PARTS[fault])
    assert trains_otherwise(Case(optimizer="adamw", accumulate=3, n=31, step=wrong))
    assert all(graph.calls for graph in graphs.graphs) and len(graphs.graphs) == 4


@pytest.mark.parametrize("fault", CAPTURE_TRAINS)
def test_a_fault_of_the_capture_is_found_by_what_it_trains(graphs, fault):
    assert changed_by_a_capture(Case(step=faulty(step, CAPTURE_TRAINS[fault])))


def test_a_buffer_of_streamed_logits_bound_anew_is_found_by_the_comparison(graphs):
    begins = "        while self._pending:"
    anew = faulty(logits, [(begins, f"        self._buffer = self._buffer.clone()\n{begins}")])
    assert trains_otherwise(Case(streamed=True, logits=anew))
    assert all(graph.calls for graph in graphs.graphs) and len(graphs.graphs) == 2


def test_a_buffer_of_streamed_pictures_bound_anew_is_found_by_the_comparison(graphs):
    begins = "        self._plan.batches = plan"
    anew = faulty(images, [(begins, f"        self._buffer = self._buffer.clone()\n{begins}")])
    assert trains_otherwise(Case(streamed_images=True, images=anew))
    assert all(graph.calls for graph in graphs.graphs) and len(graphs.graphs) == 2


def test_an_unchanged_copy_of_the_source_trains_as_the_module_does(graphs):
    copied = Case(step=faulty(step, []), logits=faulty(logits, []), images=faulty(images, []))
    for case in (copied, replace(copied, streamed=True, streamed_images=True)):
        assert not trains_otherwise(case)
    assert changed_by_a_capture(Case(step=faulty(step, []))) == []


def a_run(monkeypatch, made: Made, on_cuda: bool) -> Run:
    """A run in three epochs; on_cuda: as if on a stream of a GPU."""

    def half(network: torch.nn.Module) -> Accuracy:
        return Accuracy(many=0.5, medium=None, few=None, all=0.5, class_mean=0.5, per_class=())

    run = Run(made.spec, made.network, made.inputs, Runtime(CPU, "fp32"), half, eval_every=2)
    if on_cuda:
        monkeypatch.setattr(run, "_stream", torch.cuda.Stream())
    return run


def test_a_run_of_captured_steps_has_the_history_and_the_weights_of_an_eager_one(graphs, monkeypatch, capsys):
    both = [make(Case(streamed=True), out=f"{on_cuda}.pt") for on_cuda in (True, False)]
    runs = [a_run(monkeypatch, made, on_cuda) for made, on_cuda in zip(both, (True, False), strict=True)]
    for run in runs:
        train([run], Progress(quiet=True))
    assert len(graphs.graphs) == 2 and capsys.readouterr().err == ""
    one, other = ([epoch.as_dict() | {"seconds": 0} for epoch in run.history] for run in runs)
    assert one == other and len(one) == EPOCHS and "test_accuracy" in one[1]
    assert differences(*(made.network.state_dict() for made in both)) == []
    tracked = [value for name, value in both[0].network.state_dict().items() if "num_batches" in name]
    assert [int(value) for value in tracked] == [EPOCHS * 3] * 7


def test_a_failed_capture_is_one_line_and_the_run_is_an_eager_one(graphs, monkeypatch, capsys):
    class Waiting(DiVELoss):
        def per_example(self, *arguments: torch.Tensor) -> torch.Tensor:
            found = super().per_example(*arguments)
            found[0].item()
            return found

    made, plain = make(objective=Waiting, out="True.pt"), make(out="False.pt")
    run, eager = a_run(monkeypatch, made, True), a_run(monkeypatch, plain, False)
    train([run], Progress(quiet=True))
    assert capsys.readouterr().err == (
        "warning: the step could not be captured as a CUDA graph and runs eagerly: "
        "aten._local_scalar_dense.default: a value read on the host\n"
    )
    train([eager], Progress(quiet=True))
    assert differences(made.network.state_dict(), plain.network.state_dict()) == []
