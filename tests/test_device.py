"""Choosing a device and a precision: what is there, what is faster, and what is right."""

import copy
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from dive.device import Runtime, choose_device, choose_precision, device_name
from dive.errors import DiveError
from dive.models import build_model

CPU = torch.device("cpu")


@pytest.fixture
def cuda_devices(monkeypatch):
    """Makes torch say that so many CUDA devices are there."""

    def pretend(count: int) -> None:
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)

    return pretend


def test_auto_is_the_gpu_where_there_is_one(cuda_devices):
    cuda_devices(0)
    assert choose_device("auto") == CPU
    cuda_devices(1)
    assert choose_device("auto") == torch.device("cuda")
    assert choose_device("cpu") == CPU


def test_a_gpu_may_be_named_by_number(cuda_devices):
    cuda_devices(2)
    assert choose_device("cuda") == torch.device("cuda")
    assert choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("wanted", ["cuda", "cuda:0", "cuda:3"])
def test_a_gpu_where_there_is_none_is_refused(cuda_devices, wanted):
    cuda_devices(0)
    with pytest.raises(DiveError, match=rf"--device {wanted}: this machine has no CUDA device.*--device cpu"):
        choose_device(wanted)


def test_a_gpu_number_too_high_is_refused(cuda_devices):
    cuda_devices(2)
    with pytest.raises(DiveError, match=r"--device cuda:2: this machine has 2 CUDA device"):
        choose_device("cuda:2")


@pytest.mark.parametrize(
    "wanted",
    ["gpu", "", "CUDA", "cuda:", "cuda:x", "cuda:-1", "cuda:0:1", "cuda:²", "mps", "cpu:0", "cuda 0"],
)
def test_a_device_of_another_name_is_refused(cuda_devices, wanted):
    cuda_devices(2)
    with pytest.raises(DiveError, match="is not auto, cpu, cuda or cuda:N"):
        choose_device(wanted)


def test_a_gpu_number_with_a_leading_zero_is_taken_or_refused(cuda_devices):
    cuda_devices(2)
    try:
        assert choose_device("cuda:01") == torch.device("cuda:1")
    except DiveError:
        pass


def test_fp32_is_not_quietly_tf32(monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    choose_device("cpu")
    assert torch.backends.cudnn.allow_tf32 is False
    assert torch.backends.cuda.matmul.allow_tf32 is False


def test_the_cpu_is_named_with_its_threads():
    models = {
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    }
    name, threads = device_name(CPU).rsplit(", ", 1)
    assert name in (models or {"CPU"}) and threads == f"{torch.get_num_threads()} threads"


def test_a_runtime_computes_in_its_precision():
    linear, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with Runtime(CPU, "bf16").autocast():
        assert linear(x).dtype == torch.bfloat16
        with Runtime(CPU, "fp32").autocast():
            assert linear(x).dtype == torch.float32
    with Runtime(CPU, "fp32").autocast():
        assert linear(x).dtype == torch.float32


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """A clock that only models move, so that no load of the machine can make a test fail."""
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(time, "perf_counter", lambda: now.seconds)
    monkeypatch.setattr(Trick, "clock", now, raising=False)


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
    """A loss for each example."""
    return logits.float().square().sum(dim=1) + logits.float()[:, 0]


@pytest.mark.parametrize("wanted", ["fp32", "bf16"])
def test_a_precision_asked_for_is_taken_without_a_trial(wanted):
    class Untouchable(torch.nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            raise AssertionError("a trial was made")

    runtime = choose_precision(wanted, CPU, Untouchable(), BATCH)
    assert (runtime.device, runtime.precision) == (CPU, wanted)


@pytest.mark.parametrize(("capability", "precision"), [((9, 0), "bf16"), ((8, 0), "bf16"), ((7, 5), "fp32")])
def test_auto_on_a_gpu_is_bf16_where_the_card_has_it(monkeypatch, capability, precision):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert choose_precision("auto", torch.device("cuda"), torch.nn.Identity(), BATCH).precision == precision


@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
@pytest.mark.parametrize(("delay", "precision"), [(FASTER, "bf16"), (SLOWER, "fp32")])
def test_auto_on_a_cpu_is_the_faster_of_two_that_agree(delay, precision, loss):
    torch.manual_seed(0)
    runtime = choose_precision("auto", CPU, Trick(delay=delay), BATCH, loss)
    assert runtime.precision == precision
    assert "ms a batch in bf16" in runtime.reason and "ms in fp32" in runtime.reason


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


def test_a_fast_bf16_that_gives_other_gradients_is_not_chosen():
    class Halved(torch.autograd.Function):
        """Right forwards, wrong backwards."""

        @staticmethod
        def forward(ctx, x: torch.Tensor) -> torch.Tensor:
            return x.clone()

        @staticmethod
        def backward(ctx, gradient: torch.Tensor) -> torch.Tensor:
            return gradient / 2

    torch.manual_seed(0)
    wrong = Trick(delay=FASTER, answer=Halved.apply)
    assert choose_precision("auto", CPU, wrong, BATCH, squares).precision == "fp32"
    assert choose_precision("auto", CPU, wrong, BATCH).precision == "bf16"  # a forward pass does not need it


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("loss", [None, squares], ids=["forward", "training"])
def test_a_trial_leaves_the_model_and_the_random_state_as_they_were(loss, training):
    model = build_model("resnet8", 5).train(training)
    before, state = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    batch = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
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
