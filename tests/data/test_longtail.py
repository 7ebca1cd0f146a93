"""The long-tailed draw: counts against the published table, the draw against a naive one."""

import dataclasses
import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from dive.data.longtail import (
    FINGERPRINT_VERSION,
    Samples,
    class_counts,
    draw,
    long_tailed,
    shot_groups,
    shot_means,
    untouched_test,
)
from dive.data.pictures import HeldPictures
from dive.data.sources.registry import open_source
from dive.data.sources.source import Source, Split
from dive.errors import DataError

# IF: training images, classes in many/medium/few, mean images a class in them (FIELD.md, section 2)
TABLE = {
    10: (19_573, (69, 31, 0), ("251.3", "71.9", None)),
    50: (12_608, (41, 41, 18), ("252.0", "49.5", "13.8")),
    100: (10_847, (35, 35, 30), ("252.1", "49.1", "10.2")),
    200: (9_502, (30, 31, 39), ("255.1", "49.8", "7.8")),
}


def shape_of(counts: list[int]) -> tuple:
    """Total, classes and mean images per class of the many, medium and few, by plain comparison."""
    groups = [
        [n for n in counts if n > 100],
        [n for n in counts if 20 <= n <= 100],
        [n for n in counts if n < 20],
    ]
    means = tuple(f"{sum(g) / len(g):.1f}" if g else None for g in groups)
    return sum(counts), tuple(len(g) for g in groups), means


@pytest.mark.parametrize("imbalance", TABLE)
def test_the_class_counts_are_those_of_the_published_table(imbalance):
    counts = class_counts(500, imbalance, 100)
    assert shape_of(counts) == TABLE[imbalance]
    assert counts[0] == 500 and counts[-1] == int(500 / imbalance)
    assert counts == sorted(counts, reverse=True)


def test_the_class_counts_at_imbalance_100_one_by_one():
    counts = class_counts(500, 100, 100)
    assert counts[:10] == [500, 477, 455, 434, 415, 396, 378, 361, 344, 328]
    assert counts[66:72] == [23, 22, 21, 20, 19, 18]
    assert counts[-5:] == [6, 5, 5, 5, 5]


def test_cifar10_at_imbalance_100_counts_as_published():
    # Cao et al. 2019, CIFAR-10-LT: 12 406 images.
    counts = class_counts(5000, 100, 10)
    assert counts == [5000, 2997, 1796, 1077, 645, 387, 232, 139, 83, 50]
    assert sum(counts) == 12_406


@pytest.mark.parametrize("imbalance", [50, 100, 200])
def test_the_one_class_with_exactly_20_images_is_of_the_medium(imbalance):
    counts = class_counts(500, imbalance, 100)
    (twenty,) = (c for c, n in enumerate(counts) if n == 20)
    groups = shot_groups(np.array(counts))
    assert twenty in groups["medium"] and twenty not in groups["few"]
    assert {name: len(members) for name, members in groups.items()} == dict(
        zip(("many", "medium", "few"), TABLE[imbalance][1], strict=True)
    )


def test_no_imbalance_leaves_all_classes_alike():
    assert class_counts(7, 1, 4) == [7, 7, 7, 7]


def test_a_single_class_keeps_everything():
    assert class_counts(7, 100, 1) == [7]


def test_the_shots_begin_and_end_where_the_field_says():
    groups = shot_groups(np.array([101, 100, 20, 19, 500, 1]))
    assert {name: members.tolist() for name, members in groups.items()} == {
        "many": [0, 4],
        "medium": [1, 2],
        "few": [3, 5],
    }


@given(st.lists(st.integers(1, 600), min_size=1, max_size=30))
def test_every_class_is_in_just_one_shot_group(counts):
    groups = shot_groups(np.array(counts))
    assert sorted(np.concatenate(list(groups.values())).tolist()) == list(range(len(counts)))


def split_of(counts: list[int], order: list[int] | None = None) -> Split:
    """A split with so many images a class; an image is one pixel that holds its position by key."""
    pairs = [(f"c{label}/{i:03d}.png", label) for label, count in enumerate(counts) for i in range(count)]
    pixels = np.arange(len(pairs), dtype=np.uint8).reshape(-1, 1, 1, 1)
    order = list(range(len(pairs))) if order is None else order
    return Split(
        keys=[pairs[i][0] for i in order],
        labels=np.array([pairs[i][1] for i in order], dtype=np.int64),
        read=lambda position: pixels[order[position]],
    )


def names_of(counts: list[int]) -> tuple[str, ...]:
    return tuple(f"c{label}" for label in range(len(counts)))


