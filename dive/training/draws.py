"""What a network draws while it trains, as dropout and stochastic depth do: seeded anew for each step."""

import contextlib
import pickle
import random
from collections.abc import Iterator, Sequence

import numpy as np
import torch

from dive.randomness import network_seed


@contextlib.contextmanager
def network_draws(device: torch.device, seed: int, epoch: int, step: int, rank: int = 0) -> Iterator[None]:
    """Within it, torch's generators draw what is a function of (seed, epoch, step, rank) alone.

    So a resumed run draws what it would have drawn, and a run beside others what it draws alone. The
    generators are afterwards as they were. On CUDA a graph that is replayed within it draws so too. The parts
    of a batch draw one after the other.
    """
    generators = [torch.default_generator]
    if device.type == "cuda":
        of_cuda: Sequence[torch.Generator] = torch.cuda.default_generators  # none where torch has no CUDA
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
