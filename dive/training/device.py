"""The device a command runs on, and how it computes there: precision, threads, TF32.

A `Runtime` changes torch's settings only inside its contexts and puts them back, so that no run
computes under the settings of another.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from dive.errors import DiveError
from dive.world import World, this_world


@dataclass(frozen=True)
class Runtime:
    """Where and how a model computes.

    precision: fp32, tf32 (CUDA alone) or bf16. reason: how the precision was chosen. threads: how many
    a CPU computes with; those of this process unless given.
    """

    device: torch.device
    precision: str
    reason: str = ""
    threads: int = field(default_factory=torch.get_num_threads)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """The settings to compute under, put back at the end: threads on a CPU, TF32 on or off on CUDA."""
        if self.device.type == "cuda":
            with _fp32_kernels("tf32" if self.precision == "tf32" else "ieee"):
                yield
        else:
            with _threads(self.threads):
                yield

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass: `computing`, with bf16 autocast where that is the precision."""
        bf16 = torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")
        with self.computing(), bf16:
            yield


@contextlib.contextmanager
def _threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    if count == before:
        yield
        return
    torch.set_num_threads(count)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextlib.contextmanager
def _fp32_kernels(kind: str) -> Iterator[None]:
    """Products and convolutions of float32 on CUDA computed as `ieee` or `tf32` asks.

    torch has an older switch for the same, `allow_tf32`, which is an error to read where it says otherwise:
    it is set too, unless it already was one.
    """
    cudnn: Any = torch.backends.cudnn  # whose conv and rnn torch does not declare
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, cudnn.conv, cudnn.rnn)
    before = [switch.fp32_precision for switch in switches]
    older: dict[Any, bool] = {}
    with contextlib.suppress(RuntimeError):
        older = {switch: switch.allow_tf32 for switch in (torch.backends.cuda.matmul, cudnn)}
    try:
        for switch in older:
            switch.allow_tf32 = kind == "tf32"
        for switch in switches:
            switch.fp32_precision = kind
        yield
    finally:
        for switch, allowed in older.items():
            switch.allow_tf32 = allowed
        for switch, was in zip(switches, before, strict=True):
            switch.fp32_precision = was


def choose_device(wanted: str) -> torch.device:
    """The device `auto`, `cpu`, `cuda` or `cuda:N` names; raises DiveError where it is not there.

    A CUDA device has its number, `cuda` being the current one, and becomes the current one: streams,
    events and pinned memory that do not name a device are then its own. Of several processes on a machine
    each has the device of its own number.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    name, _, number = wanted.partition(":")
    if wanted != "auto" and (
        name != "cuda" or (":" in wanted and not (number.isascii() and number.isdigit()))
    ):
        raise DiveError(f"--device {wanted!r} is not auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DiveError(f"--device {wanted}: this machine has no CUDA device torch can use; try --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise DiveError(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    device = torch.device("cuda", int(number) if number else _own_device(this_world()))
    torch.cuda.set_device(device)
    return device


def _own_device(world: World) -> int:
    """The number of this process's CUDA device; raises DiveError where there are too few."""
    if world.size == 1:
        return torch.cuda.current_device()
    if world.local_size > (there := torch.cuda.device_count()):
        raise DiveError(
            f"{world.local_size} processes on this machine, and {there} CUDA device(s): each process needs "
            "one; give a smaller --nproc-per-node, or --device cpu"
        )
    return world.local_rank


def device_name(device: torch.device, threads: int | None = None) -> str:
    """The device in words, for results: the GPU's name, or the processor with its thread count.

    threads: those of this process unless given.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads() if threads is None else threads
    return f"{processor()}, {count} thread{'s' * (count > 1)}"


def processor() -> str:
    """The processor's name as the system gives it, CPU where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
