"""Pictures held in memory: against plain loops over their source, by hashlib and PIL."""

import hashlib
from collections.abc import Sequence

import numpy as np
import pytest
from conftest import noise, png
from PIL import Image

from dive import memory
from dive.data.pictures import HeldPictures, digest, fit, hold
from dive.data.sources.folder import open_folder
from dive.data.sources.source import Split
from dive.errors import DataError


def split_of(pictures: Sequence[np.ndarray], threads: bool = False) -> Split:
    """A split of these pictures, in their order."""
    keys = [f"cat/{i:03d}.png" for i in range(len(pictures))]
    labels = np.zeros(len(keys), dtype=np.int64)
    return Split(keys, labels, read=lambda position: pictures[position], parallel=lambda: threads)


SIZES = [(9, 12), (30, 20), (16, 16), (7, 40), (20, 9)]
SEVERAL = [noise(seed, *size) for seed, size in enumerate(SIZES)]


def digests_by_hand(pictures: Sequence[np.ndarray]) -> list["hashlib._Hash"]:
    """16 bytes of SHA-256 over the shape as a tuple is printed, and every pixel, row by row."""
    return [
        hashlib.sha256(f"({p.shape[0]}, {p.shape[1]}, {p.shape[2]})".encode() + bytes(p.ravel().tolist()))
        for p in pictures
    ]


def test_a_digest_is_that_of_shape_and_pixels():
    for picture, expected in zip(SEVERAL, digests_by_hand(SEVERAL), strict=True):
        assert digest(picture) == expected.digest()[:16]
        assert digest(np.asfortranarray(picture)) == expected.digest()[:16]
    turned = SEVERAL[0].reshape(12, 9, 3)
    assert digest(turned) != digest(SEVERAL[0])
    grey = SEVERAL[0][..., :1]
    assert digest(grey) == hashlib.sha256(b"(9, 12, 1)" + grey.tobytes()).digest()[:16]


@pytest.mark.parametrize("threads", [False, True])
def test_pictures_of_one_size_are_held_as_they_are_in_the_order_asked_for(threads):
    pictures = [noise(seed, 6, 5) for seed in range(200)]  # more than one thread takes at a time
    chosen = np.random.default_rng(0).permutation(200)[:150]
    held, digests = hold(split_of(pictures, threads), chosen, None)
    assert (len(held), held.shape, held.channels) == (150, (6, 5), 3)
    assert held.held.dtype == np.uint8 and digests.shape == (150, 16) and digests.dtype == np.uint8
    for row, position in enumerate(chosen):
        np.testing.assert_array_equal(held.held[row], pictures[position])
        np.testing.assert_array_equal(held.read(row), pictures[position])
        assert bytes(digests[row]) == digests_by_hand([pictures[position]])[0].digest()[:16]


def test_pictures_of_several_sizes_are_refused_naming_two_of_them():
    with pytest.raises(DataError) as caught:
        hold(split_of(SEVERAL), np.arange(len(SEVERAL)), None)
    assert str(caught.value) == (
        "the images differ in size: cat/000.png has 12×9 pixels, cat/001.png 20×30; give them one size with "
        "views.size, for example --set views.size=32"
    )
    with pytest.raises(DataError, match=r"cat/003\.png has 40×7 pixels, cat/002\.png 16×16"):
        hold(split_of(SEVERAL), np.array([3, 2, 0]), None)


def fitted_by_hand(picture: np.ndarray, size: int) -> np.ndarray:
    """The shorter side resized to `size` by PIL's bicubic filter, then the middle cut out."""
    height, width = picture.shape[:2]
    short = min(height, width)
    tall = size if height == short else max(size, round(height * size / short))
    wide = size if width == short else max(size, round(width * size / short))
    planes = [
        np.asarray(Image.fromarray(np.ascontiguousarray(picture[..., c])).resize((wide, tall), Image.BICUBIC))
        for c in range(picture.shape[2])
    ]
    top, left = (tall - size) // 2, (wide - size) // 2
    return np.stack(planes, axis=2)[top : top + size, left : left + size]


@pytest.mark.parametrize("size", [8, 16, 33])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shape", [*SIZES, (32, 32), (33, 33), (100, 31), (5, 5), (1, 90)])
def test_a_picture_is_fitted_as_pil_does_by_hand(shape, channels, size):
    picture = noise(sum(shape), *shape)[..., :channels]
    found = fit(picture, size)
    assert found.shape == (size, size, channels) and found.dtype == np.uint8
    np.testing.assert_array_equal(found, fitted_by_hand(picture, size))


def test_a_picture_of_the_size_asked_for_is_taken_as_it_is():
    picture = noise(0, 16, 16)
    np.testing.assert_array_equal(fit(picture, 16), picture)


