"""The device a command runs on, and the precision it computes in there."""

import copy
import statistics
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path

import torch

from dive.errors import DiveError

# How far bf16 may lie from fp32 on one batch, as a share of the norm. bf16 keeps 8 significant bits;
# a sound kernel through some thirty layers stays well below, a wrong one is off by the order of one.
LOGITS_TOLERANCE = 0.05
GRADIENT_TOLERANCE = 0.2
FIRST_WITH_BF16 = (8, 0)  # CUDA compute capability; older cards emulate it, slowly
CLEARLY_FASTER = 0.9  # of the fp32 time; within that, exactness wins and noise does not decide


@dataclass(frozen=True)
class Runtime:
    """Where and in which precision a model runs. `reason` says how the precision was chosen."""

    device: torch.device
    precision: str
    reason: str = ""

    def autocast(self) -> AbstractContextManager:
        """The context of a forward pass: bf16 autocast, or nothing in fp32."""
        return torch.autocast(self.device.type, dtype=torch.bfloat16, enabled=self.precision == "bf16")


def choose_device(wanted: str) -> torch.device:
    """The device `auto`, `cpu`, `cuda` or `cuda:N` names; raises DiveError where it is not there.

    fp32 on CUDA is made real fp32: TF32 is switched off.
    """
    torch.backends.cudnn.allow_tf32 = False
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if wanted == "cpu":
        return torch.device("cpu")
    name, _, number = wanted.partition(":")
    if name != "cuda" or (":" in wanted and not (number.isascii() and number.isdigit())):
        raise DiveError(f"--device {wanted!r} is not auto, cpu, cuda or cuda:N")
    if not torch.cuda.is_available():
        raise DiveError(f"--device {wanted}: this machine has no CUDA device torch can use; try --device cpu")
    if number and int(number) >= torch.cuda.device_count():
        raise DiveError(f"--device {wanted}: this machine has {torch.cuda.device_count()} CUDA device(s)")
    return torch.device("cuda", int(number)) if number else torch.device("cuda")


def device_name(device: torch.device) -> str:
    """The device in words, for results: the GPU's name, or the processor with its thread count."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{_processor()}, {torch.get_num_threads()} threads"


def _processor() -> str:
    """The processor's name as the system gives it, CPU where it does not."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return "CPU"
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), "CPU")


def choose_precision(
    wanted: str,
    device: torch.device,
    model: torch.nn.Module,
    batch: torch.Tensor | None = None,
    loss: Callable[[torch.Tensor], torch.Tensor] | None = None,
) -> Runtime:
    """The runtime for `auto`, `fp32` or `bf16`.

    On CUDA `auto` is bf16 where the card has it. On a CPU it is bf16 only if it measures clearly
    faster than fp32 on this model and this real batch (B, channels, H, W), and agrees with it: bf16 on
    CPUs has had slow and wrong kernels. With `loss` (logits to per-example losses) the trial is a
    training step, else a forward pass in eval mode. The model itself is left as it was. Elsewhere
    nothing is tried and no batch needed.
    """
    if wanted != "auto":
        return Runtime(device, wanted, "as asked for")
    if device.type == "cuda":
        native = torch.cuda.get_device_capability(device) >= FIRST_WITH_BF16
        return Runtime(
            device, *(("bf16", "on CUDA") if native else ("fp32", "this GPU has no bf16 of its own"))
        )
    assert batch is not None
    trials = {p: _trial(Runtime(device, p), copy.deepcopy(model), batch, loss) for p in ("fp32", "bf16")}
    (slow, *exact), (fast, *rounded) = trials["fp32"], trials["bf16"]
    off = [_distance(a, b) for a, b in zip(rounded, exact, strict=True)]
    right = all(d <= limit for d, limit in zip(off, (LOGITS_TOLERANCE, GRADIENT_TOLERANCE), strict=False))
    measured = (
        f"{fast * 1000:.0f} ms a batch in bf16, {slow * 1000:.0f} ms in fp32, logits differ by {off[0]:.1%}"
    )
    faster = fast < CLEARLY_FASTER * slow
    return Runtime(device, "bf16" if right and faster else "fp32", measured)


def _trial(
    runtime: Runtime, model: torch.nn.Module, batch: torch.Tensor, loss: Callable | None
) -> list[float | torch.Tensor]:
    """Median seconds of three passes, the first pass's logits and, if training, its gradient."""
    seconds, results = [], []
    model.train(loss is not None)
    for _ in range(4):
        start = time.perf_counter()
        model.zero_grad()
        with runtime.autocast(), torch.set_grad_enabled(loss is not None):
            logits = model(batch)
        if loss is not None:
            loss(logits).mean().backward()
        seconds.append(time.perf_counter() - start)
        if not results:
            results = [logits.detach().float()]
            if loss is not None:
                results.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
    return [statistics.median(seconds[1:]), *results]


def _distance(a: torch.Tensor, b: torch.Tensor) -> float:
    return ((a - b).norm() / b.norm().clamp_min(1e-12)).item()
