"""Every encoding against references in float64: what it stores, decodes and counts, in NumPy and in torch."""

import math

import caches
import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays

from dive.cache.encodings.codec import Codec, Head
from dive.cache.encodings.registry import DEFAULT, ENCODINGS, recommended, row_sizes

CPU = torch.device("cpu")
MOST = float(np.finfo(np.float16).max)
numbers = st.floats(-MOST, MOST, width=32) | st.floats(-30, 30, width=32) | st.sampled_from([0.0, -0.0, 1e-9])
WIDTHS = st.integers(1, 9)
rows_of_numbers = WIDTHS.flatmap(lambda width: arrays.arrays(np.float32, (3, width), elements=numbers))


def codec_of(store: str, width: int, head: Head | None = None) -> Codec:
    """A codec for rows of `width` numbers; for features, the head has four classes."""
    if not ENCODINGS[store].of_features:
        return Codec(ENCODINGS[store], width)
    weight = np.random.default_rng(0).standard_normal((4, width)).astype(np.float32)
    return Codec(ENCODINGS[store], 4, head or Head(weight, np.array([1, -2, 0, 0.5], np.float32)))


def allowed(store: str, values: np.ndarray) -> np.ndarray:
    """The largest error of each value (…, width) in float64, according to the specification of the format."""
    if store == "float32":
        return np.zeros_like(values, np.float64)
    if "int8" not in store:
        return np.maximum(np.abs(values).astype(np.float64) * 2.0**-11, 2.0**-25)
    z = values.astype(np.float64)
    middle = (z.max(axis=-1) / 2 + z.min(axis=-1) / 2).astype(np.float16) if store == "int8" else np.zeros(3)
    largest = np.abs(z - middle[:, None]).max(axis=-1)
    unit = np.maximum(largest / 127 * 2.0**-10, 2.0**-24)  # of float16 at the scale
    size = np.abs(z).max(axis=-1)
    return np.broadcast_to(((largest / 127 + unit) / 2 + size * 2.0**-22)[:, None], z.shape)


@pytest.mark.parametrize("store", caches.STORES)
@given(rows_of_numbers)
def test_what_is_stored_is_read_back_within_what_the_format_says(store, values):
    codec = codec_of(store, values.shape[1])
    stored = codec.encode(values)
    assert stored.shape == (3, *codec.row.shape) and stored.dtype == codec.row.base
    assert stored.nbytes == 3 * codec.row.itemsize
    found = codec.values(stored)
    assert found.dtype == np.float32
    assert (np.abs(found.astype(np.float64) - values) <= allowed(store, values)).all()


@pytest.mark.parametrize("store", caches.STORES)
@given(rows_of_numbers)
def test_the_rounding_that_a_codec_states_holds_for_every_logit(store, values):
    codec = codec_of(store, values.shape[1])
    stored = codec.encode(values)
    exact = values.astype(np.float64)
    if codec.head is not None:
        exact = exact @ codec.head.weight.T.astype(np.float64) + codec.head.bias
    off = np.abs(codec.decode(stored) - exact).max(axis=-1)
    assert (off <= codec.rounding(stored) * (1 + 1e-5)).all()
    assert (
        codec.rounding(stored) <= 0.02 * np.abs(values).sum(axis=-1) * 4 + 1e-5
    ).all()  # and says something


@pytest.mark.parametrize("store", caches.STORES)
@given(rows_of_numbers)
def test_torch_decodes_what_numpy_decodes(store, values):
    """Bit for bit, from rows at any offset, except where the order of a sum in float64 matters."""
    codec = codec_of(store, values.shape[1])
    stored = codec.encode(values)
    words = codec.words(stored)
    assert words.tobytes() == stored.tobytes() and codec.unpacked(words).tobytes() == stored.tobytes()
    found = codec.on_device(CPU)(torch.from_numpy(words)[1:]).numpy()
    expected = codec.decode(stored)[1:]
    assert found.dtype == np.float32
    if codec.head is None:
        np.testing.assert_array_equal(found, expected)
    else:
        sums = np.abs(codec.values(stored)[1:]).astype(np.float64) @ np.abs(codec.head.weight.T) + np.abs(
            codec.head.bias
        )
        order = 2 * (codec.width + 1) * 2.0**-53 * sums
        assert (np.abs(found.astype(np.float64) - expected) <= np.spacing(np.abs(expected)) + order).all()


@pytest.mark.parametrize("store", [store for store in caches.STORES if store.startswith("features")])
def test_the_logits_of_features_are_the_exact_ones_rounded_once_in_numpy_and_torch(store):
    """Against sums without rounding; products of float32 numbers are exact in float64."""
    draw = np.random.default_rng(0)
    head = Head(*(draw.standard_normal(shape).astype(np.float32) for shape in ((10, 64), 10)))
    codec = Codec(ENCODINGS[store], 10, head)
    stored = codec.encode(draw.standard_normal((300, 64)).astype(np.float32))
    features = codec.values(stored).astype(np.float64)
    exact = [
        [math.fsum([*(row * weights), bias]) for weights, bias in zip(head.weight, head.bias, strict=True)]
        for row in features
    ]
    decoded = codec.decode(stored)
    np.testing.assert_array_equal(decoded, np.array(exact).astype(np.float32))
    on_device = codec.on_device(CPU)(torch.from_numpy(codec.words(stored)))
    np.testing.assert_array_equal(on_device.numpy(), decoded)


