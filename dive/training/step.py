"""One training step, with everything it needs on the device: data, randomness, rates, results.

A step is one gather, one forward and backward, one fused update. It reads where it stands from a
cursor on the device and moves that on, so the host says "step" and nothing else. On CUDA it is
captured as a graph, one for the full batch and one for the last, smaller one, and replayed. All it
leaves behind lies in tensors that exist before it: a replay fills those, and what a step makes for
itself is gone with the next one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dive.feeds.feed import Batch, Feed, ImageFeed
from dive.models.batch_counts import BatchCounts
from dive.models.checkpoint import same_tensors
from dive.models.network import Network
from dive.recipe.recipe import Sgd
from dive.training.device import Runtime
from dive.training.spec import RunSpec

WARM_UPS = 3  # steps before a capture: libraries choose their kernels and take their memory in these


def make_optimizer(model: torch.nn.Module, sgd: Sgd, rate: torch.Tensor) -> torch.optim.SGD:
    """SGD with momentum, weight decay on every parameter, one fused update for all of them.

    rate: the learning rate, a scalar on the device. The momentum buffers exist from the start, at
    zero, which is the same as making them at the first step, and lets a CUDA graph hold them.
    """
    optimizer = torch.optim.SGD(
        model.parameters(), lr=rate, momentum=sgd.momentum, weight_decay=sgd.weight_decay, fused=True
    )
    if sgd.momentum:
        for parameter in model.parameters():
            optimizer.state[parameter]["momentum_buffer"] = torch.zeros_like(parameter)
    return optimizer


def _momentum(optimizer: Mapping[str, Any]) -> dict[Any, Any]:
    """The momentum buffers of an optimiser's state dict, by parameter; whatever else it may hold instead."""
    states = optimizer.get("state")
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        return {None: None}
    return {(place, name): value for place, state in states.items() for name, value in state.items()}


