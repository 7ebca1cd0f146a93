"""Feeds of views: resident or streamed, of spaces of the device or the host, against one view at a time."""

import multiprocessing
import re
from collections.abc import Iterator

import chain
import numpy as np
import pytest
import torch
from conftest import noise
from host_space import HostCropFlip, OnDemand
from hypothesis import given
from hypothesis import strategies as st

from dive.data.pictures import HeldPictures
from dive.errors import DataError
from dive.feeds import images as feeds
from dive.feeds.feed import Batch, Feed
from dive.feeds.images import Images, Pictures, ResidentImages, StreamedImages
from dive.views.crop_flip import CropFlip
from dive.views.space import ViewSpace

CPU = torch.device("cpu")
N, SIDE, PAD = 23, 12, 2
PIXELS = np.stack([noise(seed, SIDE, SIDE) for seed in range(N)])
DEVICE, HOST = CropFlip((SIDE, SIDE), PAD, True), HostCropFlip(SIDE, PAD, True)
# torch warns where there are fewer processors than workers, as on a machine that lends the tests one.
pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create 2 worker processes:UserWarning")


@pytest.fixture(scope="module", autouse=True)
def quick_workers() -> None:
    """The fork server imports torch when it starts, unless it runs already."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(chain.PRELOADED)


@pytest.fixture(params=[0, 2], ids=["no worker", "two workers"])
def workers(request) -> int:
    return request.param


def plan_of(seed: int, size: int = 5, count: int = N) -> list[Batch]:
    """Every picture once in some order, in some view."""
    generator = np.random.default_rng(seed)
    ids = generator.integers(0, DEVICE.size, count)
    return list(Batch(generator.permutation(count), ids, np.zeros(count, dtype=np.int64)).split(size))


def by_hand(batch: Batch, pixels: np.ndarray = PIXELS) -> np.ndarray:
    """Views (B, channels, SIDE, SIDE), pixel by pixel from the words: pad with zeros, crop, flip."""
    views = np.zeros((len(batch), pixels.shape[3], SIDE, SIDE), dtype=np.uint8)
    for b, (row, view_id) in enumerate(zip(batch.rows.tolist(), batch.ids.tolist(), strict=True)):
        dy, dx, mirrored = view_id // 2 // (2 * PAD + 1), view_id // 2 % (2 * PAD + 1), view_id % 2
        for y, x in np.ndindex(SIDE, SIDE):
            at = y + dy - PAD, (SIDE - 1 - x if mirrored else x) + dx - PAD
            if all(0 <= place < SIDE for place in at):
                views[b, :, y, x] = pixels[row, at[0], at[1]]
    return views


def batch_of(feed: Feed, batch: Batch) -> np.ndarray:
    """The batch made ready, copied."""
    found = feed.batch(*(torch.from_numpy(index) for index in (batch.rows, batch.ids, batch.columns)))
    assert found.dtype == torch.uint8 and found.is_contiguous(memory_format=torch.channels_last)
    return found.numpy().copy()


def gone_through(feed: Feed, plan: list[Batch]) -> Iterator[np.ndarray]:
    """Each batch of a plan."""
    feed.begin(iter(plan))
    for batch in plan:
        feed.load()
        yield batch_of(feed, batch)


def complaint(batches: Iterator[np.ndarray]) -> str:
    """The message of the error that ends the batches; keeping the error would keep its workers."""
    try:
        for _ in batches:
            pass
    except DataError as error:
        return str(error)
    pytest.fail("every batch was given")


def images_of(place: str, space: ViewSpace, workers: int, monkeypatch: pytest.MonkeyPatch) -> Images:
    """The pictures held (resident where the space allows it), too many to be resident, or on demand."""
    if place == "held, too large":
        monkeypatch.setattr(feeds, "fits", lambda *_: False)
    pictures: Pictures = HeldPictures(PIXELS)
    if place == "on demand":
        pictures = OnDemand(list(PIXELS), (SIDE, SIDE))
    return Images(pictures, space, CPU, workers)


@pytest.mark.parametrize("space", [DEVICE, HOST], ids=["device", "host"])
@pytest.mark.parametrize("place", ["held", "held, too large", "on demand"])
def test_every_way_to_the_device_gives_the_same_views(place, space, workers, monkeypatch):
    images = images_of(place, space, workers, monkeypatch)
    feed = images.feed(5)
    resident = place == "held" and space is DEVICE
    assert images.resident == resident and len(images) == N
    assert isinstance(feed, ResidentImages if resident else StreamedImages)
    for seed in (0, 1):  # two epochs with one feed, whose workers live on
        plan = plan_of(seed)
        assert [len(batch) for batch in plan] == [5, 5, 5, 5, 3]
        for batch, found in zip(plan, gone_through(feed, plan), strict=True):
            np.testing.assert_array_equal(found, by_hand(batch))


@pytest.mark.parametrize("together", [1, 5 * PIXELS[0].nbytes, PIXELS.nbytes])
def test_resident_pictures_take_what_was_asked_for_however_many_are_prepared_at_once(together, monkeypatch):
    monkeypatch.setattr(feeds, "TOGETHER", together)
    asked = []
    images = Images(HeldPictures(PIXELS), DEVICE, CPU, 0, lambda size, _: asked.append(size) or True)
    padded = np.pad(PIXELS, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    assert asked == [padded.nbytes]
    np.testing.assert_array_equal(images.feed(5)._prepared, padded)


@pytest.mark.parametrize("space", [DEVICE, HOST], ids=["device", "host"])
def test_a_batch_size_beside_that_of_the_pictures_streams_all_of_them(space):
    for size in (1, N, N + 4):
        feed, plan = StreamedImages(HeldPictures(PIXELS), space, size, CPU, 0), plan_of(3, size)
        for batch, found in zip(plan, gone_through(feed, plan), strict=True):
            np.testing.assert_array_equal(found, by_hand(batch))


def test_grey_pictures_are_streamed_with_their_one_channel(workers):
    grey = PIXELS[..., :1]
    for space in (DEVICE, HOST):
        feed = StreamedImages(HeldPictures(grey), space, 5, CPU, workers)
        plan = plan_of(4)
        for batch, found in zip(plan, gone_through(feed, plan), strict=True):
            np.testing.assert_array_equal(found, by_hand(batch, grey))


SEVERAL = [noise(seed, 10 + seed % 3, 9 + seed % 5) for seed in range(N)]


def test_a_host_space_takes_pictures_of_several_sizes(workers):
    feed, plan = Images(OnDemand(SEVERAL, None), HOST, CPU, workers).feed(5), plan_of(5)
    for batch, found in zip(plan, gone_through(feed, plan), strict=True):
        expected = [HOST.view(SEVERAL[row], int(i)) for row, i in zip(batch.rows, batch.ids, strict=True)]
        np.testing.assert_array_equal(found.transpose(0, 2, 3, 1), np.stack(expected))


def test_a_device_space_refuses_pictures_of_several_sizes():
    with pytest.raises(DataError, match=r"the images differ in size; give them one size with views\.size"):
        Images(OnDemand(SEVERAL, None), DEVICE, CPU).feed(5)


@pytest.mark.parametrize("space", [DEVICE, HOST], ids=["device", "host"])
@pytest.mark.parametrize("loaded", [0, 1, 3])
def test_a_plan_may_begin_before_the_last_one_ended(space, loaded, workers):
    feed = StreamedImages(HeldPictures(PIXELS), space, 3, CPU, workers)
    first, second = plan_of(6, 3), plan_of(7, 3)
    feed.begin(iter(first))
    for _ in range(loaded):
        feed.load()
    for batch, found in zip(second, gone_through(feed, second), strict=True):
        np.testing.assert_array_equal(found, by_hand(batch))


@pytest.mark.parametrize("space", [DEVICE, HOST], ids=["device", "host"])
def test_a_picture_that_cannot_be_read_is_named_in_one_line_and_the_next_plan_is_read(space, workers):
    feed = StreamedImages(OnDemand(list(PIXELS), (SIDE, SIDE), unreadable=7), space, 5, CPU, workers)
    plan = plan_of(8)
    at = next(i for i, batch in enumerate(plan) if 7 in batch.rows)
    found = gone_through(feed, plan)
    for batch in plan[:at]:
        np.testing.assert_array_equal(next(found), by_hand(batch))
    assert complaint(found) == "photos/007.png is not a readable image: it is cut short"
    others = [batch for batch in plan_of(9) if 7 not in batch.rows]
    for batch, views in zip(others, gone_through(feed, others), strict=True):
        np.testing.assert_array_equal(views, by_hand(batch))


def test_a_worker_that_dies_is_an_error_in_one_line():
    feed = StreamedImages(OnDemand(list(PIXELS), (SIDE, SIDE), deadly=7), HOST, 5, CPU, workers=2)
    told = complaint(gone_through(feed, plan_of(8)))
    assert re.fullmatch(r"a worker process that reads images died \(.*\); is there enough memory\?", told)


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError(104, "Connection reset by peer"),
        EOFError(),
        FileNotFoundError(2, "gone"),
        RuntimeError("Pin memory thread exited unexpectedly"),  # which took it over, on CUDA
    ],
)
def test_a_worker_that_dies_while_its_batch_is_taken_over_is_an_error_in_one_line(error):
    feed = StreamedImages(OnDemand(list(PIXELS), (SIDE, SIDE)), HOST, 5, CPU, workers=0)

    def coming() -> Iterator[torch.Tensor]:
        raise error
        yield

    feed._coming = coming()
    with pytest.raises(
        DataError, match=r"^a worker process that reads images died \(.+\); is there enough memory\?$"
    ):
        feed.load()


def test_another_error_of_a_worker_is_not_taken_for_its_death():
    class Broken(OnDemand):
        def read(self, row: int) -> np.ndarray:
            raise RuntimeError("a fault of the program")

    feed = StreamedImages(Broken(list(PIXELS), (SIDE, SIDE)), HOST, 5, CPU, workers=0)
    feed.begin(plan_of(0))
    with pytest.raises(RuntimeError, match="a fault of the program"):
        feed.load()


def test_a_feed_leaves_the_global_random_state_as_it_was(workers):
    before = torch.get_rng_state()
    for space in (DEVICE, HOST):
        for _ in gone_through(StreamedImages(HeldPictures(PIXELS), space, 5, CPU, workers), plan_of(0)):
            pass
    assert torch.equal(torch.get_rng_state(), before)


def test_resident_pictures_are_brought_to_the_device_once_for_every_feed():
    images = Images(HeldPictures(PIXELS), DEVICE, CPU)
    assert images.feed(3) is images.feed(5)


@pytest.mark.parametrize("enough", [False, True])
def test_pictures_are_resident_where_they_fit(enough, monkeypatch):
    asked = []
    monkeypatch.setattr(feeds, "fits", lambda size, device: asked.append((size, device)) or enough)
    images = Images(HeldPictures(PIXELS), DEVICE, CPU)
    assert images.resident == enough and asked == [(N * (SIDE + 2 * PAD) ** 2 * 3, CPU)]  # padded


def test_the_host_space_of_these_tests_has_the_ids_of_the_devices():
    for pad in (0, 1, 4):
        for flip in (False, True):
            one, other = HostCropFlip(SIDE, pad, flip), CropFlip((SIDE, SIDE), pad, flip)
            assert (one.size, one.clean_id, one.shape) == (other.size, other.clean_id, other.shape)


@given(st.integers(0, 30), st.integers(1, 12))
def test_a_batch_is_split_into_parts_of_one_size_in_order(count, size):
    generator = np.random.default_rng(count)
    whole = Batch(*(generator.integers(0, 99, count) for _ in range(3)))
    parts = list(whole.split(size))
    assert [len(part) for part in parts] == [len(range(count)[i : i + size]) for i in range(0, count, size)]
    for name in ("rows", "ids", "columns"):
        found = [value for part in parts for value in getattr(part, name).tolist()]
        assert found == getattr(whole, name).tolist()
