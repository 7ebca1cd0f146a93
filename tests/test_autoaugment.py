"""AutoAugment and Cutout against torchvision's own transforms, image by image, with the same draws."""

import functools
from pathlib import Path

import chain
import folders
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision.transforms import AutoAugment, AutoAugmentPolicy
from torchvision.transforms import functional as transforms

from dive import recipe
from dive.autoaugment import AutoAugmentCutout, _draws, _Tables
from dive.logit_cache import LogitCache
from dive.randomness import hash64
from dive.views import CropFlip, FreeViews, ViewedImages, view_space

POLICY = AutoAugment(AutoAugmentPolicy.CIFAR10)
IDS = st.integers(1, 2**62 - 1)


@functools.cache
def images(height: int = 32, width: int = 32) -> np.ndarray:
    """Noise, a ramp, one colour, two colours, dark and light images, (8, H, W, 3) uint8."""
    generator = np.random.default_rng(0)
    noise = generator.integers(0, 256, (3, height, width, 3))
    ramp = np.linspace(0, 255, height * width * 3).reshape(1, height, width, 3)
    plain = np.full((1, height, width, 3), 137)
    halves = np.where(np.arange(width)[:, None] < width // 2, [3, 200, 90], [250, 201, 90])
    smooth = generator.integers(0, 80, (1, 4, 4, 3)).repeat(-(-height // 4), 1).repeat(-(-width // 4), 2)
    light = 255 - smooth // 3
    whole = [noise, ramp, plain, np.broadcast_to(halves, (1, height, width, 3))]
    return np.concatenate([*whole, smooth[:, :height, :width], light[:, :height, :width]]).astype(np.uint8)


def hashed(number: int) -> list[int]:
    """The eight draws of a view id, by NumPy's unsigned integers."""
    return (hash64(number, np.arange(8, dtype=np.uint64)) >> np.uint64(11)).tolist()


def by_torchvision(image: np.ndarray, number: int, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """The view of id `number` of an image (H, W, 3), padded by 4 and flipped, from PIL-like single steps."""
    height, width = image.shape[:2]
    crop, policy, chance_1, chance_2, sign_1, sign_2, hole_y, hole_x = hashed(number)
    crop %= 162
    dy, dx, flip = crop // 18, crop // 2 % 9, crop % 2
    padded = np.pad(image, ((4, 4), (4, 4), (0, 0)))
    cut = padded[dy : dy + height, dx : dx + width]
    cut = cut[:, ::-1] if flip else cut
    # torchvision draws uniform numbers p <= chance; ours are below it. Equal ones do not occur.
    draws = (
        policy % 25,
        torch.tensor([chance_1 / 2**53, chance_2 / 2**53]),
        torch.tensor([sign_1 % 2, sign_2 % 2]),
    )
    monkeypatch.setattr(POLICY, "get_params", lambda _: draws)
    tensor = POLICY(torch.from_numpy(cut.copy()).permute(2, 0, 1))
    result = tensor.permute(1, 2, 0).numpy().copy()
    y, x = hole_y % height, hole_x % width
    result[max(0, y - height // 4) : y + height // 4, max(0, x - width // 4) : x + width // 4] = 0
    return result


def render(
    space: AutoAugmentCutout, rows: list[int], ids: list[int], shape: tuple[int, int] = (32, 32)
) -> np.ndarray:
    prepared = space.prepare(torch.from_numpy(images(*shape)))
    return space.render(prepared, torch.tensor(rows), torch.tensor(ids)).numpy()


@pytest.mark.parametrize("shape", [(32, 32), (24, 40)])
def test_views_are_those_of_torchvisions_policy(shape, monkeypatch):
    space = AutoAugmentCutout(4, True, *shape)
    numbers = (hash64(7, np.arange(600, dtype=np.uint64)) >> np.uint64(2)).astype(np.int64).tolist()
    rows = [i % len(images()) for i in range(len(numbers))]
    views = render(space, rows, numbers, shape)
    for row, number, view in zip(rows, numbers, views, strict=True):
        expected = by_torchvision(images(*shape)[row], number, monkeypatch)
        np.testing.assert_array_equal(view, expected, err_msg=f"image {row}, view {number}")


def every_operation() -> list[tuple[str, int | None, int]]:
    found = {(name, step, sign) for pair in POLICY.policies for name, _, step in pair for sign in (0, 1)}
    return sorted(found, key=str)


@pytest.mark.parametrize(("name", "step", "sign"), every_operation())
def test_every_operation_of_the_policy_is_torchvisions(name, step, sign):
    tables: _Tables = AutoAugmentCutout(4, True, 32, 32)._tables
    place = next(
        (i, k) for i, pair in enumerate(POLICY.policies) for k in (0, 1) if pair[k][::2] == (name, step)
    )
    number = tables.operations[(*place, sign)]
    batch = torch.from_numpy(images())
    steps, signed = POLICY._augmentation_space(10, (32, 32))[name]
    magnitude = 0.0 if step is None else float(steps[step]) * (-1 if signed and sign == 0 else 1)
    found = tables.apply(batch, number.expand(len(batch)))
    from torchvision.transforms.autoaugment import _apply_op

    for image, ours in zip(batch, found, strict=True):
        theirs = _apply_op(
            image.permute(2, 0, 1), name, magnitude, transforms.InterpolationMode.NEAREST, None
        )
        assert torch.equal(ours, theirs.permute(1, 2, 0))


def test_the_identity_changes_nothing():
    tables = AutoAugmentCutout(4, True, 32, 32)._tables
    batch = torch.from_numpy(images())
    assert torch.equal(tables.apply(batch, torch.zeros(len(batch), dtype=torch.int64)), batch)


@given(st.lists(st.integers(0, 2**62 - 1), min_size=1, max_size=5))
def test_draws_are_hashes_of_the_id(numbers):
    assert _draws(torch.tensor(numbers)).tolist() == [hashed(number) for number in numbers]


def test_draws_are_even():
    draws = _draws(torch.arange(1, 40_001)).numpy()
    for column, sides in zip(draws.T, (162, 25, 10, 10, 2, 2, 32, 32), strict=True):
        scaled = column * sides // 2**53 if sides == 10 else column % sides
        expected = len(draws) / sides
        chi_squared = ((np.bincount(scaled.astype(int), minlength=sides) - expected) ** 2 / expected).sum()
        assert chi_squared < sides + 5 * np.sqrt(2 * sides) + 10


@settings(max_examples=25)
@given(st.lists(st.tuples(st.integers(0, 7), IDS | st.just(0)), min_size=1, max_size=6))
def test_a_view_does_not_depend_on_its_batch(asked):
    space = AutoAugmentCutout(4, True, 32, 32)
    together = render(space, *map(list, zip(*asked, strict=True)))
    for (row, number), view in zip(asked, together, strict=True):
        np.testing.assert_array_equal(render(space, [row], [number])[0], view)


def test_the_clean_view_is_the_image():
    space = AutoAugmentCutout(4, True, 32, 32)
    np.testing.assert_array_equal(render(space, list(range(8)), [space.clean_id] * 8), images())


def test_a_recipe_names_the_space_and_free_views_are_drawn_from_it():
    space = view_space(recipe.Views(kind="autoaugment"), (32, 32, 3))
    assert isinstance(space, AutoAugmentCutout) and space.size is None
    assert space.describe() == CropFlip(4, True, 32, 32).describe() | {"kind": "autoaugment"}
    hashes = hash64(1, np.arange(1000, dtype=np.uint64))
    ids, columns = FreeViews(space).draw(0, 1, hashes)
    assert len(set(ids.tolist())) == 1000 and ids.min() > 0 and not columns.any()
    assert not np.array_equal(ids, FreeViews(space).draw(0, 2, hashes)[0])


def test_batches_are_normalised_as_of_any_space():
    viewed = ViewedImages(
        images(), AutoAugmentCutout(4, True, 32, 32), (0.5,) * 3, (0.25,) * 3, torch.device("cpu")
    )
    batch = viewed.batch(torch.arange(8), torch.arange(8))
    pixels = torch.from_numpy(render(AutoAugmentCutout(4, True, 32, 32), list(range(8)), list(range(8))))
    torch.testing.assert_close(batch, (pixels.permute(0, 3, 1, 2) / 255 - 0.5) / 0.25)


def test_a_student_learns_from_fifty_stored_views_that_the_teacher_says_again():
    config = folders.write_recipe(Path("insects.yaml"), folders.write_images(Path("images")))
    told = ("--config", config, "--precision", "fp32", "--set", "views.kind=autoaugment", "--quiet")
    chain.succeed("teacher", *told)
    record = chain.succeed("export-logits", *told, "--json").document
    assert record["shape"] == [16, 50, 3] and record["identity"]["views"] == "50"
    cache = LogitCache(Path("cache/insects.h5"))
    assert cache.views.dtype == np.int64 and len(set(cache.views.ravel().tolist())) == 16 * 50
    teacher = Path("checkpoints/insects/teacher.pt")
    said = chain.succeed(
        "verify", cache.path, "--sample", 300, "--teacher", teacher, "--json", "--quiet"
    ).document
    assert said["sampled"]["agreement"] == 1 and said["sampled"]["largest"] < 0.01
    assert chain.succeed("student", *told, "--json").document["kind"] == "student"
    chain.succeed("export-logits", *told, "--views", "clean", "--out", "clean.h5")
    chain.succeed("student", *told, "--cache", "clean.h5", "--free-views", "--out", "free.pt")
    complaint = chain.dive("export-logits", *told, "--views", "all", "--out", "all.h5").complaint
    assert "there is no end of these views" in complaint
    plain = tuple("views.kind=crop_flip" if word == "views.kind=autoaugment" else word for word in told)
    complaint = chain.dive("student", *plain, "--out", "other.pt", "--cache", cache.path).complaint
    assert "views.kind: autoaugment, now crop_flip" in complaint
