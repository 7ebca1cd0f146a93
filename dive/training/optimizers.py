"""The optimisers of recipes: one function per kind, listed in `OPTIMIZERS`.

All tensors of an optimiser's state exist from the start, as its first step would create them, because a CUDA
graph refers to them and the state of a stopped run is copied into them.
"""

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from dive.errors import ModelError
from dive.models.head import last_linear
from dive.models.network import Network
from dive.recipe.training import AdamW, Optimizer, Sgd
from dive.training.spec import RunSpec


@dataclass(frozen=True)
class Group:
    """Parameters with the same learning rate. factor: that rate as a multiple of the schedule's."""

    parameters: list[nn.Parameter]
    factor: float = 1.0


def groups_of(spec: RunSpec, network: Network) -> list[Group]:
    """The parameters of a run's network, grouped by learning rate: the body, then the last linear layer.

    There is one group of all parameters if `optimizer.body_factor` is 1. Raises ModelError if it is not and
    the network does not end in a linear layer.
    """
    everything, body_factor = list(network.body.parameters()), spec.optimizer.body_factor
    if body_factor == 1:
        return [Group(everything)]
    views = network.normalised(network.blank(spec.architecture.channels, spec.images.space.shape))
    if (name := last_linear(network.body, views)) is None:
        raise ModelError(
            f"{spec.architecture.name} does not end in a linear layer, so optimizer.body_factor, which is "
            "for all layers but the last linear one, must be 1"
        )
    head = list(network.body.get_submodule(name).parameters())
    of_head = {id(parameter) for parameter in head}
    body = [parameter for parameter in everything if id(parameter) not in of_head]
    return [group for group in (Group(body, body_factor), Group(head)) if group.parameters]


def make_optimizer(wanted: Optimizer, groups: Sequence[Group], rates: torch.Tensor) -> torch.optim.Optimizer:
    """The optimiser of a recipe, which updates all parameters of a group in one fused operation.

    rates: (G,) the learning rate of each group, on the device; the optimiser reads it in each step.

    >>> linear = nn.Linear(2, 2)
    >>> optimizer = make_optimizer(AdamW(), [Group(list(linear.parameters()))], torch.tensor([0.1]))
    >>> sorted(optimizer.state[linear.weight])
    ['exp_avg', 'exp_avg_sq', 'step']
    """
    of_torch = [{"params": group.parameters, "lr": rates[i]} for i, group in enumerate(groups)]
    return OPTIMIZERS[type(wanted)](of_torch, wanted)


def _sgd(groups: list[dict[str, Any]], wanted: Sgd) -> torch.optim.Optimizer:
    optimizer = torch.optim.SGD(
        groups, momentum=wanted.momentum, weight_decay=wanted.weight_decay, fused=True
    )
    if wanted.momentum:
        _begin_with(optimizer, lambda parameter: {"momentum_buffer": torch.zeros_like(parameter)})
    return optimizer


def _adamw(groups: list[dict[str, Any]], wanted: AdamW) -> torch.optim.Optimizer:
    first, second = wanted.betas
    optimizer = torch.optim.AdamW(
        groups, betas=(first, second), eps=wanted.eps, weight_decay=wanted.weight_decay, fused=True
    )

    def state(parameter: torch.Tensor) -> dict[str, torch.Tensor]:
        step = torch.zeros((), dtype=torch.float32, device=parameter.device)
        means = {name: torch.zeros_like(parameter) for name in ("exp_avg", "exp_avg_sq")}
        return {"step": step, **means}

    _begin_with(optimizer, state)
    return optimizer


def _begin_with(
    optimizer: torch.optim.Optimizer, state: Callable[[torch.Tensor], dict[str, torch.Tensor]]
) -> None:
    """Give each parameter the state that the optimiser would create in its first step."""
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            optimizer.state[parameter] = state(parameter)


OPTIMIZERS: dict[type[Optimizer], Callable[[list[dict[str, Any]], Any], torch.optim.Optimizer]] = {
    Sgd: _sgd,
    AdamW: _adamw,
}


def state_tensors(state_dict: Mapping[str, Any]) -> dict[Any, Any]:
    """The values in an optimiser's state dict, by (index of the parameter, name of the value).

    For a malformed state dict, a mapping that `same_tensors` finds equal to none.
    """
    states = state_dict.get("state")
    if not isinstance(states, dict) or not all(isinstance(state, dict) for state in states.values()):
        return {None: None}
    return {(place, name): value for place, state in states.items() for name, value in state.items()}


@contextlib.contextmanager
def capturable(optimizer: torch.optim.Optimizer) -> Iterator[None]:
    """Within it, a CUDA graph can capture the optimiser's step.

    torch's Adam refuses a capture unless its groups are `capturable`, and warns about steps outside a graph
    if they are. Fused updates are the same either way.
    """
    told = [group for group in optimizer.param_groups if "capturable" in group]
    for group in told:
        group["capturable"] = True
    try:
        yield
    finally:
        for group in told:
            group["capturable"] = False
