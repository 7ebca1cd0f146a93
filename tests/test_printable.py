"""Text for a terminal: what it would obey is shown instead, values are cut to an excerpt."""

import os
import time
import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.printable import MOST_CHARACTERS, excerpt, printable, shortened

OBEYED = {"Cc", "Cs", "Zl", "Zp"}  # control characters, surrogates, line and paragraph separators
DIRECTIONS = {"LRE", "RLE", "PDF", "LRO", "RLO", "LRI", "RLI", "FSI", "PDI"}
MARKS = "\u200e\u200f\u061c"


def test_no_character_that_a_terminal_obeys_is_printable_and_every_other_is_left_as_it_is():
    for code in range(0x110000):
        character = chr(code)
        obeyed = (
            unicodedata.category(character) in OBEYED
            or unicodedata.bidirectional(character) in DIRECTIONS
            or character in MARKS
        )
        shown = printable(character)
        assert shown.isascii() and shown.startswith("\\") if obeyed else shown == character, hex(code)


@given(st.text())
def test_what_is_printable_stays_so(text):
    assert printable(printable(text)) == printable(text)


def test_a_byte_that_is_not_utf8_is_shown_as_the_byte_it_is():
    assert printable(os.fsdecode(b"b\xe4r \xff")) == r"b\xe4r \xff"
    assert printable("a\nb\tc\rd\0e\x1b[31m\u202e\ud800") == r"a\nb\tc\rd\x00e\x1b[31m\u202e\ud800"


@given(st.text(), st.integers(3, 20))
def test_a_shortened_text_keeps_its_ends_and_is_not_longer_than_allowed(text, most):
    short = shortened(text, most)
    assert len(short) <= most
    if len(text) <= most:
        assert short == text
    else:
        front, _, back = short.partition("…")
        assert text.startswith(front) and text.endswith(short[len(front) + 1 :])


def laughing(levels: int) -> list:
    """Lists of lists that share their parts: 10 ** levels values when they are written out."""
    value: list = ["ha"]
    for _ in range(levels):
        value = [value] * 10
    return value


@pytest.mark.parametrize(
    "value",
    [laughing(9), "x" * 10**6, ["x" * 10**6] * 10**6, {"k" * 10**6: laughing(9)}, 10**100_000, -(10**5000)],
    ids=["shared", "text", "texts", "keys", "number", "negative"],
)
def test_the_excerpt_of_a_huge_value_is_short_and_takes_no_time(value):
    begin = time.process_time()
    assert len(excerpt(value)) <= 3 * MOST_CHARACTERS
    assert time.process_time() - begin < 0.2


@pytest.mark.parametrize("value", ["seed", 3, 1e300, [1, "x"], {"a": None}, (0.5, 2.0), True, "\x1b[31m"])
def test_the_excerpt_of_an_ordinary_value_is_its_repr(value):
    assert excerpt(value) == repr(value)
