"""The precision that a command computes in. `auto` tries those of the device on a real batch."""

import copy
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

import torch

from dive.errors import DiveError
from dive.models.batch_counts import BatchCounts
from dive.training.device import Runtime, device_name
from dive.training.draws import network_draws

# How far a precision may be from fp32 on one batch, as a share of the norm. A wrong kernel is off by about
# the whole norm. bf16 keeps 8 significant bits, TF32 11. Measured only with the paper's ResNet-32, correct
# bf16 kernels and the initial weights of 12 seeds: logits 0.006 to 0.008, gradients as a whole 0.12 to 0.23,
# the gradient of a single parameter up to 0.65.
LOGITS_TOLERANCE = 0.05
GRADIENT_TOLERANCE = 0.4
PARAMETER_TOLERANCE = 1.0  # the distance of a gradient that is all zeros
# As a share of the norm of the whole gradient. The gradient of a parameter below this may consist of rounding
# errors, for example that of a bias before a batch norm, and is not compared.
NOTICEABLE = 0.01
TENSOR_CORES = (8, 0)  # the lowest CUDA compute capability with TF32 and bf16; older GPUs may emulate bf16
CLEARLY_FASTER = 0.9  # a less exact precision is used if it takes less than this share of the time
NO_TF32 = "TF32 needs a CUDA device of compute capability 8.0 or later and is not available"
ROUNDS, REPEATS = 5, 10  # of a trial on CUDA: the rounds that are timed, and the passes in each

