"""Seeds what a network draws while it trains, such as dropout and stochastic depth, anew for each step."""

import contextlib
import pickle
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dive.randomness import network_seed


@contextlib.contextmanager
def network_draws(device: torch.device, seed: int, epoch: int, step: int, rank: int = 0) -> Iterator[None]:
    """Within it, what torch's generators draw is a function of (seed, epoch, step, rank) alone.

    A resumed run therefore draws the same as an uninterrupted one, and a run beside others the same as a run
    alone. A CUDA graph that is replayed within it draws the same too. The generators' states are restored
    afterwards. The parts of a batch share one seed: each draws after the one before it.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        of_cuda: Sequence[torch.Generator] = torch.cuda.default_generators  # empty if torch has no CUDA
        index = device.index or 0
        generators += of_cuda[index : index + 1]
    before = [generator.get_state() for generator in generators]
    for generator in generators:
        generator.manual_seed(network_seed(seed, epoch, step, rank))
    try:
        yield
    finally:
        for generator, state in zip(generators, before, strict=True):
            generator.set_state(state)


def host_states() -> bytes:
    """The states of the host's generators that a network may draw from: torch's, NumPy's and Python's."""
    of_torch = torch.default_generator.get_state().numpy().tobytes()
    return pickle.dumps((of_torch, np.random.get_state(), random.getstate()))
