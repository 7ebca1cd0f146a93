"""A network with its input: its arithmetic against torchvision's and NumPy's, its sizes against PIL's."""

import copy

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision import transforms

from dive.models.network import Architecture, Network
from dive.models.registry import build_model

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)


def views(*shape: int, seed: int = 0) -> torch.Tensor:
    """Pixels of noise, uint8."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, shape, generator=generator).to(torch.uint8)


def network(size: int | None = None, channels: int = 3) -> Network:
    return Architecture("resnet8", 5, channels, MEAN[:channels], STD[:channels], size).build(seed=1).eval()


def test_views_are_normalised_as_torchvision_does_it():
    pixels = torch.arange(256).to(torch.uint8).expand(2, 3, 4, 256)  # every value there is, in each channel
    theirs = transforms.Compose(
        [transforms.ConvertImageDtype(torch.float64), transforms.Normalize(MEAN, STD)]
    )
    found = network().normalised(pixels)
    assert found.dtype == torch.float32 and found.shape == pixels.shape
    # Values up to 2.8, of a product and a sum in float32.
    torch.testing.assert_close(found.double(), theirs(pixels), rtol=0, atol=1e-6)


def test_one_channel_is_normalised_by_its_own_mean_and_deviation():
    pixels = views(4, 1, 8, 8)
    found = Architecture("resnet8", 3, 1, (0.3063,), (0.3753,)).build().normalised(pixels)
    expected = (pixels.numpy().astype(np.float64) / 255 - 0.3063) / 0.3753
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-6)


def test_the_answer_is_the_bodys_to_normalised_views():
    whole, pixels = network(), views(6, 3, 32, 32)
    with torch.inference_mode():
        logits = whole(pixels)
        assert logits.shape == (6, 5) and logits.dtype == torch.float32
        assert torch.equal(logits, whole.body(whole.normalised(pixels)))
        normalise = transforms.Normalize(MEAN, STD)
        torch.testing.assert_close(logits, whole.body(normalise(pixels / 255)), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int64, torch.bool])
def test_views_that_are_not_bytes_are_refused(dtype):
    with pytest.raises(TypeError, match=f"views are uint8 pixels, these are {dtype}".replace(".", r"\.")):
        network()(views(2, 3, 8, 8).to(dtype))


def test_the_layout_in_memory_does_not_change_what_views_are():
    pixels = views(4, 3, 12, 10)
    last = pixels.contiguous(memory_format=torch.channels_last)
    found = network().normalised(last)
    assert torch.equal(found, network().normalised(pixels))
    assert found.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("shape", [(32, 32), (40, 24), (8, 8), (17, 33)])
@pytest.mark.parametrize("size", [8, 24])
def test_views_of_another_size_are_resized_as_pil_resizes_them(shape, size):
    pixels = views(2, 3, *shape)
    found = network(size).normalised(pixels)
    assert found.shape == (2, 3, size, size)
    back = (found * torch.tensor(STD)[:, None, None] + torch.tensor(MEAN)[:, None, None]) * 255
    for view, ours in zip(pixels, back, strict=True):
        for plane, resized in zip(view, ours, strict=True):
            image = Image.fromarray(plane.numpy().astype(np.float32))  # floats, which PIL does not round
            theirs = np.asarray(image.resize((size, size), Image.Resampling.BILINEAR))
            np.testing.assert_allclose(resized, theirs, rtol=0, atol=0.01)


def test_views_that_have_the_size_are_not_touched():
    pixels = views(3, 3, 24, 24)
    assert torch.equal(network(24).normalised(pixels), network().normalised(pixels))
    with torch.inference_mode():
        assert torch.equal(network(24)(pixels), network()(pixels))


def test_a_network_that_resizes_answers_to_views_of_any_size():
    with torch.inference_mode():
        for shape in ((8, 8), (24, 24), (50, 30)):
            assert network(24)(views(2, 3, *shape)).shape == (2, 5)


def test_a_state_dict_holds_the_body_alone():
    whole = network(24)
    assert {name.removeprefix("body.") for name in whole.state_dict()} == set(whole.body.state_dict())
    assert all(name.startswith("body.") for name in whole.state_dict())


def test_the_seed_alone_decides_the_weights_that_an_architecture_builds():
    architecture = Architecture("resnet8", 5, 3, MEAN, STD)
    state = architecture.build(seed=3).body.state_dict()
    for name, tensor in build_model("resnet8", 5, 3, seed=3).state_dict().items():
        assert torch.equal(state[name], tensor)
    other = architecture.build(seed=4).body.state_dict()
    assert not torch.equal(state["conv.weight"], other["conv.weight"])


def test_a_copy_of_a_network_and_one_of_another_type_normalise_alike():
    whole, pixels = network(), views(2, 3, 8, 8)
    assert torch.equal(copy.deepcopy(whole).normalised(pixels), whole.normalised(pixels))
    torch.testing.assert_close(
        copy.deepcopy(whole).double().normalised(pixels), whole.normalised(pixels).double(), rtol=0, atol=1e-5
    )
