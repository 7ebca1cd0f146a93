"""The last linear layer, found by what it gives."""

import pytest
import torch
import torchvision
from torch import nn

from dive.models.head import last_linear
from dive.models.registry import build_model


@pytest.mark.parametrize(
    ("name", "side", "head"),
    [
        ("resnet8", 8, "linear"),
        ("imagenet/resnet10", 32, "fc"),
        ("torchvision/resnet18", 32, "fc"),
        ("torchvision/mobilenet_v3_small", 32, "classifier.3"),
        ("torchvision/convnext_tiny", 32, "classifier.2"),
        ("torchvision/densenet121", 32, "classifier"),
        ("torchvision/vgg11", 32, "classifier.6"),
        ("torchvision/swin_t", 32, "head"),
        ("torchvision/vit_b_16", 224, "heads.head"),
        ("torchvision/squeezenet1_1", 32, None),  # its classes are a convolution's
    ],
)
def test_the_head_of_known_networks_is_found(name, side, head):
    body = build_model(name, 7)
    found = last_linear(body, torch.zeros(1, 3, side, side))
    assert found == head
    if head is not None:
        assert body.get_submodule(head).out_features == 7


@pytest.mark.parametrize(
    ("end", "head"),
    [
        (nn.Identity(), "1"),
        (nn.ReLU(), None),
        (nn.Softmax(1), None),
        (nn.Linear(4, 3), "2"),
        (nn.Unflatten(1, (2, 2)), None),
    ],
)
def test_what_follows_the_last_linear_decides(end, head):
    body = nn.Sequential(nn.Flatten(), nn.Linear(12, 4), end)
    assert last_linear(body, torch.zeros(1, 3, 2, 2)) == head


def test_looking_for_the_head_changes_nothing():
    body = torchvision.models.resnet18(num_classes=4).train()
    body.layer1.eval()
    before = {name: tensor.clone() for name, tensor in body.state_dict().items()}
    assert last_linear(body, torch.zeros(2, 3, 32, 32)) == "fc"
    assert body.training and not body.layer1.training and body.layer2.training
    assert all(torch.equal(before[name], tensor) for name, tensor in body.state_dict().items())
    assert not any(module._forward_hooks for module in body.modules())
    assert all(parameter.grad is None for parameter in body.parameters())


def test_what_goes_into_the_head_are_the_features_that_make_the_logits():
    body, pictures = build_model("resnet8", 6).eval(), torch.rand(3, 3, 8, 8)
    linear, features = body.get_submodule(last_linear(body, pictures)), []
    linear.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        logits = body(pictures)
        torch.testing.assert_close(features[0] @ linear.weight.T + linear.bias, logits)
