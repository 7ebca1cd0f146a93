"""Products of float32 matrices computed as such, whatever the network is computed in."""

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def exact_products(device: torch.device) -> Iterator[None]:
    """A context in which neither autocast nor TF32 reaches a product of float32 matrices; put back after it.

    A product that is captured in a CUDA graph within it stays so when the graph is replayed.
    """
    cpu: Any = torch.backends.mkldnn  # whose matmul torch does not declare
    switches: tuple[Any, ...] = (torch.backends.cuda.matmul, cpu.matmul)
    before = [switch.fp32_precision for switch in switches]
    try:
        for switch in switches:
            switch.fp32_precision = "ieee"
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for switch, was in zip(switches, before, strict=True):
            switch.fp32_precision = was