@pytest.mark.parametrize("store", caches.STORES)
@given(rows_of_numbers, st.floats(0.125, 8, width=32))
def test_the_decoder_of_many_rows_gives_the_logits_times_its_factor_and_their_bound(store, values, factor):
    codec = codec_of(store, values.shape[1])
    stored = codec.encode(values)
    out = np.full((3, codec.classes), np.nan, np.float32)
    bound = codec.decoder(factor).decode(stored, out)
    logits = codec.decode(stored)
    size = np.abs(values).sum(axis=1, keepdims=True) * 8 + 8
    assert (np.abs(out - logits.astype(np.float64) * factor) <= 1e-6 * factor * size).all()
    assert np.abs(logits).max() <= bound * (1 + 1e-5) + 1e-6 and np.isfinite(bound)


@pytest.mark.parametrize("value", [0.0, 3.0, -65504.0, 65504.0, 2.0**-24, 1 / 3, 60000.3])
def test_a_row_of_equal_values_is_read_back_to_float16_rounding_at_worst(value):
    codec = codec_of("int8", 5)
    values = np.full((1, 5), value, np.float32)
    stored = codec.encode(values)
    found = codec.values(stored)
    if float(np.float16(value)) == value:
        assert stored["scale"] == 0 and (found == value).all()
    else:
        assert np.abs(found - values).max() <= np.abs(value) * 2.0**-18


@pytest.mark.parametrize("store", ["int8", "features-int8"])
def test_a_row_without_a_scale_is_stored_as_zeros_whatever_lay_in_memory(store):
    values = np.random.default_rng(0).standard_normal((40, 9)).astype(np.float32)
    equal = 2.5 if store == "int8" else 0.0
    values[::2] = equal
    stored = codec_of(store, 9).encode(values)
    assert (stored["scale"] == 0).tolist() == [True, False] * 20
    assert not stored["values"][::2].any() and stored["values"][1::2].any(axis=1).all()


def test_the_rounding_of_float16_is_from_half_a_unit_in_the_last_place_to_a_whole_one():
    halves = np.arange(0x7BFF, dtype=np.uint16).view(np.float16)  # from 0 to below the largest
    unit = np.spacing(halves).astype(np.float64)
    rounding = ENCODINGS["float16"].numbers.rounding
    found = rounding(halves)
    np.testing.assert_array_equal(rounding(-halves), found)
    assert (found >= unit / 2).all() and (found <= unit + 2.0**-25).all()


@pytest.mark.parametrize("store", ["int8", "features-int8"])
@pytest.mark.parametrize("value", [2.0**-24, 1e-7, 1e-12, 1e-40])
def test_a_scale_below_float16s_smallest_is_rounded_up_to_it(store, value):
    codec = codec_of(store, 3)
    stored = codec.encode(np.array([[0, value, -value]], np.float32))
    assert stored["scale"] == np.float16(2.0**-24)
    assert np.abs(codec.values(stored) - [[0, value, -value]]).max() <= 2.0**-25


def test_the_widest_row_has_a_scale_that_float16_holds():
    codec = codec_of("int8", 3)
    stored = codec.encode(np.array([[MOST, -MOST, 0]], np.float32))
    assert np.isfinite(stored["scale"]).all()
    np.testing.assert_allclose(codec.values(stored), [[MOST, -MOST, 0]], atol=MOST / 254)


@given(arrays.arrays(np.float32, (4, 6), elements=st.floats(-50, 50, width=32)))
def test_an_int8_row_uses_the_smallest_scale_that_cuts_nothing_off(values):
    for store in ("int8", "features-int8"):
        codec = codec_of(store, 6)
        stored = codec.encode(values)
        offset = stored["offset"].astype(np.float64) if store == "int8" else np.zeros(4)
        needed = np.abs(values.astype(np.float64) - offset[:, None]).max(axis=1) / 127
        scale = stored["scale"].astype(np.float64)
        assert (scale >= needed * (1 - 2.0**-23)).all()
        below = np.nextafter(stored["scale"], np.float16(0)).astype(np.float64)
        assert ((below < needed * (1 + 2.0**-23)) | (scale == 0)).all()