Work = Callable[[], torch.Tensor]
Loss = Callable[[torch.Tensor], torch.Tensor]  # from logits (B, C) to the mean loss


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions that `auto` tries on a device, the most exact first.

    Of a CUDA device they are those that its hardware supports.
    """
    if device.type == "cpu":
        return "fp32", "bf16"
    if torch.cuda.get_device_capability(device) >= TENSOR_CORES:
        return "fp32", "tf32", "bf16"
    return ("fp32",)


def choose_precision(
    wanted: str,
    device: torch.device,
    model: torch.nn.Module,
    batch: torch.Tensor | None = None,
    loss: Loss | None = None,
) -> Runtime:
    """The runtime for `auto`, `fp32`, `tf32` or `bf16`; raises DiveError for `tf32` if the device lacks it.

    `auto` tries the device's precisions on this model and this real batch (B, channels, H, W), which only
    `auto` needs. Beginning with fp32, it moves on to a less exact precision if that agrees with fp32 and is
    clearly faster than the one selected so far. Both are measured because bf16 on CPUs has had slow and wrong
    kernels, and on CUDA batch norm in bf16 uses other kernels than in fp32. With `loss` (logits to the mean
    loss) the trial is a forward and backward pass in training mode, otherwise a forward pass in eval mode.
    The model itself does not change.
    """
    if wanted == "tf32" and wanted not in precisions(device):
        raise DiveError(f"--precision tf32: {NO_TF32} on {device_name(device)}; give fp32 or bf16")
    if wanted != "auto":
        return Runtime(device, wanted, "as asked for")
    candidates = precisions(device)
    if candidates == ("fp32",):
        return Runtime(device, "fp32", "this GPU has no hardware for TF32 and bf16")
    assert batch is not None
    trials = {p: _trial(Runtime(device, p), copy.deepcopy(model), batch, loss) for p in candidates}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # frees the memory of the trials' graphs
    best = "fp32"
    for candidate in candidates[1:]:
        clearly_faster = trials[candidate].seconds < CLEARLY_FASTER * trials[best].seconds
        if clearly_faster and not trials[candidate].fault(trials["fp32"]):
            best = candidate
    return Runtime(device, best, _told(trials))


@dataclass(frozen=True)
class _Trial:
    """The results of one precision.

    seconds: per pass. logits: (B, C) float32. gradients: by parameter; empty for a trial without a loss.
    """

    seconds: float
    logits: torch.Tensor
    gradients: Mapping[str, torch.Tensor]

    def fault(self, exact: "_Trial") -> str:
        """What differs from `exact` by more than rounding explains, or an empty string."""
        if not self.logits_off(exact) <= LOGITS_TOLERANCE:
            return f"its logits are off by more than {LOGITS_TOLERANCE:.0%}"
        if not exact.gradients:
            return ""
        if not self.gradients_off(exact) <= GRADIENT_TOLERANCE:
            return f"its gradients are off by more than {GRADIENT_TOLERANCE:.0%}"
        least = NOTICEABLE * _norm(exact.gradients.values())
        for name, right in exact.gradients.items():
            if (
                right.norm() > least
                and not _distance([self._gradient(name, right)], [right]) < PARAMETER_TOLERANCE
            ):
                return f"the gradient of {name} is off by {PARAMETER_TOLERANCE:.0%} or more"
        return ""

    def logits_off(self, exact: "_Trial") -> float:
        """The distance of its logits from those of `exact`, as a share of their norm."""
        return _distance([self.logits], [exact.logits])

    def gradients_off(self, exact: "_Trial") -> float:
        """The same distance for all gradients together; a missing gradient counts as zero."""
        right = exact.gradients
        return _distance([self._gradient(name, right[name]) for name in right], right.values())

    def _gradient(self, name: str, right: torch.Tensor) -> torch.Tensor:
        return self.gradients.get(name, torch.zeros_like(right))


def _told(trials: dict[str, _Trial]) -> str:
    """Times and differences of the trials in words, the least exact precision first."""
    names = list(reversed(trials))
    exact = trials["fp32"]
    times = ", ".join(
        f"{_milliseconds(trials[p].seconds)} ms {'a batch ' if p == names[0] else ''}in {p}" for p in names
    )
    others = names[:-1]
    told = f"{times}, logits differ by {' and '.join(f'{trials[p].logits_off(exact):.1%}' for p in others)}"
    faults = [f"{p} is not used: {fault}" for p in others if (fault := trials[p].fault(exact))]
    if exact.gradients:
        told += f", gradients by {' and '.join(f'{trials[p].gradients_off(exact):.1%}' for p in others)}"
    return "; ".join([told, *faults])


def _milliseconds(seconds: float) -> str:
    return f"{1000 * seconds:.0f}" if seconds >= 0.01 else f"{1000 * seconds:.2g}"


def _trial(
    runtime: Runtime,
    model: torch.nn.Module,
    batch: torch.Tensor,
    loss: Loss | None,
) -> _Trial:
    """The trial of a precision on one batch; it changes the model."""
    model.train(loss is not None)
    if loss is not None:
        BatchCounts(model)  # as in the step

    def work() -> torch.Tensor:
        model.zero_grad()
        with runtime.computing():
            with runtime.autocast(), torch.set_grad_enabled(loss is not None):
                logits = model(batch)
            if loss is not None:
                loss(logits).backward()
        return logits.detach()

    timed = _seconds_on_cuda if runtime.device.type == "cuda" else _seconds_on_cpu
    with network_draws(runtime.device, 0, 0, 0):  # the same dropout masks in every precision
        logits = work().float()
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return _Trial(timed(work, runtime.device, loss is not None), logits, gradients)


def _seconds_on_cpu(work: Work, device: torch.device, trains: bool) -> float:
    """Median seconds of three passes."""
    seconds = []
    for _ in range(3):
        start = time.perf_counter()
        work()
        seconds.append(time.perf_counter() - start)
    return statistics.median(seconds)


def _seconds_on_cuda(work: Work, device: torch.device, trains: bool) -> float:
    """Median seconds of a pass as the command will run it: a graph replay in training, else eagerly.

    Kernel launches of an eager training step take longer than its kernels, and would hide which precision is
    faster.
    """
    stream = torch.cuda.Stream(device)
    stream.wait_stream(torch.cuda.current_stream(device))
    seconds = []
    with torch.cuda.stream(stream):
        for _ in range(3):
            work()
        repeat = _captured(work, stream) if trains else work
        repeat()
        for _ in range(ROUNDS):
            stream.synchronize()
            start = time.perf_counter()
            for _ in range(REPEATS):
                repeat()
            stream.synchronize()
            seconds.append((time.perf_counter() - start) / REPEATS)
    return statistics.median(seconds)


def _captured(work: Work, stream: torch.cuda.Stream) -> Callable[[], object]:
    """The replay of `work` as a CUDA graph; `work` itself if the capture fails, as the step then does."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            work()
    except RuntimeError:
        return work
    return graph.replay


def _norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """The norm of several tensors taken as one vector."""
    return torch.stack([tensor.norm() for tensor in tensors]).norm()


def _distance(ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> float:
    """The norm of `ours` minus `theirs`, each taken as one vector, as a share of the norm of `theirs`."""
    theirs = list(theirs)
    apart = _norm(a - b for a, b in zip(ours, theirs, strict=True))
    return (apart / _norm(theirs).clamp_min(1e-12)).item()
