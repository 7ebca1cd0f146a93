"""Batch norm's `num_batches_tracked`, counted on the host instead of in a tensor.

torch's batch norm adds 1 to an int64 tensor in each training pass: one more kernel per layer, for a
number that only a cumulative average (`momentum=None`) uses. State dicts contain it as before.
"""

from collections.abc import Mapping
from typing import Any

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

_KEY = "num_batches_tracked"


class BatchCounts:
    """Counts the training passes of a model's batch norms, and removes `num_batches_tracked` from them.

    It counts for every batch norm that has a momentum. A class with a `forward` of its own is left unchanged,
    because it may need the tensor, as `SyncBatchNorm` does. `state_dict()` of the model has the key, with the
    value that torch would have given it, and `load_state_dict()` restores the count from it. Passes that run
    no Python, those of a CUDA graph, are added with `add`.
    """

    def __init__(self, model: nn.Module) -> None:
        self._counts: dict[nn.Module, int] = {}
        for module in model.modules():
            counts = isinstance(module, _BatchNorm) and type(module).forward is _BatchNorm.forward
            if counts and module.num_batches_tracked is not None and module.momentum is not None:
                self._take_over(module)

    def _take_over(self, module: nn.Module) -> None:
        counts = self._counts
        tracked = module.num_batches_tracked
        assert isinstance(tracked, torch.Tensor)
        counts[module] = int(tracked)
        module.register_buffer("num_batches_tracked", None)

        def count(module: nn.Module, _: tuple[Any, ...]) -> None:
            if module.training:
                counts[module] += 1

        def write(module: nn.Module, state: dict[str, Any], prefix: str, _: Any) -> None:
            state[prefix + _KEY] = torch.tensor(counts[module])

        def read(
            module: nn.Module,
            state: dict[str, Any],
            prefix: str,
            _: Any,
            strict: bool,
            missing: list[str],
            *__: Any,
        ) -> None:
            if prefix + _KEY in state:
                counts[module] = int(state.pop(prefix + _KEY))
            elif strict:
                missing.append(prefix + _KEY)

        module.register_forward_pre_hook(count)
        module.register_state_dict_post_hook(write)
        module.register_load_state_dict_pre_hook(read)

    def values(self) -> dict[nn.Module, int]:
        """The current count of each module."""
        return dict(self._counts)

    def since(self, before: Mapping[nn.Module, int]) -> dict[nn.Module, int]:
        """How much each count has grown since `before`, which `values` returned."""
        return {module: count - before[module] for module, count in self._counts.items()}

    def add(self, passes: Mapping[nn.Module, int]) -> None:
        """Add passes that did not call the modules, such as those of a CUDA graph."""
        for module, count in passes.items():
            self._counts[module] += count

    def restore(self, values: Mapping[nn.Module, int]) -> None:
        """Set the counts back to `values`, which `values()` returned."""
        self._counts.update(values)