def drawn_keys(split: Split, counts: list[int], imbalance: float | None, seed: int = 0) -> set[str]:
    return {split.keys[i] for i in draw(split, names_of(counts), imbalance, seed)}


def naive_draw(keys_of_class: dict[str, list[str]], imbalance: float, seed: int) -> set[str]:
    """The drawn keys, straight from the words: the smallest SHA-256 of seed and key of each class."""
    largest, classes = max(map(len, keys_of_class.values())), len(keys_of_class)
    chosen = set()
    for c, name in enumerate(sorted(keys_of_class)):
        ranked = sorted(keys_of_class[name], key=lambda k: hashlib.sha256(f"{seed}\0{k}".encode()).digest())
        chosen |= set(ranked[: int(largest * (1 / imbalance) ** (c / max(classes - 1, 1)))])
    return chosen


def test_the_draw_is_the_naive_one():
    counts = [40, 30, 40, 6]
    split = split_of(counts)
    by_class = {name: [k for k in split.keys if k.startswith(f"{name}/")] for name in names_of(counts)}
    for imbalance in (1, 4, 40):
        for seed in (0, 1):
            expected = naive_draw(by_class, imbalance, seed)
            assert drawn_keys(split, counts, imbalance=imbalance, seed=seed) == expected


def test_the_positions_of_the_draw_ascend():
    counts = [30, 20, 10]
    chosen = draw(split_of(counts), names_of(counts), 5, 0)
    assert chosen.dtype == np.int64 and (np.diff(chosen) > 0).all()


counts_lists = st.lists(st.integers(1, 25), min_size=2, max_size=6)


def tail(counts: list[int], imbalance: float) -> list[int]:
    shares = [(1 / imbalance) ** (c / max(len(counts) - 1, 1)) for c in range(len(counts))]
    return [min(n, int(max(counts) * share)) for n, share in zip(counts, shares, strict=True)]


@given(counts_lists, st.floats(1, 25), st.integers(0, 2**63 - 1), st.randoms(use_true_random=False))
def test_the_draw_is_the_same_for_every_order_of_the_source(counts, imbalance, seed, random):
    assume(min(tail(counts, imbalance)) > 0)
    order = list(range(sum(counts)))
    random.shuffle(order)
    settings = {"imbalance": imbalance, "seed": seed}
    shuffled = drawn_keys(split_of(counts, order), counts, **settings)
    assert shuffled == drawn_keys(split_of(counts), counts, **settings)


@given(counts_lists, st.floats(1, 25), st.floats(1, 25))
def test_the_draw_at_a_higher_imbalance_is_part_of_that_at_a_lower(counts, one, other):
    low, high = sorted((one, other))
    assume(min(tail(counts, high)) > 0)
    split = split_of(counts)
    assert drawn_keys(split, counts, imbalance=high) <= drawn_keys(split, counts, imbalance=low)


@given(counts_lists, st.floats(1, 25))
def test_a_class_keeps_its_share_of_the_largest_or_all_it_has(counts, imbalance):
    expected = tail(counts, imbalance)
    assume(min(expected) > 0)
    split = split_of(counts)
    chosen = draw(split, names_of(counts), imbalance, 0)
    assert np.bincount(split.labels[chosen], minlength=len(counts)).tolist() == expected


def test_no_imbalance_given_takes_every_image():
    counts = [3, 9, 1]
    assert len(drawn_keys(split_of(counts), counts, imbalance=None)) == 13


def test_another_seed_draws_other_images_in_the_same_numbers():
    counts = [40, 40, 40]
    split = split_of(counts)
    first, second = (drawn_keys(split, counts, imbalance=10, seed=seed) for seed in (0, 1))
    assert len(first) == len(second) and first != second


def test_an_imbalance_that_empties_a_class_is_refused_by_name():
    counts = [9, 9, 9]
    with pytest.raises(DataError, match=r"at imbalance 10 class c2 would have no training image"):
        draw(split_of(counts), names_of(counts), 10, 0)


@pytest.mark.parametrize("imbalance", [None, 2])
@pytest.mark.parametrize(("counts", "name"), [([9, 0, 9], "c1"), ([9, 9, 0], "c2")])
def test_a_class_without_any_image_is_refused_by_name(counts, name, imbalance):
    with pytest.raises(DataError, match=f"^class {name} has no training image; add some"):
        draw(split_of(counts), names_of(counts), imbalance, 0)


def small_source(read: list[int]) -> Source:
    """A source that notes which training images are read."""
    split, test = split_of([12, 12]), split_of([2, 2])

    def noted(position: int) -> np.ndarray:
        read.append(position)
        return split.read(position)

    return Source(("c0", "c1"), dataclasses.replace(split, read=noted), test)