@pytest.mark.parametrize("store", caches.STORES)
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 1e30, 65520.0])
def test_what_is_not_finite_as_stored_is_refused_with_what_it_is(store, value):
    codec = codec_of(store, 4)
    values = np.ones((2, 4), np.float32)
    values[1, 2] = value
    if store == "float32" and np.isfinite(value):
        assert codec.values(codec.encode(values))[1, 2] == np.float32(value)
        return
    with pytest.raises(ValueError, match=f"{ENCODINGS[store].table} are not finite in float"):
        codec.encode(values)


def test_features_whose_logits_are_not_finite_are_refused():
    head = Head(np.full((4, 2), 3e38, np.float32), np.zeros(4, np.float32))
    for store in ("features", "features-int8"):
        with pytest.raises(ValueError, match="make logits that are not finite"):
            codec_of(store, 2, head).encode(np.full((1, 2), 100, np.float32))


@pytest.mark.parametrize("store", caches.STORES)
@given(st.integers(1, 5), st.integers(1, 4), st.integers(0, 1000))
def test_views_that_are_right_are_counted_as_a_loop_counts_them(store, n, v, seed):
    values = caches.values(store, n, v, 4, seed)
    codec = caches.content_for(values, store=store).codec
    stored = codec.encode(values)
    labels = np.random.default_rng(seed).integers(0, 4, n)
    logits = codec.decode(stored)
    right = sum(int(logits[i, j].argmax() == labels[i]) for i in range(n) for j in range(v))
    assert codec.correct(stored, labels) == right and codec.confirms(stored, labels, right)
    again, counted = codec.encode_counted(values, labels)
    assert again.tobytes() == stored.tobytes() and counted == right
    assert not codec.confirms(stored, labels, right + 1) and not codec.confirms(stored, labels, right - 1)


def test_a_count_may_differ_by_the_near_ties_of_a_product_and_by_no_more():
    """Two classes of the same weights: their logits are equal, or differ by the rounding of another BLAS."""
    weight = np.random.default_rng(0).standard_normal((3, 64)).astype(np.float32)
    weight[1] = weight[0]
    codec = Codec(ENCODINGS["features"], 3, Head(weight, np.array([9, 9, -9], np.float32)))
    stored = codec.encode(np.random.default_rng(1).standard_normal((5, 2, 64)).astype(np.float32) / 8)
    labels = np.zeros(5, np.int64)
    assert codec.correct(stored, labels) == 10  # the first of equal ones
    assert [codec.confirms(stored, labels, count) for count in (-1, 0, 5, 10, 20, 21)] == [0, 1, 1, 1, 1, 0]
    apart = Codec(ENCODINGS["features"], 3, Head(weight, np.array([9, 9 - 1e-2, -9], np.float32)))
    assert [apart.confirms(stored, labels, count) for count in (9, 10, 11)] == [False, True, False]
    logits = Codec(ENCODINGS["float16"], 3)
    ties = logits.encode(np.zeros((5, 2, 3), np.float32))
    assert [logits.confirms(ties, labels, count) for count in (9, 10, 11)] == [False, True, False]


@pytest.mark.parametrize(("apart", "near"), [(0.5, True), (1.5, True), (1.9, True), (2.1, False)])
def test_two_logits_are_near_where_both_roundings_together_may_change_their_order(apart, near):
    """Of features of 0 the logits are the biases, which may be off by 2·(D + 2) units of the largest."""
    rounding = 2 * (64 + 2) * 2.0**-24
    bias = np.array([1, 1 - apart * rounding, -1], np.float32)
    codec = Codec(ENCODINGS["features"], 3, Head(np.ones((3, 64), np.float32), bias))
    stored, labels = codec.encode(np.zeros((5, 2, 64), np.float32)), np.zeros(5, np.int64)
    assert codec.correct(stored, labels) == 10
    assert [codec.confirms(stored, labels, count) for count in (10, 9, 0)] == [True, near, near]


@pytest.mark.parametrize("width", range(1, 18))
def test_words_divide_a_row_whatever_its_width(width):
    for store in caches.STORES:
        codec = codec_of(store, width)
        assert (
            codec.words(np.zeros((2, 3, *codec.row.shape), codec.row.base)).nbytes == 6 * codec.row.itemsize
        )


def test_the_sizes_of_rows_are_those_of_the_table_in_the_field():
    assert row_sizes(100, 64) == {
        "float16": 200,
        "float32": 400,
        "int8": 104,
        "features": 128,
        "features-int8": 66,
    }
    assert row_sizes(100, None).keys() == {"float16", "float32", "int8"}
    assert recommended(row_sizes(100, 64)) == "features-int8"
    assert recommended(row_sizes(100, 49)) == "features"
    assert recommended(row_sizes(100, None)) is None
    assert DEFAULT == "float16" and list(ENCODINGS)[0] == DEFAULT


def test_features_need_a_head_and_logits_have_none():
    with pytest.raises(ValueError, match="features takes a head"):
        Codec(ENCODINGS["features"], 3)
    with pytest.raises(ValueError, match="int8 has no head"):
        Codec(ENCODINGS["int8"], 4, codec_of("features", 4).head)
