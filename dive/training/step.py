"""One training step, with everything it needs on the device: data, randomness, rates, results.

A step is one gather, one forward and backward pass and one fused update. It reads its position from
cursors on the device and advances them, so the host passes nothing to it. A batch may be processed in
parts, whose gradients are added up before the update. On CUDA each kind of part that occurs is captured
as a graph and replayed. Without accumulation there are two kinds: the full batch and the last, smaller
one. All results of a step are in tensors that exist before it, because a replay can only fill those;
the tensors that a step allocates are overwritten by the next one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from dive.feeds.feed import Batch, Feed, ImageFeed
from dive.models.batch_counts import BatchCounts
from dive.models.checkpoint import same_tensors
from dive.models.network import Network
from dive.training.device import Runtime
from dive.training.draws import host_states
from dive.training.optimizers import capturable, groups_of, make_optimizer, state_tensors
from dive.training.ranks import ALONE, Ranks
from dive.training.shared import SharedNetwork
from dive.training.spec import RunSpec

WARM_UPS = 3  # steps before a capture, in which libraries choose kernels and allocate memory


@dataclass(frozen=True)
class Inputs:
    """The inputs of a step: views, labels, and whatever else the objective needs.

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
        """The objective's inputs besides logits, for rows of samples, view ids and cache columns (B,)."""
        return self.labels[rows], *(feed.batch(rows, ids, columns) for feed in self.more)


def inputs_of(spec: RunSpec, ranks: Ranks = ALONE) -> Inputs:
    """The inputs of a run, with feeds that no other run uses."""
    size = spec.largest_share(ranks.size)
    more = () if spec.teacher is None else (spec.teacher.feed(size),)
    return Inputs(spec.images.feed(size), spec.labels, more)


@dataclass(frozen=True)
class Part:
    """A kind of part of a batch. Parts of the same kind share a CUDA graph.

    size: the number of samples in this process's share; 0 if there are too few for all processes. first,
    last: whether it is the first or the last part of its batch.
    """

    size: int
    first: bool
    last: bool

    @classmethod
    def of_batch(cls, sizes: Sequence[int]) -> tuple["Part", ...]:
        """The parts of a batch, from their sizes in order."""
        end = len(sizes) - 1
        return tuple(cls(size, at == 0, at == end) for at, size in enumerate(sizes))