def test_a_long_tailed_data_set_holds_the_drawn_images_under_their_keys_and_the_whole_test_set():
    source = small_source([])
    train, test = long_tailed(source, 4, 0), untouched_test(source)
    assert train.counts.tolist() == [12, 3]
    assert len(train) == 15 and train.keys == sorted(train.keys)
    for key, label, image in zip(train.keys, train.labels, train.pictures.held, strict=True):
        assert key.startswith(f"c{label}/")
        assert source.train.keys[image.item()] == key
    assert test.keys == source.test.keys
    assert test.pictures.held.ravel().tolist() == [0, 1, 2, 3]
    assert test.labels.tolist() == [0, 0, 1, 1]


def test_only_the_drawn_images_are_read():
    read: list[int] = []
    source = small_source(read)
    train = long_tailed(source, 4, 0)
    # The first is read once more, to find out how much memory all of them need.
    assert [source.train.keys[i] for i in read] == [train.keys[0], *train.keys]


def digests_of(pixels: np.ndarray) -> np.ndarray:
    """16 bytes of SHA-256 over shape and pixels of each picture, (N, 16) uint8."""
    each = [hashlib.sha256(f"{picture.shape}".encode() + bytes(picture.ravel())) for picture in pixels]
    return np.array([list(one.digest()[:16]) for one in each], dtype=np.uint8)


def samples(**changes: object) -> Samples:
    """Three small pictures; `pixels` gives others."""
    pixels = changes.pop("pixels", PIXELS)
    whole = {
        "keys": ["cat/1.png", "cat/2.png", "dog/1.png"],
        "labels": np.array([0, 0, 1]),
        "pictures": HeldPictures(pixels),
        "digests": digests_of(pixels),
        "classes": ("cat", "dog"),
    }
    return Samples(**(whole | changes))


PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 2, 2, 3)


def with_pixel(images: np.ndarray) -> np.ndarray:
    changed = images.copy()
    changed[2, 1, 1, 2] ^= 1
    return changed


@pytest.mark.parametrize("version", [1, FINGERPRINT_VERSION])
@pytest.mark.parametrize(
    "change",
    [
        {"keys": ["cat/1.png", "cat/3.png", "dog/1.png"]},
        {"keys": ["cat/2.png", "cat/1.png", "dog/1.png"]},
        {"keys": ["cat/1.pngcat/", "2.png", "dog/1.png"]},
        {"labels": np.array([0, 1, 1])},
        {"classes": ("cat", "god")},
        {"classes": ("cat", "dog", "eel")},
        {"pixels": with_pixel(PIXELS)},
        {"pixels": PIXELS.reshape(3, 2, 6, 1)},
    ],
    ids=["key", "order of keys", "end of a key", "label", "class", "one more class", "pixel", "shape"],
)
def test_the_fingerprint_moves_with(change, version):
    assert samples(**change).fingerprint_of(version) != samples().fingerprint_of(version)


@pytest.mark.parametrize("version", [1, FINGERPRINT_VERSION])
def test_the_fingerprint_does_not_move_with_types_or_memory_layout(version):
    same = samples(
        labels=np.array([0, 0, 1], dtype=np.int32),
        pixels=np.asfortranarray(PIXELS),
        digests=np.asfortranarray(digests_of(PIXELS)),
    )
    assert same.fingerprint_of(version) == samples().fingerprint_of(version)


NAMED = b"cat\0dog\0\0" + b"cat/1.png\0cat/2.png\0dog/1.png\0\0" + bytes(16) + b"\1" + bytes(7)


def test_the_fingerprint_is_the_one_stored_with_caches_and_checkpoints():
    # Written out: a change of this value makes every existing cache one of another data set.
    digests = [hashlib.sha256(b"(2, 2, 3)" + bytes(range(at, at + 12))).digest()[:16] for at in (0, 12, 24)]
    assert samples().fingerprint == hashlib.sha256(NAMED + b"".join(digests)).hexdigest()
    assert samples().fingerprint == samples().fingerprint_of(2)


def test_the_fingerprint_of_dive_0_1_is_that_over_pixels_instead_of_digests():
    written = hashlib.sha256(NAMED + b"(3, 2, 2, 3)" + bytes(range(36)))
    assert samples().fingerprint_of(1) == written.hexdigest()
    one_by_one = samples(pictures=HeldPictures(list(PIXELS)))
    assert one_by_one.fingerprint_of(1) == written.hexdigest()
    several = HeldPictures([PIXELS[0], PIXELS[1], PIXELS[2].reshape(1, 4, 3)])
    assert samples(pictures=several).fingerprint == samples().fingerprint  # its digests are given
    assert len(samples(pictures=several).fingerprint_of(1)) == 64


