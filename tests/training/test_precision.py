"""Choosing a precision: what is there, what is faster, and what is right."""

import contextlib
import copy
import time
from types import SimpleNamespace

import pytest
import recorder
import torch
from recorder import tf32_settings

from dive.errors import DiveError
from dive.models.network import Architecture
from dive.training import precision as trials
from dive.training.device import Runtime
from dive.training.precision import choose_precision

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that only models move, so that no load of the machine can make a test fail."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    monkeypatch.setattr(Trick, "clock", now, raising=False)
    return now


class Trick(torch.nn.Module):
    """A model whose speed and results in bf16 can be chosen."""

    clock: SimpleNamespace

    def __init__(self, *, delay: dict[str, float], answer=lambda logits: logits) -> None:
        super().__init__()
        self.linear = torch.nn.Linear(3, 5)
        self.norm = torch.nn.BatchNorm1d(5)
        self.delay, self.answer = delay, answer

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        low = torch.is_autocast_enabled("cpu")
        self.clock.seconds += self.delay["bf16" if low else "fp32"]
        logits = self.norm(self.linear(x))
        return self.answer(logits) if low else logits


FASTER, SLOWER = {"fp32": 0.01, "bf16": 0.0}, {"fp32": 0.0, "bf16": 0.01}
BATCH = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))


def squares(logits: torch.Tensor) -> torch.Tensor:
    """A mean loss."""
    return (logits.float().square().sum(dim=1) + logits.float()[:, 0]).mean()


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_asked_for_is_taken_without_a_trial(wanted):
    class Untouchable(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("a trial was made")

    runtime = choose_precision(wanted, CPU, Untouchable(), BATCH)
    assert (runtime.device, runtime.precision) == (CPU, wanted)


def test_tf32_on_a_cpu_is_refused():
    with pytest.raises(DiveError, match=r"--precision tf32: TF32 needs a CUDA device .* give fp32 or bf16"):
        choose_precision("tf32", CPU, torch.nn.Identity(), BATCH)


@pytest.fixture
def gpu(monkeypatch):
    """Makes torch say that the GPU has a compute capability and a name."""

    def pretend(capability: tuple[int, int]) -> torch.device:
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "GPU")
        return torch.device("cuda:0")

    return pretend


def test_an_older_gpu_has_neither_tf32_nor_bf16_and_tries_nothing(gpu):
    older = gpu((7, 5))
    assert choose_precision("auto", older, torch.nn.Identity()).precision == "fp32"
    with pytest.raises(DiveError, match="--precision tf32: TF32 needs .* is not available on GPU"):
        choose_precision("tf32", older, torch.nn.Identity())
    assert choose_precision("tf32", gpu((8, 0)), torch.nn.Identity()).precision == "tf32"


# Milliseconds of a training step in fp32, TF32 and bf16; which of the last two are wrong; the choice.
DECISIONS = {
    "bf16 wins": ((2.0, 1.5, 1.0), "", "bf16"),
    "bf16 is slower than fp32": ((2.0, 1.5, 2.5), "", "tf32"),
    "bf16 is not clearly faster than TF32": ((2.0, 1.0, 0.95), "", "tf32"),
    "TF32 is not clearly faster than fp32, bf16 is": ((2.0, 1.9, 1.7), "", "bf16"),
    "none is clearly faster": ((2.0, 1.9, 1.9), "", "fp32"),
    "fp32 is fastest": ((1.0, 2.0, 2.0), "", "fp32"),
    "bf16 is wrong": ((2.0, 1.5, 1.0), "bf16", "tf32"),
    "TF32 is wrong and faster than bf16": ((2.0, 1.0, 0.95), "tf32", "bf16"),
    "both are wrong": ((2.0, 1.0, 0.5), "tf32 bf16", "fp32"),
}


@pytest.mark.parametrize("trains", [True, False])
@pytest.mark.parametrize(("times", "wrong", "chosen"), DECISIONS.values(), ids=DECISIONS)
def test_auto_on_a_gpu_is_the_fastest_that_agrees_and_is_clearly_faster(
    monkeypatch, gpu, times, wrong, chosen, trains
):
    right = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))

    def trial(runtime, model, batch, loss):
        seconds = dict(zip(("fp32", "tf32", "bf16"), times, strict=True))[runtime.precision] / 1000
        result = right.flip(0) if runtime.precision in wrong.split() else right
        return trials._Trial(seconds, right if trains else result, {"w": result} if trains else {})

    monkeypatch.setattr(trials, "_trial", trial)
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    runtime = choose_precision("auto", gpu((9, 0)), torch.nn.Identity(), BATCH, squares if trains else None)
    assert runtime.precision == chosen
    fp32, tf32, bf16 = times
    told = f"{bf16:.2g} ms a batch in bf16, {tf32:.2g} ms in tf32, {fp32:.2g} ms in fp32, logits differ by "
    share = float((right.flip(0) - right).square().sum().sqrt() / right.square().sum().sqrt())
    off = " and ".join(f"{share:.1%}" if one in wrong.split() else "0.0%" for one in ("bf16", "tf32"))
    told += f"0.0% and 0.0%, gradients by {off}" if trains else off
    assert runtime.reason.partition(";")[0] == told
    assert all(f"; {one} is not used: its " in runtime.reason for one in wrong.split())