class Step:
    """The step of a run: `begin` an epoch, then `advance` once for each of its steps.

    network: on the runtime's device. ranks: the processes that train it together. losses: (steps,) the mean
    loss of each step done in this epoch; with several processes it is the mean of their `losses`. correct:
    (1,) how many of this process's samples were classified correctly in this epoch. Both are on the device,
    and reading them waits for it.
    """

    def __init__(
        self, spec: RunSpec, network: Network, inputs: Inputs, runtime: Runtime, ranks: Ranks = ALONE
    ) -> None:
        device, steps = runtime.device, spec.steps_per_epoch
        self._network, self._inputs, self._runtime = network, inputs, runtime
        self._objective = spec.objective.to(device)
        self._processes = ranks.size
        self._in_shares = spec.schedule.accumulate > 1 or not ranks.alone
        shares = [spec.shares(step, ranks.rank, ranks.size) for step in range(steps)]
        self._parts = [Part.of_batch([share.stop - share.start for share in of_step]) for of_step in shares]
        self._places = np.concatenate([np.r_[share] for of_step in shares for share in of_step])
        self._sizes = torch.tensor([sum(spec.parts(step)) for step in range(steps)], device=device)
        self._plan = torch.zeros(3, len(self._places), dtype=torch.int64, device=device)
        groups = groups_of(spec, network)
        self._factors = [group.factor for group in groups]
        self._rates = torch.zeros(steps, len(groups), device=device)
        self._rate = torch.zeros(len(groups), device=device)
        self._offsets = torch.arange(spec.largest_share(ranks.size), device=device)
        self._cursor = torch.zeros(1, dtype=torch.int64, device=device)  # steps done
        self._taken = torch.zeros(1, dtype=torch.int64, device=device)  # samples processed
        self._at = 0  # the same as _cursor, on the host
        self.losses = torch.zeros(steps, device=device)
        self.correct = torch.zeros(1, dtype=torch.int64, device=device)
        self.optimizer = make_optimizer(spec.optimizer, groups, self._rate)
        self._clip_norm = spec.optimizer.clip_norm
        self._shared = SharedNetwork(network, ranks, spec)  # before the counts, which cannot be copied
        self._counts = BatchCounts(network)
        self._shared.join()
        self._graphs: dict[Part, _Graph] = {}

    def load_state(self, model: dict[str, Any], optimizer: dict[str, Any]) -> None:
        """Load weights and the optimiser's state, each a state dict; to be called before `capture`.

        Raises ValueError unless their names, shapes and dtypes are those of this run. Fused kernels do not
        check them, and would read and write beyond the end of a smaller tensor.
        """
        if not same_tensors(model, self._network.body.state_dict()):
            raise ValueError("its weights are those of another network")
        own, saved = (state_tensors(state) for state in (self.optimizer.state_dict(), optimizer))
        if not same_tensors(saved, own):
            raise ValueError("its optimiser's state is that of another network")
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
        """Seconds that the device waited for images in this epoch, None if the images are on it."""
        return self._inputs.images.waited

    def begin(self, plan: np.ndarray, rates: list[float]) -> None:
        """Begin an epoch.

        plan: (3, N) int64: rows of the samples in the epoch's order, their view ids, their cache columns.
        rates: (steps,) learning rates.
        """
        self.take_plan(plan, rates)
        sizes = [part.size for parts in self._parts for part in parts if part.size]
        self._inputs.begin(list(Batch(*plan[:, self._places]).parts(sizes)))

    def take_plan(self, plan: np.ndarray, rates: list[float]) -> None:
        """Transfer an epoch's plan and rates to the device; a capture needs only this part of `begin`."""
        self._plan.copy_(torch.from_numpy(plan[:, self._places]))
        self._rates.copy_(torch.tensor([[rate * factor for factor in self._factors] for rate in rates]))
        self._rewind()
        self._network.train()

    def _rewind(self) -> None:
        self._to_start()
        for tensor in (self.losses, self.correct):
            tensor.zero_()
        self._at = 0

    def _to_start(self) -> None:
        for cursor in (self._cursor, self._taken):
            cursor.zero_()

    def advance(self) -> None:
        """Do the next step of the epoch; on CUDA only enqueue it."""
        for part in self._parts[self._at]:
            if part.size:
                self._inputs.load()
            if (recorded := self._graphs.get(part)) is None:
                self._run(part)
            else:
                recorded.graph.replay()
                self._counts.add(recorded.passes)
        self._at += 1

    def _run(self, part: Part) -> None:
        """Process the part at the cursors, with tensor operations only, without waiting for the device."""
        rows, ids, columns = self._plan.index_select(1, self._taken + self._offsets[: part.size])
        with self._runtime.computing(), self._shared.passing(part.last):
            if part.size:
                with self._runtime.autocast():
                    logits = self._shared(self._inputs.images.batch(rows, ids, columns))
                targets = self._inputs.targets(rows, ids, columns)
                loss = self._objective(logits, *targets)
            else:  # only other processes have samples of this part
                loss = self._shared.pass_nothing()
            if self._in_shares:  # by its share: losses of parts add up, gradients of processes are averaged
                loss = loss * (part.size * self._processes) / self._sizes.index_select(0, self._cursor)[0]
            if part.first:
                self._forget_gradients()
            loss.backward()
            if part.last:
                self._update()
        self.losses.index_add_(0, self._cursor, loss.detach()[None])
        if part.size:
            self.correct += (logits.detach().argmax(dim=1) == targets[0]).sum()
        self._taken += part.size
        if part.last:
            self._cursor += 1

    def _forget_gradients(self) -> None:
        """Reset the gradients before a batch.

        Accumulated gradients keep their memory, because the graph of a part adds to those of the part before.
        """
        self.optimizer.zero_grad(set_to_none=not self._in_shares)

    def _update(self) -> None:
        """Update the weights, with the learning rates of the step at the cursor."""
        self._rate.copy_(self._rates.index_select(0, self._cursor)[0])
        if self._clip_norm is not None:
            torch.nn.utils.clip_grad_norm_(self._network.body.parameters(), self._clip_norm)
        self.optimizer.step()

    def capture(self) -> None:
        """Capture the steps as CUDA graphs, on the current stream, which must not be the default one.

        To be called after `take_plan`, before `begin`, while no thread streams a cache, because CUDA calls of
        other threads can make a capture fail. It does not train: all tensors are restored. Raises
        RuntimeError if the capture fails, or if the network draws random numbers on the host, which every
        replay would repeat. The step then runs eagerly.
        """
        undrawn = host_states()
        before = [(tensor, tensor.clone()) for tensor in self._trained()]
        counts = self._counts.values()
        kinds = list(dict.fromkeys(part for parts in self._parts for part in parts))
        try:
            for part in kinds:
                for _ in range(WARM_UPS):
                    self._to_start()
                    self._run(part)
            if host_states() != undrawn:
                raise RuntimeError(
                    "the network draws random numbers on the host, which its graph would repeat"
                )
            self._to_start()
            self._graphs = self._record(kinds)
        finally:
            self._forget_gradients()
            with torch.no_grad():
                for tensor, value in before:
                    tensor.copy_(value)
            self._counts.restore(counts)
            self._rewind()

    def _record(self, kinds: Sequence[Part]) -> dict[Part, "_Graph"]:
        """The graph of each kind of part.

        The graphs share one memory pool. This is safe because they are replayed one after the other on one
        stream, and none reads what another left in the pool. Accumulated gradients are outside the pool,
        since the warm-up steps allocated them.
        """
        stream = torch.cuda.current_stream(self._runtime.device)
        pool = torch.cuda.graph_pool_handle()
        graphs = {}
        for part in kinds:
            counts = self._counts.values()
            graph = torch.cuda.CUDAGraph()
            with capturable(self.optimizer), torch.cuda.graph(graph, pool=pool, stream=stream):
                self._run(part)
            graphs[part] = _Graph(graph, self._counts.since(counts))
        return graphs

    def _trained(self) -> list[torch.Tensor]:
        """Every tensor that training changes: weights, batch norm's statistics, the optimiser's state."""
        model = self._network.body
        moments = [tensor for state in self.optimizer.state.values() for tensor in state.values()]
        return [*model.parameters(), *model.buffers(), *moments]


@dataclass(frozen=True)
class _Graph:
    """A captured part of a step. passes: the passes of each batch norm in one replay."""

    graph: torch.cuda.CUDAGraph
    passes: dict[torch.nn.Module, int]
