"""Resized crops against torchvision on PIL images: equal pixels for equal parameters, equal distributions."""

import contextlib
import doctest
import hashlib
import itertools
import json
import multiprocessing
import subprocess
import sys
from collections.abc import Iterator
from functools import cache

import chain
import numpy as np
import pytest
import torch
from conftest import noise
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from scipy import stats
from torchvision import transforms
from torchvision.transforms import functional

from dive.data.pictures import HeldPictures
from dive.errors import CacheError, DataError, RecipeError
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.recipe import recipe
from dive.recipe.reading import load
from dive.views import resized_crop
from dive.views.registry import described_space, view_space
from dive.views.resized_crop import CentreCrop, ResizedCrop
from dive.views.space import require_same

CPU = torch.device("cpu")
SCALE, RATIO = (0.08, 1.0), (3 / 4, 4 / 3)
STRENGTHS = (0.4, 0.4, 0.4, 0.0)
IDS = st.integers(1, 2**62 - 1)
ADJUST = {
    "brightness": functional.adjust_brightness,
    "contrast": functional.adjust_contrast,
    "saturation": functional.adjust_saturation,
    "hue": functional.adjust_hue,
}
SHAPES = [
    (375, 500),
    (333, 120),
    (48, 31),
    (7, 5),
    (1, 1),
    (1, 90),
    (100, 1),
    (20, 1990),
    (224, 224),
    (257, 256),
]


def space_of(size=32, scale=SCALE, ratio=RATIO, flip=True, jitter=STRENGTHS) -> ResizedCrop:
    return ResizedCrop(None, size, scale, ratio, flip, jitter)


@cache
def picture(height: int, width: int, channels: int = 3) -> np.ndarray:
    """Smooth waves with noise, (H, W, channels) uint8."""
    y, x, channel = np.ogrid[:height, :width, :channels]
    waves = 120 + 70 * np.sin(x / 9 + channel) + 50 * np.cos(y / 13 - channel)
    return (
        (waves + np.random.default_rng(height).integers(-15, 16, waves.shape)).clip(0, 255).astype(np.uint8)
    )


def pil(pixels: np.ndarray) -> Image.Image:
    return Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)


def pixels_of(image: Image.Image) -> np.ndarray:
    return np.asarray(image).reshape(image.height, image.width, -1)


def by_torchvision(space: ResizedCrop, pixels: np.ndarray, view_id: int) -> np.ndarray:
    """A view by torchvision's functions on a PIL image, with the parameters that the space draws."""
    drawn = space.drawn(view_id, *pixels.shape[:2])
    image = functional.resized_crop(pil(pixels), *drawn.box, list(space.shape))
    image = functional.hflip(image) if drawn.mirrored else image
    for operation, factor in drawn.jitter:
        image = ADJUST[operation](image, factor)
    return pixels_of(image)


def ids_of(seed: int, count: int) -> list[int]:
    return np.random.default_rng(seed).integers(1, 2**62, count).tolist()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_views_are_torchvisions_for_the_same_parameters(shape, channels):
    pixels = picture(*shape, channels)
    for size, jitter in ((32, STRENGTHS), (47, (0.8, 0.8, 0.8, 0.2)), (20, (3.0, 2.0, 0.0, 0.5))):
        space = space_of(size, jitter=jitter)
        for view_id in [*range(1, 25), *ids_of(size, 25)]:
            found = space.view(pixels, view_id)
            assert found.shape == (size, size, channels) and found.dtype == np.uint8 and found.flags.writeable
            np.testing.assert_array_equal(found, by_torchvision(space, pixels, view_id), err_msg=f"{view_id}")


def test_views_of_224_pixels_are_torchvisions():
    space, pixels = space_of(224, jitter=(0.4, 0.4, 0.4, 0.1)), picture(375, 500)
    for view_id in ids_of(0, 30):
        np.testing.assert_array_equal(space.view(pixels, view_id), by_torchvision(space, pixels, view_id))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
