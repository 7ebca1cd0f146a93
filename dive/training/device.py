"""The device that a command runs on, and how it computes there: precision, threads, TF32.

A `Runtime` changes torch's settings only inside its contexts and restores them, so that no run
computes with the settings of another.
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

    precision: fp32, tf32 (only on CUDA) or bf16. reason: how the precision was chosen. threads: the number
    that a CPU computes with, by default torch's current number in this process.
    """

    device: torch.device
    precision: str
    reason: str = ""
    threads: int = field(default_factory=torch.get_num_threads)

    @contextlib.contextmanager
    def computing(self) -> Iterator[None]:
        """Within it, torch has this runtime's number of threads (CPU), or TF32 on or off (CUDA)."""
        if self.device.type == "cuda":
            with _fp32_kernels("tf32" if self.precision == "tf32" else "ieee"):
                yield
        else:
            with _threads(self.threads):
                yield

    @contextlib.contextmanager
    def autocast(self) -> Iterator[None]:
        """The context of a forward pass: `computing`, and bf16 autocast if the precision is bf16."""
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
    """Within it, float32 matrix products, convolutions and RNNs on CUDA compute as `kind`, `ieee` or `tf32`.

    torch has an older switch for the same setting, `allow_tf32`. Reading it raises an error if the two
    disagree, so it is set too, unless they already disagreed before.
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
    """The device that `auto`, `cpu`, `cuda` or `cuda:N` names; raises DiveError if it does not exist.

    `auto` is CUDA if torch can use it, else the CPU. A returned CUDA device has a number: without N it is
    the current one or, of several processes of one command, the one with the process's local rank. It
    becomes the current device, so that streams, events and pinned memory that name no device belong to it.
    """
    if wanted == "cpu" or (wanted == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    name, _, number = wanted.partition(":")
    if wanted != "auto" and (
        name != "cuda" or (":" in wanted and not (number.isascii() and number.isdigit()))
    ):
        raise DiveError(f"--device {wanted!r} is not auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DiveError(
            f"--device {wanted}: this machine has no CUDA device that torch can use; try --device cpu"
        )
    if number and int(number) >= torch.cuda.device_count():
        raise DiveError(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    device = torch.device("cuda", int(number) if number else _own_device(this_world()))
    torch.cuda.set_device(device)
    return device


def _own_device(world: World) -> int:
    """The number of this process's CUDA device; raises DiveError if the processes outnumber the devices."""
    if world.size == 1:
        return torch.cuda.current_device()
    if world.local_size > (there := torch.cuda.device_count()):
        raise DiveError(
            f"{world.local_size} processes on this machine, but {there} CUDA device(s): each process needs "
            "one; give a smaller --nproc-per-node, or --device cpu"
        )
    return world.local_rank


def device_name(device: torch.device, threads: int | None = None) -> str:
    """The device in words, for results: the name of the GPU, or of the processor with the thread count.

    threads: by default torch's current number in this process.
    """
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    count = torch.get_num_threads() if threads is None else threads
    return f"{processor()}, {count} thread{'s' * (count > 1)}"


def processor() -> str:
    """The name of the processor as /proc/cpuinfo gives it, or `CPU` if it gives none."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")
