"""Synchronised batch norm in the place of a network's own: what it computes, what it refuses.

Without a process group `SyncBatchNorm` computes as batch norm does, so that a converted network has to say
what it said before.
"""

import copy
from dataclasses import replace

import own_networks
import pytest
import torch
from torch import nn

from dive.errors import ModelError
from dive.models.batch_counts import BatchCounts
from dive.models.network import Architecture
from dive.training.ranks import ALONE, Ranks
from dive.training.shared import synchronise
from dive.world import World

CUDA = torch.device("cuda", 0)  # for which it is asked; nothing is computed there
TWO = Ranks(World(rank=0, size=2))
SIDE = 32
ARCHITECTURE = Architecture("resnet8", 5, 3, (0.4, 0.5, 0.6), (0.2, 0.25, 0.3))
SOURCE = """\
from torch import nn


class Scaled(nn.BatchNorm2d):
    def forward(self, x):
        return 2 * super().forward(x)


def build(classes):
    pooled = nn.AdaptiveAvgPool2d(1)
    return nn.Sequential(nn.Conv2d(3, 4, 3), Scaled(4), pooled, nn.Flatten(), nn.Linear(4, classes))
"""


def views(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (6, 3, SIDE, SIDE), generator=generator).to(torch.uint8)


def pair(name: str) -> tuple[nn.Module, nn.Module]:
    """A network, its running statistics not those of the beginning, and a copy that was synchronised."""
    network = replace(ARCHITECTURE, name=name).build(seed=3)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network.train()(views(0))
    converted = copy.deepcopy(network)
    synchronise(converted, name, TWO, CUDA)
    return network, converted


@pytest.mark.parametrize(
    "name", ["resnet8", "torchvision/resnet18", "timm/mobilenetv3_small_050", "timm/efficientnet_lite0"]
)
def test_a_synchronised_network_says_what_it_said_before_and_counts_its_batches(name):
    network, converted = pair(name)
    assert any(isinstance(module, nn.SyncBatchNorm) for module in converted.modules())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in converted.modules())
    with torch.no_grad():
        assert torch.equal(network.eval()(views(1)), converted.eval()(views(1)))
        for one in (network, converted):
            BatchCounts(one)  # as a step does
            with torch.random.fork_rng(devices=[]):
                torch.manual_seed(7)
                one.train()(views(2))
    states = [one.state_dict() for one in (network, converted)]
    assert list(states[0]) == list(states[1])
    for at in states[0]:
        assert torch.equal(states[0][at], states[1][at]), at


def test_the_weights_of_a_synchronised_network_are_the_same_parameters():
    network = ARCHITECTURE.build()
    before = dict(network.named_parameters())
    synchronise(network, "resnet8", TWO, CUDA)
    after = dict(network.named_parameters())
    assert before.keys() == after.keys() and all(before[at] is after[at] for at in before)


def test_a_batch_norm_that_does_more_is_refused():
    name = own_networks.write("scaled", SOURCE)
    with pytest.raises(ModelError) as refused:
        pair(name)
    assert str(refused.value) == (
        f"model.sync_batchnorm is not for {name}: torch's synchronised batch norm would not do all that its "
        "Scaled does (1); leave it out"
    )


def test_one_process_keeps_its_batch_norm():
    network = ARCHITECTURE.build()
    synchronise(network, "resnet8", ALONE, CUDA)
    assert not any(isinstance(module, nn.SyncBatchNorm) for module in network.modules())
