"""Text made safe for a terminal, whatever a user, a file or an archive put into it.

Class names, paths and values of a recipe end up in tables, notes and error messages. Characters that
a terminal would interpret instead of showing are written as escapes, and values are cut to an excerpt.
"""

import re
import reprlib
from typing import Any

MOST_CHARACTERS = 100  # of a value in a message
# Control characters (C0, DEL, C1), marks and overrides of the writing direction, line and paragraph
# separators, and surrogates, which stand for bytes that are not UTF-8 and cannot be encoded.
UNPRINTABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_SHORT = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(text: str) -> str:
    r"""`text` with every character that a terminal would interpret written as an escape.

    A byte of a path that is not UTF-8 is shown by its value.

    >>> printable("caf\xe9 \x1b[31m b\udce4r")
    'café \\x1b[31m b\\xe4r'
    """
    return UNPRINTABLE.sub(_escape, text)


def _escape(match: re.Match[str]) -> str:
    character = match[0]
    code = ord(character)
    if 0xDC80 <= code <= 0xDCFF:  # how Python represents a byte that is not UTF-8
        code -= 0xDC00
    return _SHORT.get(character) or (f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}")


def shortened(text: str, most: int = MOST_CHARACTERS) -> str:
    """`text`, without its middle if it has more than `most` characters.

    >>> shortened("0123456789", 5)
    '01…89'
    """
    if len(text) <= most:
        return text
    front = (most - 1) // 2
    return f"{text[:front]}…{text[len(text) - (most - 1 - front) :]}"


class _Excerpts(reprlib.Repr):
    def __init__(self) -> None:
        super().__init__()
        self.maxlevel, self.maxdict = 3, 4
        self.maxlist = self.maxtuple = self.maxset = self.maxfrozenset = 8
        self.maxstring = self.maxother = MOST_CHARACTERS

    def repr_int(self, x: int, level: int) -> str:
        # Python refuses to write out a number of more than 4300 digits.
        digits = int(x.bit_length() * 0.30103) + 1
        return f"<a number of about {digits} digits>" if digits > 40 else repr(x)


_excerpts = _Excerpts()


def excerpt(value: Any) -> str:
    """A value as `repr` writes it, shortened however large or deeply nested it is.

    Every message that shows a user's value uses this function.

    >>> excerpt([0, [1, [2, [3]]]]), excerpt("x" * 1000)[:3]
    ('[0, [1, [2, [...]]]]', "'xx")
    """
    return shortened(_excerpts.repr(value), 3 * MOST_CHARACTERS)
