"""Numbers are written in decimal ASCII digits; what is refused is told how to be written."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.notation import decimal, whole


@given(st.integers())
def test_a_whole_number_comes_back(number):
    assert whole(str(number)) == number
    assert decimal(str(number)) == float(number)


@given(st.floats(allow_nan=False))
def test_a_number_comes_back_to_its_last_bit(number):
    assert decimal(repr(number)) == number


@pytest.mark.parametrize("text", ["3.", ".5", "+2E-04", "0", "-0", "0.0", "1e5"])
def test_a_number_may_be_written_as_people_do(text):
    assert decimal(text) == float(text)


def test_nan_is_a_number_for_a_range_to_refuse():
    assert math.isnan(decimal("nan")) and decimal("-Infinity") == -math.inf


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("010", "10"),
        ("٣", "3"),
        ("१२", "12"),
        ("1_000", "1000"),
        ("0x10", "16"),
        ("0b11", "3"),
        ("0o17", "15"),
        (" 3", "3"),
        ("3\n", "3"),
        ("１", "1"),
        ("1:30", "it in decimal digits"),
    ],
)
def test_a_number_in_another_notation_is_refused_with_what_to_write_instead(text, instead):
    for read in (whole, decimal):
        with pytest.raises(ValueError, match=f"; write {instead}$"):
            read(text)


@pytest.mark.parametrize("text", ["", "-", "warm", "1.5.2", "e5", ".", "+-1", "1e", "0x", "\ud800"])
def test_what_is_no_number_is_refused(text):
    for read in (whole, decimal):
        with pytest.raises(ValueError, match="must be a"):
            read(text)


def test_a_fraction_is_no_whole_number_and_a_round_one_is_told_its_digits():
    for text in ("1.5", "nan", "inf"):
        with pytest.raises(ValueError, match="must be a whole number"):
            whole(text)
    with pytest.raises(ValueError, match="; write 1000$"):
        whole("1e3")


@pytest.mark.parametrize("text", ["9" * 5000, "0x" + "f" * 5000], ids=["decimal", "hexadecimal"])
def test_thousands_of_digits_are_refused(text):
    with pytest.raises(ValueError, match="must be a whole number"):
        whole(text)
