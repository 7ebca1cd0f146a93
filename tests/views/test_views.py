"""Views against torchvision's own crop, pad and flip; the same bytes in any company."""

import json

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torchvision.transforms import functional as TF

from dive.data.pictures import HeldPictures
from dive.errors import CacheError
from dive.feeds.feed import Batch
from dive.feeds.images import Images
from dive.models.network import Architecture
from dive.recipe import recipe
from dive.recipe.documents import plain
from dive.views.crop_flip import CropFlip
from dive.views.draw import FreeViews, StoredViews
from dive.views.registry import SPACES, described_space, view_space
from dive.views.space import require_same

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
CPU = torch.device("cpu")


def noise(count: int, height: int = 32, width: int = 32, channels: int = 3, seed: int = 0) -> np.ndarray:
    # No zeros, so that the padding shows.
    return np.random.default_rng(seed).integers(1, 256, (count, height, width, channels), dtype=np.uint8)


def hashes_of(count: int) -> np.ndarray:
    return np.random.default_rng(11).integers(0, 2**64, count, dtype=np.uint64)


def render(space: CropFlip, images: np.ndarray, rows: list[int], ids: list[int]) -> np.ndarray:
    prepared = space.prepare(torch.from_numpy(images))
    return space.render(prepared, torch.tensor(rows), torch.tensor(ids)).numpy()


def torchvision_view(image: np.ndarray, pad: int, dy: int, dx: int, flip: bool) -> np.ndarray:
    """Pad with 0, crop at (dy, dx), then flip, by torchvision on a (channels, H, W) uint8 tensor."""
    height, width = image.shape[:2]
    planes = torch.from_numpy(image).permute(2, 0, 1)
    planes = TF.crop(TF.pad(planes, [pad], fill=0), dy, dx, height, width)
    return (TF.hflip(planes) if flip else planes).permute(1, 2, 0).numpy()


def test_the_paper_s_space_has_162_views_and_80_is_the_clean_one():
    space = view_space("crop_flip", (32, 32), **recipe.CropFlip().keys())
    assert (space.size, space.clean_id) == (162, 80)


def test_the_162_views_are_torchvisions_crops_and_flips():
    images = noise(2)
    space = CropFlip((32, 32), pad=4, flip=True)
    views = render(space, images, [1] * 162, list(range(162)))
    assert views.dtype == np.uint8 and views.shape == (162, 32, 32, 3)
    places = ((dy, dx, flip) for dy in range(9) for dx in range(9) for flip in (False, True))
    for view, (dy, dx, flip) in zip(views, places, strict=True):
        np.testing.assert_array_equal(view, torchvision_view(images[1], 4, dy, dx, flip))


def test_the_162_views_are_distinct():
    views = render(CropFlip((32, 32), 4, True), noise(1), [0] * 162, list(range(162)))
    assert len({view.tobytes() for view in views}) == 162


def test_the_clean_view_is_the_image_itself():
    images = noise(3)
    space = CropFlip((32, 32), 4, True)
    np.testing.assert_array_equal(render(space, images, [2], [80])[0], images[2])
    np.testing.assert_array_equal(
        render(CropFlip((32, 32), 4, True), images, [2], [81])[0], images[2, :, ::-1]
    )


