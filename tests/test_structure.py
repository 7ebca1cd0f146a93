"""What a document must look like: the first fault of a wrong one, in words."""

import math

import pytest

from dive import structure as s

NEEDED = {
    "name": s.text,
    "sizes": s.list_of(s.whole(1)),
    "accuracy": s.record_of({"all": s.share, "few": s.or_none(s.share)}),
    "how/kind": s.one_of("a", "b"),
    "done": s.truth,
    "rate": s.number(low=0),
    "ends": s.interval(0.1, 1),
    "each": s.numbers((0, 1), (-5, 5)),
}
RIGHT = {
    "name": "x",
    "sizes": [1, 2],
    "accuracy": {"all": 0.5, "few": None},
    "how": {"kind": "a", "more": [None, "free"]},
    "done": False,
    "rate": 3,
    "ends": [0.1, 1],
    "each": [1, -5.0],
    "beside": {"it": [1.5, True]},
}


def test_a_right_document_has_no_fault():
    assert s.fault_of(RIGHT, NEEDED, {"later": s.text}) == ""
    assert s.fault_of(RIGHT | {"later": "x"}, NEEDED, {"later": s.text}) == ""


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        ({"name": 3}, "its name is 3, not a string"),
        ({"sizes": [1, 0]}, "its sizes is [1, 0], not a list in which each item is a whole number >= 1"),
        ({"sizes": [True]}, "its sizes is [True], not a list in which each item is a whole number >= 1"),
        ({"sizes": {}}, "its sizes is {}, not a list"),
        ({"accuracy": {"all": 0.5}}, "as it must be: it has no few"),
        ({"accuracy": {"all": 1.5, "few": None}}, "its all is 1.5, not a number from 0 to 1"),
        ({"accuracy": {"all": 0.5, "few": "x"}}, "its few is 'x', not a number from 0 to 1 or null"),
        ({"accuracy": 3}, "its accuracy is 3, not as it must be: it is 3, not a mapping"),
        ({"how": {}}, "it has no how/kind"),
        ({"how": 3}, "it has no how/kind"),
        ({"how": {"kind": "c"}}, "its how/kind is 'c', not one of a, b"),
        ({"done": 1}, "its done is 1, not true or false"),
        ({"rate": -1}, "its rate is -1, not a number"),
        ({"rate": True}, "its rate is True, not a number"),
        ({"ends": [0.5, 0.2]}, "its ends is [0.5, 0.2], not two numbers from 0.1 to 1, the smaller first"),
        ({"ends": [0.5]}, "its ends is [0.5], not two numbers from 0.1 to 1, the smaller first"),
        ({"ends": 0.5}, "its ends is 0.5, not two numbers from 0.1 to 1, the smaller first"),
        ({"ends": [0, 1]}, "its ends is [0, 1], not two numbers from 0.1 to 1, the smaller first"),
        ({"each": [1, 6]}, "its each is [1, 6], not 2 numbers (0 to 1, -5 to 5)"),
        ({"each": [1]}, "its each is [1], not 2 numbers (0 to 1, -5 to 5)"),
        ({"each": [True, 0]}, "its each is [True, 0], not 2 numbers (0 to 1, -5 to 5)"),
        ({"later": 3}, "its later is 3, not a string"),
        ({"beside": {"it": math.nan}}, "its beside/it is nan"),
        ({"beside": {"it": 2**63}}, "its beside/it is too large a number"),
        ({"beside": {"it": -(2**70)}}, "its beside/it is too large a number"),
        ({"beside": {3: "x"}}, "its beside has the key 3, which is not a string"),
        ({"beside": {"it": b"x"}}, "its beside/it is of type bytes"),
        ({"beside": (1, 2)}, "its beside is of type tuple"),
    ],
)
def test_the_first_fault_is_told(change, fault):
    assert fault in s.fault_of(RIGHT | change, NEEDED, {"later": s.text})


@pytest.mark.parametrize("document", [None, 3, "x", [], [RIGHT]])
def test_what_is_no_mapping_is_told(document):
    assert "not a mapping" in s.fault_of(document, NEEDED)


def test_what_is_missing_is_told():
    for path in ("name", "sizes", "accuracy", "how", "done", "rate"):
        left = {key: value for key, value in RIGHT.items() if key != path}
        assert f"it has no {path}" in s.fault_of(left, NEEDED)


@pytest.mark.parametrize("wrap", [lambda value: [value], lambda value: {"x": value}])
def test_nesting_has_an_end(wrap):
    value = 1
    for _ in range(s.MOST_LEVELS):
        value = wrap(value)
    assert s.not_plain(value) == ""
    for _ in range(100_000):
        value = wrap(value)
    assert "nested too deeply" in s.not_plain(value)


def test_messages_stay_short_whatever_the_value():
    for value in ("x" * 10**6, list(range(10**6)), {"k" * 10**6: 1}):
        assert len(s.fault_of(RIGHT | {"name": value}, NEEDED)) < 700
    assert len(s.not_plain({"k" * 10**6: b""})) < 300