@pytest.mark.parametrize("threads", [False, True])
@pytest.mark.parametrize("size", [8, 16])
def test_pictures_of_several_sizes_are_brought_to_the_one_asked_for(size, threads):
    held, digests = hold(split_of(SEVERAL, threads), np.array([4, 0, 1, 2, 3]), size)
    assert held.held.shape == (5, size, size, 3)
    for row, position in enumerate((4, 0, 1, 2, 3)):
        np.testing.assert_array_equal(held.held[row], fitted_by_hand(SEVERAL[position], size))


def test_digests_are_of_the_pictures_as_they_come_whatever_the_size():
    expected = [list(one.digest()[:16]) for one in digests_by_hand(SEVERAL)]
    for size in (8, 16, 40):
        _, digests = hold(split_of(SEVERAL), np.arange(len(SEVERAL)), size)
        assert digests.tolist() == expected


def test_a_folder_and_its_archive_have_the_digests_of_their_pixels(tree):
    pictures = {f"{split}/cat/{i}.png": noise(i, 8 + i, 9) for split in ("train", "test") for i in range(3)}
    files = {name: png(pixels) for name, pixels in pictures.items()}
    expected = [list(one.digest()[:16]) for one in digests_by_hand(list(pictures.values())[:3])]
    for path in (tree.files(files), tree.archive(files)):
        _, digests = hold(open_folder(path).train, np.arange(3), 8)
        assert digests.tolist() == expected


def test_the_first_error_among_several_threads_is_raised_and_the_rest_is_not_waited_for():
    read: list[int] = []

    def reading(position: int) -> np.ndarray:
        read.append(position)
        if position == 1:
            raise DataError("cat/001.png is not a readable image")
        return noise(0)

    count = 100_000
    split = Split(
        [f"cat/{i:03d}.png" for i in range(count)], np.zeros(count, np.int64), reading, lambda: True
    )
    with pytest.raises(DataError, match=r"cat/001\.png is not a readable image"):
        hold(split, np.arange(count), None)
    assert len(read) < count // 2


def test_a_subset_of_held_pictures_has_the_rows_asked_for():
    pictures = HeldPictures(np.stack([noise(seed) for seed in range(5)]))
    part = pictures.subset(np.array([3, 3, 0]))
    np.testing.assert_array_equal(part.held, pictures.held[[3, 3, 0]])
    assert (len(part), part.shape, part.channels) == (3, (8, 8), 3)


@pytest.mark.parametrize("threads", [False, True])
def test_pictures_of_several_sizes_are_held_one_by_one_where_they_may_be(threads):
    pictures = [noise(seed, 5 + seed % 7, 4 + seed % 9) for seed in range(200)]
    chosen = np.random.default_rng(0).permutation(200)[:150]
    held, digests = hold(split_of(pictures, threads), chosen, None, several=True)
    assert (len(held), held.shape, held.held, held.channels) == (150, None, None, 3)
    for row, position in enumerate(chosen):
        np.testing.assert_array_equal(held.read(row), pictures[position])
        assert bytes(digests[row]) == digests_by_hand([pictures[position]])[0].digest()[:16]
    part = held.subset(np.array([3, 3, 0]))
    assert (len(part), part.shape, part.held) == (3, None, None)
    for row, of_whole in enumerate((3, 3, 0)):
        np.testing.assert_array_equal(part.read(row), held.read(of_whole))


def test_several_sizes_change_no_digest():
    _, one_by_one = hold(split_of(SEVERAL), np.arange(len(SEVERAL)), None, several=True)
    _, fitted = hold(split_of(SEVERAL), np.arange(len(SEVERAL)), 16)
    np.testing.assert_array_equal(one_by_one, fitted)


def test_pictures_that_do_not_fit_in_memory_are_refused_before_any_is_kept(monkeypatch, tmp_path):
    (tmp_path / "meminfo").write_text("MemAvailable:    5 kB\n")
    monkeypatch.setattr(memory, "HOST_MEMORY", tmp_path / "meminfo")
    positions = np.arange(len(SEVERAL))
    with pytest.raises(DataError) as caught:
        hold(split_of(SEVERAL), positions, 64)
    assert str(caught.value).startswith(
        "5 images of 64×64 pixels need 61.4 kB of memory, 5.1 kB are free; choose a smaller views.size"
    )
    held, _ = hold(split_of(SEVERAL), positions, 16)
    assert held.nbytes == 5 * 16 * 16 * 3
    several, _ = hold(split_of(SEVERAL), positions, None, several=True)
    assert several.nbytes == 3 * sum(height * width for height, width in SIZES)