def test_without_a_flip_the_views_are_the_crops_alone():
    images = noise(1, 8, 8, 1)
    space = CropFlip((8, 8), pad=1, flip=False)
    assert (space.size, space.clean_id) == (9, 4)
    views = render(space, images, [0] * 9, list(range(9)))
    for i, view in enumerate(views):
        np.testing.assert_array_equal(view, torchvision_view(images[0], 1, i // 3, i % 3, False))
    assert len({view.tobytes() for view in views}) == 9


def test_without_padding_only_the_flip_is_left():
    assert (CropFlip((4, 4), 0, True).size, CropFlip((4, 4), 0, True).clean_id) == (2, 0)
    assert (CropFlip((4, 4), 0, False).size, CropFlip((4, 4), 0, False).clean_id) == (1, 0)


@st.composite
def questions(draw) -> tuple[CropFlip, np.ndarray, list[int], list[int]]:
    """A space, images, and a batch of rows and ids asked of them."""
    pad, flip = draw(st.integers(0, 3)), draw(st.booleans())
    height, width = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    images = noise(
        draw(st.integers(1, 4)), height, width, draw(st.sampled_from([1, 3])), draw(st.integers(0, 99))
    )
    space = CropFlip((height, width), pad, flip)
    asked = st.tuples(st.integers(0, len(images) - 1), st.integers(0, space.size - 1))
    rows, ids = zip(*draw(st.lists(asked, min_size=1, max_size=8)), strict=True)
    return space, images, list(rows), list(ids)


@given(questions())
def test_a_view_is_a_window_of_the_padded_image(question):
    space, images, rows, ids = question
    p, (height, width) = space.pad, space.shape
    padded = np.pad(images, ((0, 0), (p, p), (p, p), (0, 0)))
    for view, row, identity in zip(render(space, images, rows, ids), rows, ids, strict=True):
        place, flip = divmod(identity, 2) if space.flip else (identity, 0)
        dy, dx = divmod(place, 2 * p + 1)
        expected = padded[row, dy : dy + height, dx : dx + width]
        np.testing.assert_array_equal(view, expected[:, ::-1] if flip else expected)


@given(questions(), st.randoms(use_true_random=False))
def test_a_view_is_the_same_whatever_the_batch_and_its_order(question, random):
    space, images, rows, ids = question
    together = render(space, images, rows, ids)
    for i, (row, identity) in enumerate(zip(rows, ids, strict=True)):
        alone = render(space, images[row : row + 1], [0], [identity])  # in a data set of its own, too
        assert alone.tobytes() == together[i].tobytes()
    order = list(range(len(rows)))
    random.shuffle(order)
    shuffled = render(space, images, [rows[i] for i in order], [ids[i] for i in order])
    assert shuffled.tobytes() == together[order].tobytes()


@given(st.integers(0, 8), st.booleans(), st.integers(1, 40), st.integers(1, 40))
def test_the_clean_id_names_the_unflipped_centre(pad, flip, height, width):
    images = noise(1, height, width)
    space = CropFlip((height, width), pad, flip)
    assert 0 <= space.clean_id < space.size == (2 * pad + 1) ** 2 * (2 if flip else 1)
    np.testing.assert_array_equal(render(space, images, [0], [space.clean_id])[0], images[0])


def test_spaces_are_told_apart_by_their_description():
    spaces = [CropFlip((32, 32), 4, True), CropFlip((32, 32), 3, True), CropFlip((32, 32), 4, False)]
    spaces += [CropFlip((32, 16), 4, True), CropFlip((16, 32), 4, True)]
    assert len({repr(sorted(space.describe().items())) for space in spaces}) == 5
    assert CropFlip((32, 32), 4, True).describe() == spaces[0].describe()


def test_a_space_has_a_version_and_one_made_of_crops_has_theirs_too(monkeypatch):
    spaces = [view_space(kind, (32, 32), pad=4, flip=True) for kind in ("crop_flip", "autoaugment")]
    before = [space.describe() for space in spaces]
    assert all(type(described["version"]) is int for described in before)
    monkeypatch.setattr(CropFlip, "VERSION", CropFlip.VERSION + 1)
    assert all(space.describe() != described for space, described in zip(spaces, before, strict=True))


def test_another_description_is_refused_by_what_differs():
    space = CropFlip((32, 32), 4, True)
    require_same(space, space.describe(), "a.h5")
    with pytest.raises(CacheError, match=r"a\.h5 holds another recipe's views \(views\.pad: 3, now 4\)"):
        require_same(space, CropFlip((32, 32), 3, True).describe(), "a.h5")
    older = space.describe() | {"version": 0}
    with pytest.raises(
        CacheError, match=r"this version of dive, torchvision or Pillow gives .* \(views\.version: 0, now 1\)"
    ):
        require_same(space, older, "a.h5")
    del older["version"]
    with pytest.raises(CacheError, match=r"views\.version: None, now 1"):
        require_same(space, older, "a.h5")


def normalised(views: np.ndarray) -> np.ndarray:
    """(x/255 - mean) / std in float64, (B, channels, H, W)."""
    return ((views / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2)


def batch_of(images: Images, rows: list[int], ids: list[int]) -> torch.Tensor:
    """A batch of views as a network gets them, (B, channels, H, W) uint8."""
    places = torch.tensor(rows), torch.tensor(ids), torch.zeros(len(rows), dtype=torch.int64)
    feed = images.feed(len(rows))
    feed.begin([Batch(*(place.numpy() for place in places))])
    feed.load()
    return feed.batch(*places)


NETWORK = Architecture("resnet8", 2, 3, MEAN, STD).build()


def test_a_batch_is_normalised_after_padding():
    pixels = noise(4)
    images = Images(HeldPictures(pixels), CropFlip((32, 32), 4, True), CPU)
    rows, ids = [0, 3, 3, 1], [0, 161, 80, 17]
    views = batch_of(images, rows, ids)
    assert views.shape == (4, 3, 32, 32) and views.dtype == torch.uint8
    assert views.is_contiguous(memory_format=torch.channels_last)
    batch = NETWORK.normalised(views)
    assert batch.shape == (4, 3, 32, 32) and batch.dtype == torch.float32
    assert batch.is_contiguous(memory_format=torch.channels_last)
    expected = normalised(render(images.space, pixels, rows, ids))
    np.testing.assert_allclose(batch, expected, rtol=0, atol=1e-6)  # values up to 2.8: 4 float32 roundings
    corner = batch[0, :, 0, 0].numpy()  # view 0 begins in the padding, black before normalising
    np.testing.assert_allclose(corner, -np.array(MEAN) / np.array(STD), rtol=1e-6)


def test_a_normalised_view_is_the_same_whatever_the_batch():
    images = Images(HeldPictures(noise(5)), CropFlip((32, 32), 4, True), CPU)
    rows, ids = [4, 0, 2, 2, 1], [5, 80, 161, 0, 99]
    together = NETWORK.normalised(batch_of(images, rows, ids))
    backwards = NETWORK.normalised(batch_of(images, rows[::-1], ids[::-1])).flip(0)
    assert torch.equal(together, backwards)
    for i in range(5):
        alone = NETWORK.normalised(batch_of(images, rows[i : i + 1], ids[i : i + 1]))
        assert torch.equal(alone[0], together[i])


def test_grey_images_keep_their_one_channel():
    images = Images(HeldPictures(noise(3, 8, 8, 1)), CropFlip((8, 8), 1, False), CPU)
    assert len(images) == 3
    views = batch_of(images, [0, 1], [4, 0])
    assert views.shape == (2, 1, 8, 8)
    network = Architecture("resnet8", 2, 1, (0.3063,), (0.3753,)).build()
    assert network.normalised(views).shape == (2, 1, 8, 8)


def test_the_images_handed_in_stay_as_they_were():
    pixels = noise(2)
    before = pixels.copy()
    batch_of(Images(HeldPictures(pixels), CropFlip((32, 32), 0, True), CPU), [0, 1], [1, 0])
    np.testing.assert_array_equal(pixels, before)


def test_free_views_cover_the_whole_space_evenly():
    ids, columns = FreeViews(CropFlip((32, 32), 4, True)).draw(0, 1, hashes_of(162 * 100))
    assert ids.dtype == np.int64 and not columns.any() and columns.shape == ids.shape
    counts = np.bincount(ids, minlength=162)
    assert len(counts) == 162 and abs(counts - 100).max() < 5 * np.sqrt(100)


def test_stored_views_are_drawn_from_the_samples_own_row():
    stored = np.sort(
        np.random.default_rng(0).permuted(np.tile(np.arange(162), (50, 1)), axis=1)[:, :7], axis=1
    )
    for epoch in range(1, 30):
        ids, columns = StoredViews(stored).draw(0, epoch, hashes_of(50))
        assert ids.dtype == columns.dtype == np.int64
        assert ids.tolist() == [int(stored[i, column]) for i, column in enumerate(columns)]


def test_every_stored_view_is_drawn_evenly_over_the_epochs():
    views = StoredViews(np.tile(np.array([3, 80, 161]), (20, 1)))
    drawn = np.concatenate([views.draw(0, epoch, hashes_of(20))[1] for epoch in range(1, 151)])
    assert abs(np.bincount(drawn, minlength=3) - 1000).max() < 5 * np.sqrt(3000 * 2 / 9)


def test_all_views_stored_are_drawn_as_all_views_free():
    space = CropFlip((32, 32), 4, True)
    hashes = hashes_of(40)
    for epoch in (1, 2, 77):
        ids, columns = StoredViews(np.tile(np.arange(162), (40, 1))).draw(3, epoch, hashes)
        assert ids.tolist() == columns.tolist() == FreeViews(space).draw(3, epoch, hashes)[0].tolist()


def test_the_draw_of_an_epoch_can_be_repeated_and_another_epoch_is_another_draw():
    free, hashes = FreeViews(CropFlip((32, 32), 4, True)), hashes_of(100)
    draws = {(seed, epoch): tuple(free.draw(seed, epoch, hashes)[0]) for seed in (0, 1) for epoch in (1, 2)}
    assert len(set(draws.values())) == 4
    assert tuple(free.draw(1, 2, hashes)[0]) == draws[1, 2]


SPACES_OF_DIVE = [
    view_space("crop_flip", (32, 24), pad=4, flip=True),
    view_space("crop_flip", (8, 8), pad=0, flip=False),
    view_space("autoaugment", (30, 28), pad=2, flip=False),
    view_space("autoaugment", (8, 8), pad=4, flip=True),
]
# The settings of each kind that has pictures of 32×32 pixels for views.
SETTINGS = {kind: cls().keys() for kind, cls in recipe.KINDS["views"].items()}
SETTINGS["resized_crop"]["size"] = 32


@pytest.mark.parametrize("space", SPACES_OF_DIVE)
def test_a_space_is_found_again_by_its_description(space):
    described = json.loads(json.dumps(space.describe()))
    found = described_space(described)
    assert type(found) is type(space) and found.shape == space.shape and found.size == space.size
    assert found.clean_id == space.clean_id and found.describe() == described
    height, width = space.shape
    ids = np.arange(40) % (space.size or 40)
    views = [
        render(one, noise(3, height, width), [i % 3 for i in range(40)], ids.tolist())
        for one in (found, space)
    ]
    np.testing.assert_array_equal(*views)
    # Its version is not looked at: that is `require_same`'s affair.
    assert described_space(described | {"version": 99}).shape == space.shape


@pytest.mark.parametrize("space", SPACES_OF_DIVE)
def test_the_clean_space_of_a_space_has_the_clean_view_alone(space):
    clean, (height, width) = space.clean, space.shape
    assert (clean.size, clean.clean_id, clean.shape) == (1, 0, space.shape)
    pixels = noise(2, height, width)
    np.testing.assert_array_equal(render(clean, pixels, [0, 1], [0, 0]), pixels)
    np.testing.assert_array_equal(render(space, pixels, [0, 1], [space.clean_id] * 2), pixels)


WRONG = {
    "kind": [None, "rotate", 3, [], ["crop_flip"], {}, True],
    "image": [
        None,
        32,
        [],
        [32],
        [32, 32, 3],
        [32, "32"],
        [0, 32],
        [32, -1],
        [32, 1025],
        [32, 2.0],
        [True, 32],
    ],
    "pad": [None, -1, 65, 4.0, "4", True, [4], 10**30],
    "flip": [None, 1, 0, "true", []],
    "size": [None, 0, 1025, 32.0, "32", True, [32], 31],
    "scale": [
        None,
        0.5,
        [],
        [0.5],
        [0.2, 0.1],
        [0.0, 1.0],
        [0.1, 1.1],
        [0.1, "1"],
        [0.1, True],
        [0.1, 0.2, 0.3],
    ],
    "ratio": [None, 1.0, [], [1.0], [2.0, 1.0], [0.001, 1.0], [1.0, 101.0], [None, 1.0], [1.0, 1.0, 1.0]],
    "jitter": [
        None,
        0.4,
        [],
        [0.4] * 3,
        [0.4] * 5,
        [-0.1, 0, 0, 0],
        [0, 0, 0, 0.6],
        [0, 11, 0, 0],
        ["0"] * 4,
    ],
}
KINDS_AND_KEYS = [
    (kind, key) for kind in SPACES for key in WRONG if key in ("kind", "image", *SETTINGS[kind])
]


@pytest.mark.parametrize(("kind", "key"), KINDS_AND_KEYS)
def test_a_description_that_no_space_gives_is_refused_saying_what_is_wrong(kind, key):
    whole = view_space(kind, (32, 32), **SETTINGS[kind]).describe()
    missing = {name: value for name, value in whole.items() if name != key}
    for described in (missing, *(whole | {key: value} for value in WRONG[key])):
        with pytest.raises(ValueError, match=key):
            described_space(described)


@pytest.mark.parametrize("described", [None, [], "crop_flip", 3, {}, {"kind": "crop_flip"}])
def test_what_is_no_description_is_refused(described):
    with pytest.raises(ValueError, match=r"."):
        described_space(described)


@given(
    st.dictionaries(
        st.text(max_size=3) | st.sampled_from(sorted(WRONG)),
        st.none() | st.integers() | st.text() | st.lists(st.integers()),
        max_size=5,
    )
)
def test_no_description_raises_anything_else(described):
    try:
        space = described_space(described)
    except ValueError as error:
        assert str(error)
    else:
        assert (
            space.describe().items()
            >= {key: described[key] for key in WRONG.keys() & described.keys()}.items()
        )


def test_every_kind_of_views_that_a_recipe_may_name_is_a_space_with_its_keys():
    assert list(recipe.KINDS["views"]) == list(SPACES)
    for kind, cls in recipe.KINDS["views"].items():
        keys = SETTINGS[kind]
        assert keys.keys() == cls().keys().keys()
        space = view_space(kind, (32, 32), **keys)
        assert space.made in ("device", "host") and space.shape == (32, 32)
        assert space.describe()["kind"] == kind and space.describe().items() >= plain(keys).items()
        assert cls.one_size == (space.made == "device")
        assert set(type(space).KEYS) == set(keys)
        assert type(space.describe()["version"]) is int


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_view_is_the_same_on_a_gpu():
    images, space = noise(4), CropFlip((32, 32), 4, True)
    rows, ids = torch.arange(162) % 4, torch.arange(162)
    on_cpu = space.render(space.prepare(torch.from_numpy(images)), rows, ids)
    on_gpu = space.render(space.prepare(torch.from_numpy(images).cuda()), rows.cuda(), ids.cuda())
    assert torch.equal(on_gpu.cpu(), on_cpu)
