"""A network's features: what its last Linear takes, and that Linear's product with it."""

import pytest
import torch
from torch import nn

from dive.errors import ModelError
from dive.models.features import FeatureNetwork
from dive.models.network import Network
from dive.models.registry import build_model

VIEWS = torch.randint(0, 256, (5, 3, 32, 32), dtype=torch.uint8, generator=torch.manual_seed(0))


def network_of(body: nn.Module) -> Network:
    return Network(body.eval(), (0.5,) * 3, (0.25,) * 3)


@pytest.mark.parametrize(
    ("name", "features"),
    [("resnet8", 64), ("imagenet/resnet10", 512), ("torchvision/mobilenet_v3_small", 1024)],
)
def test_features_times_weight_plus_bias_are_the_logits(name, features):
    network = network_of(build_model(name, 7))
    found = FeatureNetwork(network, VIEWS[:2])
    with torch.inference_mode():
        h, logits = found(VIEWS), network(VIEWS)
    assert found.count == features and h.shape == (5, features)
    torch.testing.assert_close(h @ found.weight.T + found.bias, logits)


def test_a_layer_without_bias_has_zeros_and_a_layer_called_by_name_is_followed():
    class Named(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.last = nn.Linear(3, 4, bias=False)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.last(input=x.mean((2, 3)))

    network = network_of(Named())
    found = FeatureNetwork(network, VIEWS)
    assert found.bias.tolist() == [0, 0, 0, 0]
    torch.testing.assert_close(found(VIEWS), network.normalised(VIEWS).mean((2, 3)))
    assert not network.body.last._forward_pre_hooks


@pytest.mark.parametrize("end", [nn.ReLU(), nn.Softmax(1), nn.Unflatten(1, (2, 2))])
def test_a_network_that_does_not_end_in_a_linear_is_refused(end):
    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4), end)
    with pytest.raises(ModelError, match="does not end in one torch.nn.Linear"):
        FeatureNetwork(network_of(body), VIEWS)


def test_a_linear_that_computes_otherwise_is_refused():
    class Cosine(nn.Linear):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return nn.functional.linear(nn.functional.normalize(x), nn.functional.normalize(self.weight))

    body = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), Cosine(3, 4))
    with pytest.raises(ModelError, match="a Cosine, does not give weight · input"):
        FeatureNetwork(network_of(body), VIEWS)


def test_the_mode_of_the_network_stays_as_it_was():
    network = network_of(build_model("resnet8", 4)).train()
    network.body.linear.eval()
    FeatureNetwork(network, VIEWS)
    assert network.training and network.body.training and not network.body.linear.training
