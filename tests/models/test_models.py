"""The network: its size by hand, its arithmetic against plain NumPy, its initial weights."""

import math

import numpy as np
import pytest
import torch

from dive.models.registry import build_model, parameter_count
from dive.models.resnet import BasicBlock


def test_resnet32_has_the_papers_0_47_million_parameters():
    def block(inputs: int, width: int) -> int:
        return (inputs * width * 9 + 2 * width) + (width * width * 9 + 2 * width)

    stem = 3 * 16 * 9 + 2 * 16
    stages = 5 * block(16, 16) + block(16, 32) + 4 * block(32, 32) + block(32, 64) + 4 * block(64, 64)
    linear = 64 * 100 + 100
    assert stem + stages + linear == 470_004
    assert parameter_count(build_model("resnet32", 100)) == 470_004


def test_resnet32_multiplies_68_9_million_times_an_image():
    model, products = build_model("resnet32", 100).eval(), []

    def count(module: torch.nn.Module, _: tuple, output: torch.Tensor) -> None:
        products.append(module.weight[0].numel() * output[0].numel())

    for module in model.modules():
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear):
            module.register_forward_hook(count)
    with torch.inference_mode():
        model(torch.zeros(1, 3, 32, 32))
    assert len(products) == 32  # weighted layers, which is what the name counts
    assert round(sum(products) / 1e6, 1) == 68.9


@pytest.mark.parametrize(("name", "layers"), [("resnet8", 8), ("resnet20", 20), ("resnet56", 56)])
def test_the_name_gives_the_depth(name, layers):
    model = build_model(name, 10, channels=1)
    weighted = [m for m in model.modules() if isinstance(m, torch.nn.Conv2d | torch.nn.Linear)]
    assert len(weighted) == layers
    assert weighted[0].in_channels == 1 and weighted[-1].out_features == 10


def naive_shortcut(x: np.ndarray, outputs: int) -> np.ndarray:
    """Option A: every second pixel, the new channels zero, half of them before the old ones."""
    batch, inputs, height, width = x.shape
    y = np.zeros((batch, outputs, (height + 1) // 2, (width + 1) // 2))
    for b, c, i, j in np.ndindex(batch, inputs, y.shape[2], y.shape[3]):
        y[b, (outputs - inputs) // 2 + c, i, j] = x[b, c, 2 * i, 2 * j]
    return y


@pytest.mark.parametrize(("inputs", "outputs", "side"), [(16, 32, 8), (32, 64, 4), (2, 5, 7)])
def test_the_shortcut_of_a_wider_block_is_option_a(inputs, outputs, side):
    block = BasicBlock(inputs, outputs, stride=2).eval()
    torch.nn.init.zeros_(block.conv2.weight)  # nothing but the shortcut reaches the output
    x = np.random.default_rng(0).standard_normal((2, inputs, side, side)).astype(np.float32)
    with torch.inference_mode():
        found = block(torch.from_numpy(x)).numpy()
    np.testing.assert_array_equal(found, np.maximum(naive_shortcut(x, outputs), 0))


def test_the_shortcut_of_an_equal_block_is_the_input():
    block = BasicBlock(4, 4, stride=1).eval()
    torch.nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6, generator=torch.Generator().manual_seed(0))
    assert torch.equal(block(x), x.clamp_min(0))


def naive_conv(x: np.ndarray, weight: np.ndarray, stride: int) -> np.ndarray:
    """3×3 convolution with a border of zeros: x (B, I, H, W), weight (O, I, 3, 3)."""
    height, width = x.shape[2:]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    shifted = [
        np.einsum("bihw,oi->bohw", padded[:, :, dy : dy + height, dx : dx + width], weight[:, :, dy, dx])
        for dy in range(3)
        for dx in range(3)
    ]
    return sum(shifted)[:, :, ::stride, ::stride]


def naive_forward(state: dict[str, np.ndarray], x: np.ndarray) -> np.ndarray:
    """ResNet-8 in eval mode, from a state dict, in float64: three stages of one block."""

    def norm(y: np.ndarray, name: str) -> np.ndarray:
        of = {part: state[f"{name}.{part}"][:, None, None] for part in ("running_mean", "running_var")}
        scale, shift = state[f"{name}.weight"][:, None, None], state[f"{name}.bias"][:, None, None]
        return (y - of["running_mean"]) / np.sqrt(of["running_var"] + 1e-5) * scale + shift

    y = np.maximum(norm(naive_conv(x, state["conv.weight"], 1), "bn"), 0)
    for block, (outputs, stride) in enumerate([(16, 1), (32, 2), (64, 2)]):
        inner = np.maximum(
            norm(naive_conv(y, state[f"blocks.{block}.conv1.weight"], stride), f"blocks.{block}.bn1"), 0
        )
        inner = norm(naive_conv(inner, state[f"blocks.{block}.conv2.weight"], 1), f"blocks.{block}.bn2")
        y = np.maximum(inner + (y if stride == 1 else naive_shortcut(y, outputs)), 0)
    return y.mean(axis=(2, 3)) @ state["linear.weight"].T + state["linear.bias"]


def test_a_whole_network_agrees_with_plain_numpy():
    model = build_model("resnet8", 7, seed=3).double()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(8, 3, 12, 12, generator=generator, dtype=torch.float64)
    for _ in range(3):
        model(x)  # moves the batch statistics off their beginning
    for module in model.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(module.weight, 0.5, 1.5, generator=generator)
            torch.nn.init.uniform_(module.bias, -0.5, 0.5, generator=generator)
    state = {name: tensor.numpy() for name, tensor in model.eval().state_dict().items()}
    with torch.inference_mode():
        np.testing.assert_allclose(model(x), naive_forward(state, x.numpy()), rtol=1e-9, atol=1e-9)


def test_weights_are_kaiming_normal_and_nothing_else_is_random_but_the_bias():
    model = build_model("resnet32", 100)
    for name, parameter in model.named_parameters():
        if name == "linear.bias":
            assert parameter.abs().max() <= 1 / math.sqrt(64) and parameter.std() > 0
        elif parameter.dim() > 1:
            fan_in = parameter[0].numel()
            spread = math.sqrt(2 / fan_in)
            error = spread / math.sqrt(2 * parameter.numel())  # of a standard deviation, from n draws
            assert abs(parameter.std().item() - spread) < 5 * error, name
            assert abs(parameter.mean().item()) < 5 * spread / math.sqrt(parameter.numel()), name
            assert parameter.abs().max() > 2.5 * spread, name  # a normal has tails, a uniform ends at 1.73
        else:
            assert torch.equal(parameter, torch.full_like(parameter, float("weight" in name))), name


def test_the_seed_alone_decides_the_initial_weights():
    def weights(seed: int) -> torch.Tensor:
        return torch.cat([p.flatten() for p in build_model("resnet8", 10, seed=seed).parameters()])

    first = weights(1)
    torch.rand(17)
    assert torch.equal(weights(1), first)
    assert not torch.equal(weights(2), first)


def test_building_leaves_the_global_random_state_as_it_was():
    torch.manual_seed(5)
    before = torch.get_rng_state()
    build_model("resnet8", 10, seed=9)
    assert torch.equal(torch.get_rng_state(), before)


def test_the_memory_layout_does_not_change_the_answer():
    model = build_model("resnet8", 10).eval().double()
    x = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    with torch.inference_mode():
        plain = model(x)
        last = model.to(memory_format=torch.channels_last)(x.contiguous(memory_format=torch.channels_last))
    np.testing.assert_allclose(last, plain, rtol=1e-10, atol=1e-10)