@pytest.fixture
def cuda_stand_ins(monkeypatch):
    """torch.cuda's graphs and streams, recorded on the CPU."""
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: None)
    return recorder.Recorder().install(monkeypatch)


@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
def test_a_trial_on_a_gpu_runs_what_will_run_in_each_precision_and_leaves_everything_as_it_was(
    monkeypatch, gpu, cuda_stand_ins, loss
):
    """A captured forward and backward pass for training, eager forward passes for an export."""
    seen = []

    class Watcher(Trick):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append(tf32_settings()[1])
            return super().forward(x)

    # the tensors are on the CPU, on which CUDA's autocast has nothing to do
    monkeypatch.setattr(Runtime, "autocast", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(trials, "_seconds_on_cpu", lambda *_: pytest.fail("timed as on a CPU"))
    model, settings = Watcher(delay=FASTER), tf32_settings()
    if loss is None:
        monkeypatch.setattr(Runtime, "autocast", Runtime.computing)
    before = copy.deepcopy(model.state_dict())
    assert choose_precision("auto", gpu((9, 0)), model, BATCH, loss).precision == "fp32"  # all as fast
    assert list(dict.fromkeys(zip(seen, seen[1:], strict=False))) == [
        ("ieee", "ieee"),
        ("ieee", "tf32"),
        ("tf32", "tf32"),
        ("tf32", "ieee"),
    ]
    names = {call.function.name() for graph in cuda_stand_ins.graphs for call in graph.calls}
    assert len(cuda_stand_ins.graphs) == (0 if loss is None else 3)
    assert loss is None or {"aten::native_batch_norm", "aten::native_batch_norm_backward"} <= names
    assert tf32_settings() == settings
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


class Gpu:
    """A GPU on whose clock eager work takes 10 ms to launch and all work 2 ms to compute."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, clock: SimpleNamespace, captures: bool) -> None:
        self._clock, self._queued, self._capturing = clock, 0, False
        gpu = self

        class Stream(recorder.Stream):
            def synchronize(self) -> None:
                clock.seconds += 0.002 * gpu._queued
                gpu._queued = 0

        class Graph:
            def replay(self) -> None:
                gpu._queued += 1

        @contextlib.contextmanager
        def graph(graph: Graph, stream: Stream):
            if not captures:
                raise RuntimeError("not here")
            gpu._capturing = True
            yield
            gpu._capturing = False

        stand_ins = {"Stream": lambda device: Stream(), "CUDAGraph": Graph, "graph": graph}
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)

    def work(self) -> torch.Tensor:
        """Eager work, or when it is captured nothing."""
        if not self._capturing:
            self._clock.seconds += 0.010
            self._queued += 1
        return BATCH


@pytest.mark.parametrize(
    ("trains", "captures", "seconds"),
    [(True, True, 0.002), (True, False, 0.012), (False, True, 0.012)],
    ids=["a graph's replay", "eager where there is no graph", "eager for an export"],
)
def test_a_pass_on_a_gpu_is_timed_as_it_will_run_until_the_device_is_done(
    monkeypatch, clock, cuda_stand_ins, trains, captures, seconds
):
    gpu = Gpu(monkeypatch, clock, captures)
    found = trials._seconds_on_cuda(gpu.work, torch.device("cuda:0"), trains)
    assert found == pytest.approx(seconds)


@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
@pytest.mark.parametrize(("delay", "precision"), [(FASTER, "bf16"), (SLOWER, "fp32")])
def test_auto_on_a_cpu_is_the_faster_of_two_that_agree(delay, precision, loss):
    torch.manual_seed(0)
    runtime = choose_precision("auto", CPU, Trick(delay=delay), BATCH, loss)
    assert runtime.precision == precision
    assert "ms a batch in bf16" in runtime.reason and "ms in fp32" in runtime.reason
    assert (", gradients by " in runtime.reason) is (loss is not None)


@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
@pytest.mark.parametrize(
    "answer",
    [lambda x: x * 1.1, lambda x: x.flip(0), lambda x: x * float("nan"), lambda x: x + float("inf")],
    ids=["off by a tenth", "other rows", "not a number", "infinite"],
)
def test_a_fast_bf16_that_gives_other_logits_is_not_chosen(answer, loss):
    torch.manual_seed(0)
    runtime = choose_precision("auto", CPU, Trick(delay=FASTER, answer=answer), BATCH, loss)
    assert runtime.precision == "fp32"


class Backwards(torch.autograd.Function):
    """Nothing forwards, a factor backwards."""

    @staticmethod
    def forward(ctx, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.clone()

    @staticmethod
    def backward(ctx, gradient: torch.Tensor) -> tuple[torch.Tensor, None]:
        return ctx.factor * gradient, None


def test_a_fast_bf16_that_gives_other_gradients_is_not_chosen():
    torch.manual_seed(0)
    wrong = Trick(delay=FASTER, answer=lambda logits: Backwards.apply(logits, 0.5))
    runtime = choose_precision("auto", CPU, wrong, BATCH, squares)
    assert runtime.precision == "fp32"
    assert runtime.reason.endswith(
        "gradients by 50.0%; bf16 is not used: its gradients are off by more than 40%"
    )
    assert choose_precision("auto", CPU, wrong, BATCH).precision == "bf16"  # a forward pass does not need it


@pytest.mark.parametrize(
    ("part", "factor", "right"),
    [(20, 1, True), (20, 0, False), (20, -1, False), (50, -1, False), (1000, -1, True)],
    ids=["right", "zeros", "the wrong sign", "of 2 %", "of 0.1 %, too little to notice"],
)
def test_a_layer_is_found_whose_gradient_alone_is_wrong(part, factor, right):
    class Beside(Trick):
        """A trick beside a layer that gives little, whose gradient in bf16 is `factor` times that."""

        def __init__(self) -> None:
            super().__init__(delay=FASTER)
            self.small = torch.nn.Linear(3, 5)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            low = torch.is_autocast_enabled("cpu")
            return super().forward(x) + Backwards.apply(self.small(x), factor if low else 1) / part

    torch.manual_seed(0)
    runtime = choose_precision("auto", CPU, Beside(), BATCH, squares)
    assert runtime.precision == ("bf16" if right else "fp32")
    assert ("the gradient of small.weight is off by 100% or more" in runtime.reason) is not right


def test_a_parameter_without_a_gradient_in_bf16_has_a_gradient_of_zeros_there():
    class Cut(Trick):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            logits = super().forward(x)
            return logits.detach() + 0 * self.norm.weight if torch.is_autocast_enabled("cpu") else logits

    torch.manual_seed(0)
    assert choose_precision("auto", CPU, Cut(delay=FASTER), BATCH, squares).precision == "fp32"


@pytest.mark.parametrize("seed", [1, 9])
def test_bf16_through_the_papers_network_agrees_whatever_the_seed(monkeypatch, seed):
    """Rounding alone takes its gradient a fifth of its norm away from that of fp32."""
    monkeypatch.setattr(trials, "_seconds_on_cpu", lambda work, *_: 1.0 + (work().dtype == torch.float32))
    model = Architecture("resnet32", 100, 3, (0.5,) * 3, (0.25,) * 3).build(seed)
    generator = torch.Generator().manual_seed(seed)
    batch = torch.randint(0, 256, (64, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 100, (64,), generator=generator)
    runtime = choose_precision(
        "auto", CPU, model, batch, lambda logits: torch.nn.functional.cross_entropy(logits.float(), labels)
    )
    assert runtime.precision == "bf16"


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
def test_a_trial_leaves_the_model_and_the_random_state_as_they_were(loss, training):
    model = Architecture("resnet8", 5, 3, (0.5,) * 3, (0.25,) * 3).build().train(training)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    generator = torch.Generator().manual_seed(0)
    batch = torch.randint(0, 256, (4, 3, 8, 8), dtype=torch.uint8, generator=generator)
    choose_precision("auto", CPU, model, batch, loss)
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert all(parameter.grad is None for parameter in model.parameters())
    assert model.training is training
    assert torch.equal(torch.get_rng_state(), state)


def test_a_trial_without_a_loss_is_a_forward_pass_in_eval_mode():
    seen = []

    class Watcher(Trick):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            seen.append((self.training, torch.is_grad_enabled()))
            return super().forward(x)

    torch.manual_seed(0)
    choose_precision("auto", CPU, Watcher(delay=FASTER), BATCH)
    assert set(seen) == {(False, False)}
    seen.clear()
    choose_precision("auto", CPU, Watcher(delay=FASTER), BATCH, squares)
    assert set(seen) == {(True, True)}
