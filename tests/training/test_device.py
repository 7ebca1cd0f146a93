"""Choosing a device, and how a runtime computes on it."""

import os
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import conftest
import pytest
import torch
from recorder import tf32_settings

from dive.errors import DiveError
from dive.training.device import Runtime, choose_device, device_name

CPU = torch.device("cpu")


@pytest.fixture
def cuda_devices(monkeypatch):
    """Makes torch say that so many CUDA devices are there, of which one is the current one."""
    current = SimpleNamespace(index=0)

    def pretend(count: int, index: int = 0) -> SimpleNamespace:
        current.index = index
        monkeypatch.setattr(torch.cuda, "is_available", lambda: count > 0)
        monkeypatch.setattr(torch.cuda, "device_count", lambda: count)
        monkeypatch.setattr(torch.cuda, "current_device", lambda: current.index)
        monkeypatch.setattr(torch.cuda, "set_device", lambda device: setattr(current, "index", device.index))
        return current

    return pretend


@pytest.mark.parametrize("marker", [None, pytest.mark.cuda])
def test_the_suite_hides_a_gpu_from_every_test_that_is_not_of_one(cuda_devices, monkeypatch, marker):
    cuda_devices(1)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0")
    run = conftest.pytest_runtest_protocol(SimpleNamespace(get_closest_marker=lambda name: marker))
    next(run)
    hidden = marker is None
    assert choose_device("auto") == torch.device("cpu" if hidden else "cuda:0")
    assert os.environ["CUDA_VISIBLE_DEVICES"] == ("" if hidden else "0")
    with pytest.raises(StopIteration):
        next(run)
    assert torch.cuda.is_available() and os.environ["CUDA_VISIBLE_DEVICES"] == "0"


def test_auto_is_the_gpu_where_there_is_one(cuda_devices):
    cuda_devices(0)
    assert choose_device("auto") == CPU
    cuda_devices(1)
    assert choose_device("auto") == torch.device("cuda:0")
    assert choose_device("cpu") == CPU


def test_a_gpu_may_be_named_by_number(cuda_devices):
    cuda_devices(2)
    assert choose_device("cuda") == torch.device("cuda:0")
    assert choose_device("cuda:1") == torch.device("cuda:1")


@pytest.mark.parametrize("wanted", ["cuda", "auto"])
def test_a_gpu_without_a_number_is_the_current_one_and_has_its_number(cuda_devices, wanted):
    current = cuda_devices(3, index=2)
    assert choose_device(wanted) == torch.device("cuda:2")
    assert current.index == 2


