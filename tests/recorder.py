"""CUDA graphs without a GPU: torch.cuda's capture replaced by a recorder of the dispatched operations.

As on a GPU, capturing changes no tensor that existed before; a replay repeats the recorded operations on
the recorded tensors and runs no Python of the step; what an operation made lies in memory of the graph's
pool, which any replay in that pool may overwrite; and an operation that waits for the device or brings
something from the host cannot be captured.
"""

import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map_only

aten = torch.ops.aten
WAITS = {
    aten._local_scalar_dense.default: "a value read on the host",
    aten.nonzero.default: "a size that depends on values",
    aten.masked_select.default: "a size that depends on values",
    aten.repeat_interleave.Tensor: "a size that depends on values",
    aten.equal.default: "a value read on the host",
    aten.lift_fresh.default: "a constant of the host",
}
INDEXING = (aten.index.Tensor, aten.index_put.default, aten.index_put_.default)
MASKS = (torch.bool, torch.uint8)
GARBAGE = 0x7F  # each byte of overwritten memory: 3e38 in floats, no index in integers


class CannotCapture(RuntimeError):
    """An operation that CUDA would not capture."""


@dataclass(frozen=True)
class Call:
    """A recorded operation. made: its outputs that lie in memory of the graph, None for the others."""

    function: torch._ops.OpOverload
    args: tuple[Any, ...]
    kwargs: dict[str, Any]
    made: list[torch.Tensor | None]

    def repeat(self) -> None:
        """Compute it again, on the same tensors and into the same ones."""
        results = tree_leaves(self.function(*self.args, **self.kwargs))
        for made, result in zip(self.made, results, strict=True):
            if made is not None:
                made.copy_(result)


@dataclass
class Pool:
    """Memory that graphs share: everything their operations made."""

    storages: list[torch.UntypedStorage] = field(default_factory=list)


class Graph:
    """Stands in for torch.cuda.CUDAGraph."""

    def __init__(self) -> None:
        self.calls: list[Call] = []
        self.pool = Pool()

    def replay(self) -> None:
        """Repeat what was recorded, over memory in which nothing has lasted."""
        assert self.calls, "the graph was not captured"
        for storage in self.pool.storages:
            storage.fill_(GARBAGE)
        with torch.no_grad():
            for call in self.calls:
                call.repeat()


class Capture(TorchDispatchMode):
    """Stands in for torch.cuda.graph."""

    def __init__(self, graph: Graph, pool: Pool | None = None, stream: object = None) -> None:
        super().__init__()
        self._graph, self._made = graph, set()
        self._pool = graph.pool = pool or Pool()
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._calls: list[Call] = []

    def __exit__(self, kind: type | None, *rest: Any) -> None:
        super().__exit__(kind, *rest)
        for storage, content in self._before.values():
            storage.copy_(content)  # a capture computes nothing
        if kind is None:
            self._graph.calls = self._calls

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        _refuse(function, args)
        given = {_place(tensor): tensor for tensor in _tensors((args, kwargs))}
        for place, tensor in given.items():
            if place not in self._made and place not in self._before:
                storage = tensor.untyped_storage()
                self._before[place] = (storage, storage.clone())
        results = function(*args, **kwargs)
        made = [
            leaf.detach() if isinstance(leaf, torch.Tensor) and _place(leaf) not in given else None
            for leaf in tree_leaves(results)
        ]
        for tensor in filter(lambda one: one is not None, made):
            if _place(tensor) not in self._made:
                self._made.add(_place(tensor))
                self._pool.storages.append(tensor.untyped_storage())
        if any(one is not None for one in made) or function._schema.is_mutable:  # else it is a view
            self._calls.append(Call(function, *_detached((args, kwargs)), made))
        return results


def _refuse(function: Any, args: tuple[Any, ...]) -> None:
    """Raise CannotCapture where an operation needs the host while the device computes."""
    if function in WAITS:
        raise CannotCapture(f"{function}: {WAITS[function]}")
    if function in INDEXING and any(index.dtype in MASKS for index in args[1] if index is not None):
        raise CannotCapture(f"{function}: a mask as an index, whose size depends on values")


def _tensors(tree: Any) -> Iterable[torch.Tensor]:
    return (leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor))


def _detached(tree: Any) -> Any:
    return tree_map_only(torch.Tensor, torch.Tensor.detach, tree)


def _place(tensor: torch.Tensor) -> int:
    """The memory a tensor lies in, as a number; valid while something holds it."""
    return tensor.untyped_storage()._cdata


class Stream:
    """Stands in for torch.cuda.Stream: everything enqueued is done at once."""

    def synchronize(self) -> None:
        """Nothing to wait for."""

    def wait_stream(self, other: object) -> None:
        """Nothing to wait for."""


class Recorder:
    """What was captured since `install`."""

    def __init__(self) -> None:
        self.graphs: list[Graph] = []

    def install(self, monkeypatch: pytest.MonkeyPatch) -> "Recorder":
        """Put it in the place of torch.cuda's graphs and streams."""
        stream = Stream()

        def capture(graph: Graph, **options: Any) -> Capture:
            assert options["stream"] is stream, "captured on another stream than the current one"
            self.graphs.append(graph)
            return Capture(graph, **options)

        stand_ins: dict[str, Callable] = {
            "CUDAGraph": Graph,
            "graph": capture,
            "graph_pool_handle": Pool,
            "current_stream": lambda device=None: stream,
            "Stream": lambda device=None: stream,
            "stream": lambda stream: contextlib.nullcontext(),
        }
        for name, stand_in in stand_ins.items():
            monkeypatch.setattr(torch.cuda, name, stand_in)
        return self


class Devices(TorchDispatchMode):
    """Notes every operation that touches a tensor which is not on CUDA; with fake tensors, without a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.operations = 0
        self.on_host: list[str] = []

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        results = function(*args, **(kwargs or {}))
        self.operations += 1
        if any(tensor.device.type != "cuda" for tensor in _tensors((args, kwargs, results))):
            self.on_host.append(str(function))
        return results


def tf32_settings() -> list[str]:
    """How torch computes products and convolutions of float32 on CUDA."""
    backends = torch.backends
    return [part.fp32_precision for part in (backends.cuda.matmul, backends.cudnn.conv, backends.cudnn.rnn)]