def test_a_pillow_image_has_the_views_of_its_pixels_and_stays_as_it_is(shape, channels):
    pixels, space = picture(*shape, channels), space_of(24, jitter=(0.4, 0.4, 0.4, 0.1))
    image = pil(pixels)
    for view_id in [0, *ids_of(11, 20)]:
        np.testing.assert_array_equal(space.view(image, view_id), space.view(pixels, view_id))
    np.testing.assert_array_equal(pixels_of(image), pixels)


@pytest.mark.parametrize("factor", [0.0, 0.3, 1.0, 1.0001, 1.4, 3.7])
@pytest.mark.parametrize("name", list(ADJUST)[:3])
def test_every_value_is_blended_as_pillow_does(name, factor):
    """A picture with each level of every channel, of a mean that is rounded."""
    levels = np.arange(256, dtype=np.uint8)
    colours = np.stack([levels, levels[::-1], np.roll(levels, 77)], axis=-1).reshape(16, 16, 3)
    for pixels in (colours, colours[..., :1]):
        found = resized_crop._OPERATIONS[name](pil(pixels), factor)
        np.testing.assert_array_equal(pixels_of(found), pixels_of(ADJUST[name](pil(pixels), factor)))


def test_every_order_of_operations_occurs_and_is_followed():
    space, pixels = space_of(16, jitter=(0.9, 0.9, 0.9, 0.5)), picture(40, 60)
    seen = {}
    for view_id in range(1, 400):
        order = tuple(operation for operation, _ in space.drawn(view_id, 40, 60).jitter)
        if seen.setdefault(order, view_id) == view_id:
            np.testing.assert_array_equal(space.view(pixels, view_id), by_torchvision(space, pixels, view_id))
    assert seen.keys() == set(itertools.permutations(ADJUST))


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("size", [8, 32, 224])
def test_the_clean_view_is_torchvisions_resize_and_centre_crop(shape, size, channels):
    pixels = picture(*shape, channels)
    test = transforms.Compose([transforms.Resize(round(size * 256 / 224)), transforms.CenterCrop(size)])
    expected = pixels_of(test(pil(pixels)))
    space = space_of(size)
    assert (space.clean.size, space.clean.clean_id, space.clean.shape) == (1, 0, (size, size))
    np.testing.assert_array_equal(space.clean.view(pixels, 0), expected)
    np.testing.assert_array_equal(space.view(pixels, space.clean_id), expected)


def test_the_clean_view_of_224_pixels_is_the_centre_of_256():
    photograph = picture(256, 300)
    expected = photograph[16:240, 38:262]  # nothing to resize: the middle
    np.testing.assert_array_equal(CentreCrop(224).view(photograph, 0), expected)


def test_saturation_and_hue_leave_grey_pictures_as_they_are():
    grey, space = picture(50, 40, 1), space_of(jitter=(0.0, 0.0, 0.9, 0.5))
    plain = space_of(jitter=(0, 0, 0, 0))
    for view_id in range(1, 20):
        np.testing.assert_array_equal(space.view(grey, view_id), plain.view(grey, view_id))


def test_an_operation_of_strength_0_is_left_out():
    for left_out, name in enumerate(ADJUST):
        strengths = [0.3] * 4
        strengths[left_out] = 0
        for view_id in range(1, 30):
            whole = space_of(jitter=(0.3,) * 4).drawn(view_id, 30, 30).jitter
            assert space_of(jitter=strengths).drawn(view_id, 30, 30).jitter == tuple(
                pair for pair in whole if pair[0] != name
            )
    assert space_of(jitter=(0, 0, 0, 0)).drawn(5, 30, 30).jitter == ()


def test_no_view_is_mirrored_without_flip_and_all_else_stays():
    for view_id in range(1, 60):
        one, other = (space_of(flip=flip).drawn(view_id, 90, 70) for flip in (True, False))
        assert not other.mirrored and (one.box, one.jitter) == (other.box, other.jitter)


@pytest.mark.parametrize(
    ("scale", "ratio"),
    [
        ((1e-4, 1e-4), RATIO),
        ((1.0, 1.0), (100.0, 100.0)),
        ((1.0, 1.0), (0.01, 0.01)),
        ((0.5, 0.5), (0.01, 0.01)),
    ],
)
@pytest.mark.parametrize("shape", [(1, 1), (3, 400), (400, 3), (50, 50)])
def test_the_crop_is_never_empty_nor_reaches_outside(shape, scale, ratio):
    height, width = shape
    for view_id in range(1, 200):
        top, left, tall, wide = space_of(scale=scale, ratio=ratio).drawn(view_id, height, width).box
        assert 0 <= top <= height - tall < height and 0 <= left <= width - wide < width


