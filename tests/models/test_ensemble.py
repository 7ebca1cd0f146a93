"""An ensemble: the mean of its networks' logits, or their features under the head that gives it."""

import pytest
import torch

from dive.errors import ModelError
from dive.models.ensemble import Ensemble
from dive.models.features import features_of
from dive.models.network import Architecture, Network

SHARES = [None, [0.2, 0.8]]


def networks() -> list[Network]:
    """Two of other architectures, which see the same views in other sizes and normalisations."""
    given = [
        Architecture("resnet8", 10, 1, (0.3,), (0.4,)),
        Architecture("resnet14", 10, 1, (0.1,), (0.9,), size=12),
    ]
    return [one.build(seed).eval() for seed, one in enumerate(given)]


def views(count: int = 5) -> torch.Tensor:
    generator = torch.Generator().manual_seed(0)
    return torch.randint(0, 256, (count, 1, 8, 8), dtype=torch.uint8, generator=generator)


def mean(members: list[Network], shares: list[float] | None) -> torch.Tensor:
    """The mean of the logits of views, in float64."""
    first, second = (member(views()).double() for member in members)
    return (first + second) / 2 if shares is None else shares[0] * first + shares[1] * second


@pytest.mark.parametrize("shares", SHARES)
@torch.no_grad()
def test_it_gives_the_mean_of_its_networks_logits(shares):
    members = networks()
    logits = Ensemble(members, shares)(views())
    torch.testing.assert_close(logits.double(), mean(members, shares), rtol=1e-5, atol=1e-6)
    assert not torch.allclose(members[0](views()), logits, atol=1e-3)


@pytest.mark.parametrize("shares", SHARES)
@torch.no_grad()
def test_its_features_and_their_head_give_that_mean(shares):
    members = networks()
    found = features_of(Ensemble(members, shares), views(2))
    features = found(views())
    assert features.shape == (5, found.count) == (5, 128)
    logits = features.double() @ found.weight.double().T + found.bias.double()
    torch.testing.assert_close(logits, mean(members, shares), rtol=1e-5, atol=1e-5)


def test_it_sees_as_much_as_the_network_that_sees_most_and_its_mode_is_theirs():
    members = networks()
    ensemble = Ensemble(members)
    assert ensemble.sees((8, 8)) == features_of(ensemble, views(2)).sees((8, 8)) == (12, 12)
    assert ensemble.sees((20, 20)) == (20, 20)
    assert all(member.training for member in ensemble.train().networks)
    assert not any(member.training for member in ensemble.eval().networks)


def test_shares_that_are_not_one_a_network_are_refused():
    with pytest.raises(ValueError, match="2 networks have 1 shares"):
        Ensemble(networks(), [1.0])


def test_one_network_without_a_last_linear_leaves_an_ensemble_without_features():
    members = networks()
    members[1].body.add_module("linear", torch.nn.Sequential(torch.nn.LazyLinear(10), torch.nn.Tanh()))
    with torch.no_grad():
        members[1](views(2))
    with pytest.raises(ModelError, match="does not end in one"):
        features_of(Ensemble(members), views(2))