@pytest.mark.parametrize("wanted", ["cuda", "auto"])
def test_of_several_processes_each_has_the_gpu_of_its_own_number_on_its_machine(
    cuda_devices, monkeypatch, wanted
):
    current = cuda_devices(2)
    places = {"RANK": 3, "WORLD_SIZE": 4, "LOCAL_RANK": 1, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": 1}
    for name, value in {**places, "MASTER_ADDR": "first"}.items():
        monkeypatch.setenv(name, str(value))
    assert choose_device(wanted) == torch.device("cuda:1") and current.index == 1
    assert choose_device("cuda:0") == torch.device("cuda:0")
    cuda_devices(1)
    with pytest.raises(DiveError, match=r"2 processes on this machine, but 1 CUDA device\(s\)"):
        choose_device(wanted)


def test_the_chosen_gpu_is_the_current_one_afterwards(cuda_devices):
    """An event records on a stream of the current device, whatever device its tensors are on."""
    current = cuda_devices(2)
    choose_device("cuda:1")
    assert current.index == 1
    choose_device("cpu")
    assert current.index == 1


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


@pytest.fixture(params=["as torch starts", "tf32", "ieee", "by the old switches"])
def settings_before(request):
    """TF32 settings a program may have made before it calls dive."""
    backends = torch.backends
    before = tf32_settings()
    parts = (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)
    if request.param == "by the old switches":
        backends.cudnn.allow_tf32 = False
    elif request.param != "as torch starts":
        for part in parts:
            part.fp32_precision = request.param
    yield tf32_settings()
    backends.cudnn.allow_tf32 = True
    for part, was in zip(parts, before, strict=True):
        part.fp32_precision = was


@pytest.mark.parametrize(("precision", "kind"), [("fp32", "ieee"), ("bf16", "ieee"), ("tf32", "tf32")])
def test_tf32_is_switched_where_a_runtime_computes_and_put_back_even_after_an_error(
    settings_before, precision, kind
):
    runtime = Runtime(torch.device("cuda:0"), precision)
    with pytest.raises(ZeroDivisionError), runtime.computing():
        assert tf32_settings() == [kind] * 3
        with Runtime(torch.device("cuda:0"), "fp32").computing():  # an evaluation within a training
            assert tf32_settings() == ["ieee"] * 3
        assert tf32_settings() == [kind] * 3
        raise ZeroDivisionError
    assert tf32_settings() == settings_before


def older_settings() -> list[object]:
    """What torch says by its older switches, which a network or a compiler may ask."""
    backends = torch.backends
    asked = (
        lambda: backends.cuda.matmul.allow_tf32,
        lambda: backends.cudnn.allow_tf32,
        torch.get_float32_matmul_precision,
    )
    return [_answered(one) for one in asked]


def _answered(asked: Callable[[], object]) -> object:
    try:
        return asked()
    except RuntimeError:
        return "refused"


@pytest.mark.parametrize(
    ("precision", "told"), [("fp32", [False, False, "highest"]), ("tf32", [True, True, "high"])]
)
def test_the_older_switches_say_the_same_and_are_put_back(settings_before, precision, told):
    before = older_settings()
    with Runtime(torch.device("cuda", 0), precision).computing():
        if "refused" not in before:  # where the program had them differ already, they stay as they are
            assert older_settings() == told
            with torch.backends.cudnn.flags(benchmark=True, allow_tf32=told[1]):
                pass
    assert tf32_settings() == settings_before and older_settings() == before


def test_a_forward_pass_in_fp32_is_not_quietly_tf32(settings_before):
    with Runtime(torch.device("cuda:0"), "fp32").autocast():
        assert tf32_settings() == ["ieee"] * 3
    assert tf32_settings() == settings_before


@pytest.mark.parametrize("wanted", ["cpu", "cuda"])
def test_choosing_a_device_leaves_tf32_as_it_was(cuda_devices, settings_before, wanted):
    cuda_devices(1)
    choose_device(wanted)
    assert tf32_settings() == settings_before


def test_threads_are_a_runtimes_own_while_it_computes_and_put_back_even_after_an_error():
    before = torch.get_num_threads()
    with pytest.raises(ZeroDivisionError), Runtime(CPU, "fp32", threads=before + 1).computing():
        assert torch.get_num_threads() == before + 1
        with Runtime(CPU, "fp32").autocast():  # an evaluation within a training
            assert torch.get_num_threads() == before + 1
        raise ZeroDivisionError
    assert torch.get_num_threads() == before
    assert Runtime(CPU, "fp32").threads == before


def test_the_cpu_is_named_with_its_threads():
    models = {
        line.split(":")[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if "model name" in line
    }
    name, threads = device_name(CPU).rsplit(", ", 1)
    count = torch.get_num_threads()
    assert name in (models or {"CPU"}) and threads == f"{count} thread{'s' * (count > 1)}"


def test_a_runtime_computes_in_its_precision():
    linear, x = torch.nn.Linear(4, 4), torch.ones(2, 4)
    with Runtime(CPU, "bf16").autocast():
        assert linear(x).dtype == torch.bfloat16
        with Runtime(CPU, "fp32").autocast():
            assert linear(x).dtype == torch.float32
    with Runtime(CPU, "fp32").autocast():
        assert linear(x).dtype == torch.float32