@pytest.mark.parametrize("shape", [(10, 1000), (1000, 10), (100, 170), (3, 30)])
def test_where_no_try_fits_the_crop_is_torchvisions_centre(shape):
    """No crop of the whole area with these ratios is within an image of these shapes."""
    height, width = shape
    image = Image.new("L", (width, height))
    expected = transforms.RandomResizedCrop.get_params(image, [1.0, 1.0], [1.0, 1.1])
    for view_id in range(1, 20):
        assert space_of(scale=(1, 1), ratio=(1.0, 1.1)).drawn(view_id, height, width).box == expected


# --- Distributions ---

COUNT = 6000


@contextlib.contextmanager
def torch_seeded(seed: int) -> Iterator[None]:
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        yield


def alike(ours: list[float], theirs: list[float]) -> None:
    """Two samples that a Kolmogorov–Smirnov test does not tell apart, at one in a thousand."""
    assert stats.ks_2samp(ours, theirs).pvalue > 1e-3


CROPS = [
    ((375, 500), SCALE, RATIO),
    ((500, 375), (0.2, 0.6), (0.5, 2.0)),
    ((100, 300), SCALE, RATIO),  # where some tries do not fit
    ((60, 600), (0.5, 1.0), RATIO),  # where none does, mostly
]


@pytest.mark.parametrize(("shape", "scale", "ratio"), CROPS)
def test_crops_have_the_distribution_of_torchvisions(shape, scale, ratio):
    height, width = shape
    space = space_of(scale=scale, ratio=ratio)
    ours = np.array([space.drawn(view_id, height, width).box for view_id in ids_of(1, COUNT)])
    image = Image.new("L", (width, height))
    with torch_seeded(2):
        draw = transforms.RandomResizedCrop.get_params
        theirs = np.array([draw(image, list(scale), list(ratio)) for _ in range(COUNT)])
    for one, other in zip(ours.T, theirs.T, strict=True):
        alike(one, other)
    for measure in (
        lambda top, left, tall, wide: tall * wide,
        lambda top, left, tall, wide: np.log(wide / tall),
        lambda top, left, tall, wide: top / np.maximum(height - tall, 1),
        lambda top, left, tall, wide: left / np.maximum(width - wide, 1) - top / np.maximum(height - tall, 1),
    ):
        alike(measure(*ours.T), measure(*theirs.T))


@pytest.mark.parametrize("shape", [(7, 9), (12, 5)])
def test_crops_of_tiny_pictures_have_the_sizes_of_torchvisions(shape):
    """If a side has only a few pixels, the rounding of it is visible."""
    image = Image.new("L", shape[::-1])
    with torch_seeded(8):
        theirs = [
            transforms.RandomResizedCrop.get_params(image, list(SCALE), list(RATIO)) for _ in range(COUNT)
        ]
    ours = [space_of().drawn(view_id, *shape).box for view_id in ids_of(9, COUNT)]
    counts = np.zeros((2, shape[0] + 1, shape[1] + 1))
    for which, boxes in enumerate((ours, theirs)):
        for _, _, tall, wide in boxes:
            counts[which, tall, wide] += 1
    table = counts.reshape(2, -1)
    assert stats.chi2_contingency(table[:, table.sum(axis=0) > 10]).pvalue > 1e-3


def test_top_and_left_are_drawn_evenly_and_each_on_its_own():
    space = space_of(scale=(0.25, 0.25), ratio=(1.0, 1.0))  # crops of 3×3 pixels
    table = np.zeros((4, 4))
    for view_id in ids_of(10, COUNT):
        top, left, tall, wide = space.drawn(view_id, 6, 6).box
        assert (tall, wide) == (3, 3)
        table[top, left] += 1
    assert stats.chisquare(table.ravel()).pvalue > 1e-3


