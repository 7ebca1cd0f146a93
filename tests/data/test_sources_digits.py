"""scikit-learn's digits: the embedded data set and its fixed split."""

import hashlib
import sys

import numpy as np
import pytest
from reading import pictures
from sklearn.datasets import load_digits

from dive.data.longtail import long_tailed, untouched_test
from dive.data.sources.registry import open_source
from dive.errors import DataError


def test_four_fifths_of_every_class_are_for_training():
    source = open_source("digits")
    assert source.classes == tuple("0123456789")
    # load_digits has 178 182 177 183 181 182 181 179 174 180 images a class
    assert np.bincount(source.test.labels).tolist() == [36, 36, 35, 37, 36, 36, 36, 36, 35, 36]
    assert np.bincount(source.train.labels).tolist() == [142, 146, 142, 146, 145, 146, 145, 143, 139, 144]


def test_every_digit_is_in_one_split_under_its_own_key():
    source = open_source("digits")
    keys = source.train.keys + source.test.keys
    assert len(set(keys)) == len(keys) == 1797
    for split in (source.train, source.test):
        assert split.keys == sorted(split.keys)
        assert [key.split("/")[0] for key in split.keys] == [str(label) for label in split.labels]


def test_a_digit_is_scikit_learns_own_scaled_to_a_byte():
    bunch = load_digits()
    source = open_source("digits")
    for split in (source.train, source.test):
        images = pictures(split)
        assert images.shape == (len(split.keys), 8, 8, 1) and images.dtype == np.uint8
        for key, label, image in zip(split.keys, split.labels, images, strict=True):
            row = int(key.removeprefix(f"{label}/digit_"))
            assert bunch.target[row] == label
            np.testing.assert_allclose(image[..., 0], bunch.images[row] * 255 / 16, atol=0.5)


def test_the_test_digits_of_a_class_are_those_first_by_the_sha256_of_their_keys():
    source = open_source("digits")
    for label in range(10):
        members = [key for key in source.train.keys + source.test.keys if key.startswith(f"{label}/")]
        members.sort(key=lambda key: hashlib.sha256(f"0\0{key}".encode()).digest())
        held_out = sorted(members[: round(len(members) / 5)])
        assert [key for key in source.test.keys if key in members] == held_out


def test_the_split_does_not_move_with_the_seed_of_the_draw():
    source = open_source("digits")
    tests = [untouched_test(source).keys for _ in (0, 1)]
    drawn = [long_tailed(source, 50, seed).keys for seed in (0, 1)]
    assert drawn[0] != drawn[1] and tests[0] == tests[1] == source.test.keys
    assert all(set(keys) <= set(source.train.keys) for keys in drawn)
    again = open_source("digits")
    assert again.train.keys == source.train.keys and again.test.keys == source.test.keys


def test_the_long_tail_of_the_demo_has_399_images():
    # int(146 · 50^(-c/9)), or all 142 of the first class, which has fewer than the largest
    source = open_source("digits")
    assert long_tailed(source, 50, 0).counts.tolist() == [142, 94, 61, 39, 25, 16, 10, 6, 4, 2]
    assert len(source.test.keys) == 359


def test_without_scikit_learn_the_user_is_told_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(DataError, match="pip install scikit-learn"):
        open_source("digits")
