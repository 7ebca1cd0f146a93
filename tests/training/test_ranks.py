"""Shares of batches, the pass of a process that has none, and what a run's worlds are."""

from types import SimpleNamespace

import numpy as np
import pytest
import ranks
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from dive.errors import DiveError, ModelError, PeerError
from dive.models.network import Network
from dive.recipe.recipe import Schedule
from dive.training.ranks import ALONE, Ranks, ranks_on
from dive.training.saved_state import worlds_with
from dive.training.schedule import share_of
from dive.training.shared import SharedNetwork, has_batch_norm, synchronise
from dive.training.spec import RunSpec
from dive.world import World

CPU = torch.device("cpu")


@given(count=st.integers(0, 300), size=st.integers(1, 12))
def test_shares_are_those_of_numpys_array_split(count, size):
    order = np.arange(count)
    for rank, expected in enumerate(np.array_split(order, size)):
        assert order[share_of(count, rank, size)].tolist() == expected.tolist()


@given(
    samples=st.integers(1, 60), batch=st.integers(1, 20), accumulate=st.integers(1, 5), size=st.integers(1, 7)
)
def test_each_sample_of_an_epoch_is_in_one_share(samples, batch, accumulate, size):
    spec = RunSpec.__new__(RunSpec)
    object.__setattr__(spec, "schedule", Schedule(batch_size=batch, accumulate=min(accumulate, batch)))
    object.__setattr__(spec, "hashes", np.zeros(samples))
    seen, sizes = [], []
    for step in range(spec.steps_per_epoch):
        shares = [spec.shares(step, rank, size) for rank in range(size)]
        assert {len(parts) for parts in shares} == {len(spec.parts(step))}  # as many passes everywhere
        of_step = [place for parts in shares for share in parts for place in range(samples)[share]]
        assert sorted(of_step) == list(range(samples))[step * batch : (step + 1) * batch]
        seen += of_step
        sizes += [share.stop - share.start for parts in shares for share in parts]
    assert sorted(seen) == list(range(samples))
    assert spec.largest_share(size) == max(sizes)
    assert spec.smallest_share(size) == min(filter(None, sizes))


def test_each_machine_has_one_process_that_is_its_first():
    worlds = [World(rank, 4, rank % 2, 2) for rank in range(4)]
    assert [Ranks(world).first_here for world in worlds] == [True, False, True, False]
    assert ALONE.first_here


def network() -> Network:
    """A small one with batch norm, in training."""
    body = nn.Sequential(nn.Conv2d(1, 4, 3), nn.BatchNorm2d(4), nn.Flatten(), nn.Linear(4 * 36, 3))
    return Network(body, (0.5,), (0.5,)).train()


SPEC = SimpleNamespace(
    architecture=SimpleNamespace(channels=1), images=SimpleNamespace(space=SimpleNamespace(shape=(8, 8)))
)


def test_a_pass_over_nothing_has_gradients_of_zero_and_leaves_batch_norm_alone():
    net = network()
    before = {name: value.clone() for name, value in net.state_dict().items()}
    SharedNetwork(net, ALONE, SPEC).pass_nothing().backward()
    gradients = [parameter.grad for parameter in net.parameters()]
    assert gradients and all(gradient is not None and not gradient.any() for gradient in gradients)
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert net.training and all(module.training for module in net.modules())


def test_processes_that_cannot_exchange_say_so_before_the_first_pass(monkeypatch):
    """Batch norm that is synchronised meets the others in any pass."""

    def refuse(self: Ranks, device: torch.device) -> None:
        raise DiveError("no exchange")

    monkeypatch.setattr(Ranks, "require_exchange", refuse)
    net, passes = network(), []
    net.register_forward_hook(lambda *_: passes.append(1))
    with pytest.raises(DiveError, match="no exchange"):
        SharedNetwork(net, Ranks(World(rank=0, size=2)), SPEC)
    assert passes == []


def test_synchronised_batch_norm_is_refused_on_a_cpu_and_batch_norm_is_known():
    with pytest.raises(ModelError, match="torch has no synchronised batch norm on a CPU"):
        synchronise(network(), "own:network", ALONE, CPU)
    assert has_batch_norm(network()) and not has_batch_norm(nn.Linear(2, 2))


@pytest.mark.parametrize(
    ("before", "epoch", "size", "after"),
    [
        ([], 1, 1, [[1, 1]]),
        ([[1, 4]], 31, 4, [[1, 4]]),
        ([[1, 4]], 31, 2, [[1, 4], [31, 2]]),
        ([[1, 4], [31, 2]], 31, 3, [[1, 4], [31, 3]]),  # no epoch was done by two
        ([[1, 4], [31, 2]], 31, 4, [[1, 4]]),
        ([[1, 4]], 1, 2, [[1, 2]]),
    ],
)
def test_worlds_say_from_which_epoch_on_there_were_how_many(before, epoch, size, after):
    assert worlds_with(before, epoch, size) == after


def _collectives() -> None:
    with ranks_on(CPU) as world:
        assert world.tell({"rank": world.rank}) == {"rank": 0}
        assert world.sum(torch.tensor([1, world.rank])).tolist() == [3, 3]
        assert world.from_first(lambda: world.rank) == 0
        assert world.gathered(world.rank * 10) == [0, 10, 20]
        with world.one_a_machine_first():
            pass
        module = network()
        module.body[1].running_mean.fill_(world.rank + 1)
        world.share_buffers(module)
        assert module.body[1].running_mean.tolist() == [1.0] * 4
        world.require_same({"a": 1}, "nothing")
        with pytest.raises(ZeroDivisionError if world.first else PeerError):
            world.from_first(lambda: 1 / 0)


def test_processes_tell_each_other_what_they_should():
    ranks.called(3, _collectives)


def _buffers_of_an_empty_share() -> None:
    """One image for three processes: two have none, and their batch norms see nothing."""
    with ranks_on(CPU) as world:
        torch.manual_seed(0)
        net = network()
        shared = SharedNetwork(net, world, SPEC)
        shared.join()
        views = (torch.arange(64).reshape(1, 1, 8, 8) ** 2 % 251).to(torch.uint8)
        with shared.passing(last=True):
            loss = shared(views).sum() * world.size if world.first else shared.pass_nothing()
            loss.backward()
        torch.manual_seed(0)
        alone = network()
        alone(views).sum().backward()
        for one, other in zip(net.parameters(), alone.parameters(), strict=True):
            torch.testing.assert_close(one.grad, other.grad)
        expected = (alone if world.first else network()).body[1].running_mean
        torch.testing.assert_close(net.body[1].running_mean, expected)


def test_an_empty_share_adds_nothing_to_the_gradients_and_to_statistics():
    ranks.called(3, _buffers_of_an_empty_share)