@pytest.mark.parametrize("strengths", [(0.4, 0.4, 0.4, 0.1), (0.1, 1.5, 1.0, 0.5)])
def test_jitter_has_the_distribution_of_torchvisions(strengths):
    torchvisions = transforms.ColorJitter(*strengths)
    ranges = (torchvisions.brightness, torchvisions.contrast, torchvisions.saturation, torchvisions.hue)
    names = list(ADJUST)
    ours = [space_of(jitter=strengths).drawn(view_id, 30, 40).jitter for view_id in ids_of(3, COUNT)]
    with torch_seeded(4):
        theirs = [torchvisions.get_params(*ranges) for _ in range(COUNT)]
    for at, name in enumerate(names):
        alike([dict(jitter)[name] for jitter in ours], [params[1 + at] for params in theirs])
    orders = list(itertools.permutations(range(4)))
    counts = np.zeros((2, 24))
    for jitter, params in zip(ours, theirs, strict=True):
        counts[0, orders.index(tuple(names.index(name) for name, _ in jitter))] += 1
        counts[1, orders.index(tuple(params[0].tolist()))] += 1
    assert stats.chisquare(counts[0]).pvalue > 1e-3
    assert stats.chi2_contingency(counts).pvalue > 1e-3


def test_half_of_the_views_are_mirrored():
    mirrored = sum(space_of().drawn(view_id, 30, 40).mirrored for view_id in ids_of(5, COUNT))
    assert stats.binomtest(mirrored, COUNT, 0.5).pvalue > 1e-3


def quantities(space: ResizedCrop, ids: list[int]) -> np.ndarray:
    """What is drawn for each view as ranks in [0, 1): area, ratio, place, mirroring, order, factors."""
    rows = []
    for view_id in ids:
        drawn = space.drawn(view_id, 900, 1200)
        top, left, tall, wide = drawn.box
        order = [operation for operation, _ in drawn.jitter]
        factors = [dict(drawn.jitter)[name] for name in ADJUST]
        place = [top / (900 - tall + 1), left / (1200 - wide + 1)]
        first = order.index("brightness")
        rows.append([tall * wide, wide / tall, *place, drawn.mirrored, first, *factors])
    ranks = stats.rankdata(rows, axis=0, method="average")
    return (ranks - 0.5) / len(rows)


def independent(one: np.ndarray, other: np.ndarray) -> float:
    """The probability of a table of two quantities, each in quarters, if they are independent."""
    table = np.zeros((4, 4))
    np.add.at(table, ((one * 4).astype(int), (other * 4).astype(int)), 1)
    table = table[table.any(axis=1)][:, table.any(axis=0)]
    return stats.chi2_contingency(table).pvalue


@pytest.mark.parametrize("step", [1, 2, 2**20, 2**32, 2**61])
def test_views_of_ids_near_and_far_are_independent(step):
    """Every quantity of a view against every quantity of the view whose id differs by a step."""
    space = space_of(jitter=(0.4, 0.4, 0.4, 0.1))
    ids = [2 * i + 1 for i in range(4000)]
    ones, others = quantities(space, ids), quantities(space, [i + step for i in ids])
    values = [independent(a, b) for a in ones.T for b in others.T]
    assert len(values) == 100 and min(values) > 1e-3 / len(values)


def test_what_is_drawn_for_one_view_is_independent():
    """Except area and place, and ratio and place, which are bounded together by the size of the image."""
    drawn = quantities(space_of(scale=(0.05, 0.3), jitter=(0.4, 0.4, 0.4, 0.1)), ids_of(6, 4000))
    values = [independent(a, b) for a, b in itertools.combinations(drawn.T, 2)]
    assert min(values) > 1e-3 / len(values)


# --- The same picture everywhere ---


@given(IDS, st.integers(1, 80), st.integers(1, 80))
def test_a_view_is_a_function_of_its_id_and_the_picture_alone(view_id, height, width):
    pixels, space = noise(height, height, width), space_of(12)
    before = pixels.copy()
    np.random.seed(0)
    state, torch_state = np.random.get_state()[1].copy(), torch.get_rng_state()
    first = space.view(pixels, view_id)
    space_of(12).view(noise(1, 9, 9), view_id + 1)
    np.testing.assert_array_equal(space_of(12).view(np.asfortranarray(pixels), view_id), first)
    np.testing.assert_array_equal(pixels, before)
    assert np.array_equal(np.random.get_state()[1], state) and torch.equal(torch.get_rng_state(), torch_state)