@dataclass(frozen=True)
class Inputs:
    """What a step takes of each batch: views, labels, and whatever else the objective wants.

    images: the feed of views. labels: (N,) on the device. more: feeds of the objective's further inputs.
    """

    images: ImageFeed
    labels: torch.Tensor
    more: tuple[Feed, ...] = ()

    @property
    def feeds(self) -> tuple[Feed, ...]:
        """All feeds."""
        return self.images, *self.more

    def begin(self, plan: Sequence[Batch]) -> None:
        """Start a plan in every feed."""
        for feed in self.feeds:
            feed.begin(plan)

    def load(self) -> None:
        """Make the next batch ready in every feed."""
        for feed in self.feeds:
            feed.load()

    def targets(
        self, rows: torch.Tensor, ids: torch.Tensor, columns: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        """What the objective takes besides logits, of samples, views and cache columns (B,)."""
        return self.labels[rows], *(feed.batch(rows, ids, columns) for feed in self.more)


def inputs_of(spec: RunSpec) -> Inputs:
    """The inputs of a run, of feeds of its own."""
    size = spec.schedule.batch_size
    more = () if spec.teacher is None else (spec.teacher.feed(size),)
    return Inputs(spec.images.feed(size), spec.labels, more)


class Step:
    """The step of a run: `begin` an epoch, then `advance` once for each of its steps.

    network: in training mode, on the runtime's device. losses: (steps,) the mean loss of each step done in
    this epoch. correct: how many samples were classified rightly in it. Both on the device; reading them
    waits for it.
    """

    def __init__(self, spec: RunSpec, network: Network, inputs: Inputs, runtime: Runtime) -> None:
        device, n, steps = runtime.device, len(spec.hashes), spec.steps_per_epoch
        self._network, self._inputs, self._runtime = network, inputs, runtime
        self._objective = spec.objective.to(device)
        self._size, self._steps = spec.schedule.batch_size, steps
        self._last_size = n - self._size * (steps - 1)
        self._plan = torch.zeros(3, n, dtype=torch.int64, device=device)
        self._rates = torch.zeros(steps, device=device)
        self._rate = torch.zeros((), device=device)
        self._offsets = torch.arange(min(self._size, n), device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)
        self._at = 0  # the cursor, as the host knows it
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(1, dtype=torch.int64, device=device)
        self.optimizer = make_optimizer(network.body, spec.optimizer, self._rate)
        self._counts = BatchCounts(network)
        self._graphs: dict[int, _Graph] = {}

    def load_state(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Take up weights and momentum, as `state_dict` gave them; to be called before `capture`.

        Raises ValueError unless they have the names, shapes and types of this run's: fused kernels do not
        look, and would read and write beyond the end of a smaller tensor.
        """
        if not same_tensors(model, self._network.body.state_dict()):
            raise ValueError("its weights are of another network")
        own, saved = (_momentum(state) for state in (self.optimizer.state_dict(), optimizer))
        if not same_tensors(saved, own):
            raise ValueError("its momentum is of another network")
        self._network.body.load_state_dict(model)
        with torch.no_grad():
            for name, buffer in own.items():
                buffer.copy_(saved[name])

    @property
    def done(self) -> int:
        """Steps done in this epoch."""
        return self._at

    @property
    def image_wait(self) -> float | None:
        """Seconds that the device waited for pictures in this epoch, None where they lie on it."""
        return self._inputs.images.waited

    def begin(self, plan: np.ndarray, rates: list[float]) -> None:
        """Begin an epoch. plan: (3, N) samples in their order, view ids, cache columns; rates: (steps,)."""
        self.take_plan(plan, rates)
        self._inputs.begin(list(Batch(*plan).split(self._size)))

    def take_plan(self, plan: np.ndarray, rates: list[float]) -> None:
        """Bring an epoch's plan and rates to the device; all that a capture needs of `begin`."""
        self._plan.copy_(torch.from_numpy(plan))
        self._rates.copy_(torch.tensor(rates))
        self._rewind()
        self._network.train()

    def _rewind(self) -> None:
        for tensor in (self._cursor, self.losses, self.correct):
            tensor.zero_()
        self._at = 0

    def advance(self) -> None:
        """Do the next step of the epoch; on CUDA it is enqueued and not waited for."""
        size = self._last_size if self._at == self._steps - 1 else self._size
        self._inputs.load()
        if (recorded := self._graphs.get(size)) is None:
            self._run(size)
        else:
            recorded.graph.replay()
            self._counts.add(recorded.passes)
        self._at += 1

    def _run(self, size: int) -> None:
        """The step at the cursor, on its `size` samples: tensor operations alone, without a wait."""
        rows, ids, columns = self._plan.index_select(1, self._cursor * self._size + self._offsets[:size])
        self._rate.copy_(self._rates.index_select(0, self._cursor)[0])
        with self._runtime.computing():
            with self._runtime.autocast():
                logits = self._network(self._inputs.images.batch(rows, ids, columns))
            targets = self._inputs.targets(rows, ids, columns)
            loss = self._objective(logits, *targets)
            self.optimizer.zero_grad()
            loss.backward()
            self.optimizer.step()
        self.losses.index_copy_(0, self._cursor, loss.detach()[None])
        self.correct += (logits.detach().argmax(dim=1) == targets[0]).sum()
        self._cursor += 1

    def capture(self) -> None:
        """Record the steps as CUDA graphs, on the current stream, which must not be the default one.

        To be called after `take_plan`, before `begin`, while no thread streams a cache: CUDA allows other
        threads nothing then. Nothing is trained by it. Raises RuntimeError where the capture fails; the step
        runs eagerly then.
        """
        before = [(tensor, tensor.clone()) for tensor in self._trained()]
        counts = self._counts.values()
        sizes = list(dict.fromkeys([self._size, self._last_size] if self._steps > 1 else [self._last_size]))
        try:
            for size in sizes:
                for _ in range(WARM_UPS):
                    self._cursor.zero_()
                    self._run(size)
            self._cursor.zero_()
            self._graphs = self._record(sizes)
        finally:
            self.optimizer.zero_grad()
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
            self._counts.restore(counts)
            self._rewind()

    def _record(self, sizes: list[int]) -> dict[int, "_Graph"]:
        """The graph of each batch size.

        They share one memory pool: they replay one after the other on one stream, and none reads what
        another left in it.
        """
        stream = torch.cuda.current_stream(self._runtime.device)
        pool = torch.cuda.graph_pool_handle()
        graphs = {}
        for size in sizes:
            counts = self._counts.values()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, pool=pool, stream=stream):
                self._run(size)
            graphs[size] = _Graph(graph, self._counts.since(counts))
        return graphs

    def _trained(self) -> list[torch.Tensor]:
        """Every tensor that training changes: weights, batch norm's statistics, momentum."""
        model = self._network.body
        momentum = [state["momentum_buffer"] for state in self.optimizer.state.values()]
        return [*model.parameters(), *model.buffers(), *momentum]


@dataclass(frozen=True)
class _Graph:
    """A captured step. passes: how often each batch norm is gone through in it."""

    graph: torch.cuda.CUDAGraph
    passes: dict[torch.nn.Module, int]