class OnDemand:
    """Pictures that are read from files when they are needed."""

    on_demand = True

    def read(self, row: int) -> np.ndarray:
        return PIXELS[row]


def test_the_fingerprint_of_pictures_on_demand_is_over_their_files_and_over_their_pixels_where_asked():
    files = np.arange(48, dtype=np.uint8).reshape(3, 16)
    of_files = samples(pictures=OnDemand(), digests=files)
    assert (of_files.digests_of, samples().digests_of) == ("files", "pixels")
    assert of_files.fingerprint == hashlib.sha256(NAMED + bytes(range(48))).hexdigest()
    assert of_files.fingerprint_of(2, "pixels") == samples().fingerprint
    assert of_files.fingerprint_of(1) == samples().fingerprint_of(1)


def test_a_subset_has_the_samples_asked_for_in_their_order():
    rows = np.array([2, 0])
    part = samples().subset(rows)
    assert part.keys == ["dog/1.png", "cat/1.png"] and part.labels.tolist() == [1, 0]
    np.testing.assert_array_equal(part.pictures.held, PIXELS[[2, 0]])
    np.testing.assert_array_equal(part.digests, digests_of(PIXELS)[[2, 0]])
    assert part.classes == ("cat", "dog") and part.counts.tolist() == [1, 1]
    assert part.fingerprint != samples().fingerprint


def test_a_samples_identity_is_that_of_its_key():
    digests = [hashlib.sha256(key.encode()).digest()[:8] for key in samples().keys]
    assert samples().hashes.tolist() == [int.from_bytes(digest, "little") for digest in digests]


def test_counts_include_classes_without_an_image():
    assert samples(classes=("cat", "dog", "eel")).counts.tolist() == [2, 1, 0]


PROGRAM = """
import json, sys
from dive.data.longtail import class_counts, draw
from dive.randomness import epoch_order, key_hashes, stored_choice
from dive.data.sources.source import Split
import numpy as np
keys = [f"c{c}/é{i}.png" for c in range(3) for i in range(30)]
labels = np.repeat(np.arange(3), 30)
split = Split(keys, labels, None)
hashes = key_hashes(keys)
print(json.dumps([
    draw(split, ("c0", "c1", "c2"), 10, 0).tolist(),
    epoch_order(1, 2, hashes).tolist(),
    stored_choice(0, hashes, 162, 3).tolist(),
    "torch" in sys.modules,
]))
"""


def test_every_process_draws_the_same_and_needs_no_torch_for_it():
    answers = []
    for hash_seed in ("0", "12345"):
        environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "LC_ALL": "C"}
        done = subprocess.run(
            [sys.executable, "-W", "error", "-c", PROGRAM], env=environment, capture_output=True, check=True
        )
        answers.append(json.loads(done.stdout))
    assert answers[0] == answers[1]
    assert answers[0][-1] is False


@pytest.fixture(scope="module")
def cifar100(shared_data):
    return open_source("cifar100", root=str(shared_data))


def test_the_draw_from_the_real_cifar100_at_imbalance_100_is_the_naive_one(cifar100):
    chosen = draw(cifar100.train, cifar100.classes, 100, 0)
    keys = {cifar100.train.keys[i] for i in chosen}
    assert len(chosen) == len(keys) == 10_847
    by_class: dict[str, list[str]] = {}
    for key in cifar100.train.keys:
        by_class.setdefault(key.split("/")[0], []).append(key)
    assert {len(members) for members in by_class.values()} == {500}
    assert keys == naive_draw(by_class, 100, 0)


@pytest.mark.parametrize("imbalance", TABLE)
def test_the_draw_from_the_real_cifar100_counts_as_the_table(cifar100, imbalance):
    chosen = draw(cifar100.train, cifar100.classes, imbalance, 0)
    counts = np.bincount(cifar100.train.labels[chosen], minlength=100)
    assert shape_of(counts.tolist()) == TABLE[imbalance]
    assert np.bincount(cifar100.test.labels).tolist() == [100] * 100


def test_the_shots_means_are_those_of_their_classes_and_none_where_there_is_no_class():
    means = shot_means(np.array([1.0, 2.0, 4.0, 8.0]), np.array([500, 101, 100, 20]))
    assert means == {"many": 1.5, "medium": 6.0, "few": None}


def test_a_data_set_of_one_class_is_refused():
    with pytest.raises(DataError, match="only one class, cat"):
        draw(Split(["cat/1"], np.array([0]), lambda _: np.zeros((1, 1, 1), np.uint8)), ("cat",), None, 0)