def test_a_view_is_the_same_in_another_process_which_needs_no_torch():
    program = (
        "import hashlib, numpy as np; from dive.views.resized_crop import ResizedCrop\n"
        f"space = ResizedCrop(None, 32, {SCALE}, {RATIO}, True, {STRENGTHS})\n"
        "y, x, c = np.ogrid[:50, :70, :3]; picture = ((x * y + 40 * c) % 256).astype(np.uint8)\n"
        "import sys; assert 'torch' not in sys.modules\n"
        "print(hashlib.sha256(b''.join(space.view(picture, i).tobytes() for i in range(40))).hexdigest())"
    )
    found = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    space = space_of()
    y, x, c = np.ogrid[:50, :70, :3]
    pixels = ((x * y + 40 * c) % 256).astype(np.uint8)
    views = b"".join(space.view(pixels, i).tobytes() for i in range(40))
    assert found.stdout.strip() == hashlib.sha256(views).hexdigest()


N = 17
SEVERAL = [noise(seed, 10 + 7 * seed % 30, 9 + 11 * seed % 40) for seed in range(N)]


@pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("workers", [0, 2])
def test_a_feed_gives_the_same_views_in_any_batch_order_and_worker(workers, channels):
    multiprocessing.get_context("forkserver").set_forkserver_preload(chain.PRELOADED)
    space, pictures = space_of(16), [np.ascontiguousarray(one[..., :channels]) for one in SEVERAL]
    held = HeldPictures(pictures)
    assert held.held is None and held.shape is None and held.channels == channels and len(held) == N
    images = Images(held, space, CPU, workers)
    assert not images.resident
    rows, ids = np.random.default_rng(0).permutation(N), np.array([0, *ids_of(7, N - 1)])
    expected = {row: space.view(pictures[row], int(i)) for row, i in zip(rows, ids, strict=True)}
    for size, order in ((5, slice(None)), (N, slice(None, None, -1)), (1, slice(None))):
        feed = images.feed(size)
        plan = list(Batch(rows[order], ids[order], np.zeros(N, dtype=np.int64)).split(size))
        feed.begin(iter(plan))
        for batch in plan:
            feed.load()
            places = (torch.from_numpy(index.copy()) for index in (batch.rows, batch.ids, batch.columns))
            found = feed.batch(*places).numpy()
            assert found.shape == (len(batch), channels, 16, 16)
            wanted = np.stack([expected[row] for row in batch.rows]).transpose(0, 3, 1, 2)
            np.testing.assert_array_equal(found, wanted)


# --- What it says of itself ---


def test_a_space_is_found_again_by_its_description():
    for space in (
        space_of(),
        space_of(224, (0.2, 0.9), (0.5, 2), False, (0, 0, 0, 0)),
        space_of(jitter=(1, 0, 0.5, 0.1)),
    ):
        described = json.loads(json.dumps(space.describe()))
        assert described["image"] == list(space.shape) and described["kind"] == "resized_crop"
        found = described_space(described)
        assert type(found) is ResizedCrop and found.describe() == described == space.describe()
        assert (found.shape, found.size, found.clean_id) == (space.shape, None, 0)
        pixels = picture(48, 31)
        for view_id in (0, 1, 2**61):
            np.testing.assert_array_equal(found.view(pixels, view_id), space.view(pixels, view_id))
        require_same(found, described, "a.h5")


def test_every_setting_tells_spaces_apart():
    spaces = [
        space_of(),
        space_of(33),
        space_of(scale=(0.1, 1)),
        space_of(ratio=(0.7, 1.3)),
        space_of(flip=False),
    ]
    spaces += [space_of(jitter=[0.5 if i == at else 0.4 for i in range(4)]) for at in range(4)]
    for one, other in itertools.combinations(spaces, 2):
        with pytest.raises(CacheError, match=r"a\.h5 holds another recipe's views \(views\.(?!pixels)"):
            require_same(one, other.describe(), "a.h5")


