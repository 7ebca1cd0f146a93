"""The precision a command computes in: what `auto` takes, of those the device has, on a real batch."""

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

# How far a precision may lie from fp32 on one batch, as a share of the norm; a wrong kernel is off by the
# order of one. bf16 keeps 8 significant bits, TF32 11. Measured with sound bf16 on the paper's ResNet-32
# alone, initial weights of 12 seeds: logits 0.006 to 0.008, gradients 0.12 to 0.23, single ones up to 0.65.
LOGITS_TOLERANCE = 0.05
GRADIENT_TOLERANCE = 0.4
PARAMETER_TOLERANCE = 1.0  # zeros are as far away
NOTICEABLE = (
    0.01  # a parameter with less of the gradient's norm may be rounding alone, as before a batch norm
)
TENSOR_CORES = (8, 0)  # CUDA compute capability that has TF32 and bf16; older cards lack or emulate them
CLEARLY_FASTER = 0.9  # of the time of a more exact precision; within that, exactness wins
NO_TF32 = "TF32 needs a CUDA device of compute capability 8.0 or later and is not there"
ROUNDS, REPEATS = 5, 10  # of a trial on CUDA: rounds timed, passes in each

Work = Callable[[], torch.Tensor]
Loss = Callable[[torch.Tensor], torch.Tensor]  # logits (B, C) to their mean loss


def precisions(device: torch.device) -> tuple[str, ...]:
    """The precisions a device computes in by hardware of its own, the most exact first."""
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
    """The runtime for `auto`, `fp32`, `tf32` or `bf16`; raises DiveError where the device has no TF32.

    `auto` tries the device's precisions on this model and this real batch (B, channels, H, W), which
    only `auto` needs. It is fp32 unless another agrees with fp32 and measures clearly faster than
    every more exact one: bf16 on CPUs has had slow and wrong kernels, and on CUDA batch norm in bf16
    takes other kernels than in fp32. With `loss` (logits to the mean loss) the trial is a
    training step, else a forward pass in eval mode. The model itself is left as it was.
    """
    if wanted == "tf32" and wanted not in precisions(device):
        raise DiveError(f"--precision tf32: {NO_TF32} on {device_name(device)}; give fp32 or bf16")
    if wanted != "auto":
        return Runtime(device, wanted, "as asked for")
    candidates = precisions(device)
    if candidates == ("fp32",):
        return Runtime(device, "fp32", "this GPU has no TF32 and no bf16 of its own")
    assert batch is not None
    trials = {p: _trial(Runtime(device, p), copy.deepcopy(model), batch, loss) for p in candidates}
    if device.type == "cuda":
        torch.cuda.empty_cache()  # the memory of the trials' graphs
    best = "fp32"
    for candidate in candidates[1:]:
        clearly_faster = trials[candidate].seconds < CLEARLY_FASTER * trials[best].seconds
        if clearly_faster and not trials[candidate].fault(trials["fp32"]):
            best = candidate
    return Runtime(device, best, _told(trials))


@dataclass(frozen=True)
class _Trial:
    """What a precision gave: seconds a pass, its logits, and of a training step each parameter's gradient."""

    seconds: float
    logits: torch.Tensor
    gradients: Mapping[str, torch.Tensor]

    def fault(self, exact: "_Trial") -> str:
        """What is further from `exact` than rounding explains; an empty text where nothing is."""
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
        """How far its logits are from those of `exact`."""
        return _distance([self.logits], [exact.logits])

    def gradients_off(self, exact: "_Trial") -> float:
        """How far its gradients are from those of `exact` as a whole; one that it lacks is zero."""
        right = exact.gradients
        return _distance([self._gradient(name, right[name]) for name in right], right.values())

    def _gradient(self, name: str, right: torch.Tensor) -> torch.Tensor:
        return self.gradients.get(name, torch.zeros_like(right))


def _told(trials: dict[str, _Trial]) -> str:
    """The trials in words, the least exact first."""
    names = list(reversed(trials))
    exact = trials["fp32"]
    times = ", ".join(
        f"{_milliseconds(trials[p].seconds)} ms {'a batch ' if p == names[0] else ''}in {p}" for p in names
    )
    others = names[:-1]
    told = f"{times}, logits differ by {' and '.join(f'{trials[p].logits_off(exact):.1%}' for p in others)}"
    faults = [f"{p} is not taken: {fault}" for p in others if (fault := trials[p].fault(exact))]
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
    """A precision's trial on one batch; the model is changed by it."""
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
    with network_draws(runtime.device, 0, 0, 0):  # the same masks in every precision
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
    """Median seconds of a pass as the command will run it: training replays a graph, an export enqueues.

    The launches of an eager step cost more than its kernels and would hide which precision is faster.
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
    """`work` as a graph's replay; `work` itself where it cannot be captured, as the step will be then."""
    graph = torch.cuda.CUDAGraph()
    try:
        with torch.cuda.graph(graph, stream=stream):
            work()
    except RuntimeError:
        return work
    return graph.replay


def _norm(tensors: Iterable[torch.Tensor]) -> torch.Tensor:
    """The norm of tensors as one vector."""
    return torch.stack([tensor.norm() for tensor in tensors]).norm()


def _distance(ours: Iterable[torch.Tensor], theirs: Iterable[torch.Tensor]) -> float:
    """How far tensors are from others, as one vector each and as a share of the norm of the others."""
    theirs = list(theirs)
    apart = _norm(a - b for a, b in zip(ours, theirs, strict=True))
    return (apart / _norm(theirs).clamp_min(1e-12)).item()