@pytest.mark.parametrize("other", ["resize", "blend"])
def test_another_pillow_that_makes_other_pixels_is_another_space(other, monkeypatch):
    described = space_of(24).describe()
    resized_crop._pixels_hash.cache_clear()
    if other == "resize":
        real = Image.Image.resize
        monkeypatch.setattr(
            Image.Image, "resize", lambda self, size, _: real(self, size, Image.Resampling.BOX)
        )
    else:
        real = Image.blend
        monkeypatch.setattr(Image, "blend", lambda one, other, alpha: real(one, other, alpha * 1.01))
    try:
        with pytest.raises(
            CacheError, match=r"torchvision or Pillow gives other pixels \(views\.pixels_hash"
        ):
            require_same(space_of(24), described, "a.h5")
    finally:
        resized_crop._pixels_hash.cache_clear()


def test_the_example_of_the_space_runs():
    found = doctest.testmod(resized_crop)
    assert found.attempted and not found.failed


def test_the_size_of_pictures_does_not_matter_to_the_space():
    keys = recipe.ResizedCrop().keys()
    assert (
        view_space("resized_crop", None, **keys).describe()
        == view_space("resized_crop", (8, 9), **keys).describe()
    )
    with pytest.raises(DataError, match=r"the images differ in size; give them one size with views\.size"):
        view_space("crop_flip", None, pad=4, flip=True)


# --- The recipe ---


def test_the_defaults_are_those_of_the_long_tailed_literature():
    views = load(None, ("views.kind=resized_crop",)).views
    assert views == recipe.ResizedCrop()
    assert (views.size, views.scale, views.ratio) == (224, (0.08, 1.0), (3 / 4, 4 / 3))
    assert (views.flip, views.jitter, views.seed) == (True, (0.4, 0.4, 0.4, 0.0), 0)
    assert views.picture_size is None and not views.one_size
    assert set(views.keys()) == {"size", "scale", "ratio", "flip", "jitter"}


@pytest.mark.parametrize(
    ("assignment", "message"),
    [
        ("size=null", "views.size must be a whole number, not None"),
        ("size=4", "views.size must be >= 8 and <= 1024, not 4"),
        ("scale=0.5", "views.scale must be a list, not 0.5"),
        ("scale=[0.5]", "views.scale must be two numbers >= 0.0001 and <= 1, the smaller first, not [0.5]"),
        (
            "scale=[0.5, 0.2]",
            "views.scale must be two numbers >= 0.0001 and <= 1, the smaller first, not [0.5, 0.2]",
        ),
        (
            "scale=[0, 1]",
            "views.scale must be two numbers >= 0.0001 and <= 1, the smaller first, not [0.0, 1.0]",
        ),
        (
            "scale=[0.1, 1.5]",
            "views.scale must be two numbers >= 0.0001 and <= 1, the smaller first, not [0.1, 1.5]",
        ),
        ("scale=[.nan, 1]", "views.scale must be "),
        (
            "ratio=[1, 1000]",
            "views.ratio must be two numbers >= 0.01 and <= 100, the smaller first, not [1.0, 1000.0]",
        ),
        ("ratio=[1, 1, 1]", "views.ratio must be two numbers"),
        ("jitter=[0.4]", "views.jitter must be 4 numbers (0 to 10, 0 to 10, 0 to 10, 0 to 0.5), not [0.4]"),
        (
            "jitter=[0, 0, 0, 0.6]",
            "views.jitter must be 4 numbers (0 to 10, 0 to 10, 0 to 10, 0 to 0.5), not ",
        ),
        ("jitter=[-1, 0, 0, 0]", "views.jitter must be 4 numbers"),
        ("jitter=[a, 0, 0, 0]", "views.jitter must be a number, not 'a'"),
        ("flip=1", "views.flip must be true or false, not 1"),
        ("pad=4", "views.pad is not a known key (known here: kind, size, seed, scale, ratio, flip, jitter)"),
    ],
)
def test_a_bad_key_is_refused_with_what_it_must_be(assignment, message):
    with pytest.raises(RecipeError) as caught:
        load(None, ("views.kind=resized_crop", f"views.{assignment}"))
    assert str(caught.value).startswith(f"the recipe: {message}")
