"""How numbers are written: in decimal ASCII digits, with an optional sign, point and exponent.

The rules are the same in YAML files, in `--set` and in options. YAML 1.1 reads 010 as 8 and 1:30 as 90;
Python reads the digits of every script and 1_000. A number that a person and the program may read differently
is refused.
"""

import re

_MOST_DIGITS = 1000  # of a whole number: far beyond any range, and still fast for int()
WHOLE = rf"[-+]?(?:0|[1-9][0-9]{{0,{_MOST_DIGITS - 1}}})"
DECIMAL = r"[-+]?(?:(?:0|[1-9][0-9]*)(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][-+]?[0-9]+)?"
_NOT_FINITE = r"[-+]?(?:nan|inf|infinity)"  # left to the check of a range, which says what is allowed


def whole(text: str) -> int:
    """`text` as a whole number; raises ValueError, which says what to write instead.

    >>> whole("-12"), whole("+3")
    (-12, 3)
    """
    if not re.fullmatch(WHOLE, text):
        raise ValueError(f"must be a whole number{advice(text)}")
    return int(text)


def decimal(text: str) -> float:
    """`text` as a number, nan and inf included; raises ValueError, which says what to write instead.

    >>> decimal("2e-4"), decimal(".5")
    (0.0002, 0.5)
    """
    if not re.fullmatch(DECIMAL, text) and not re.fullmatch(_NOT_FINITE, text, re.IGNORECASE | re.ASCII):
        raise ValueError(f"must be a number{advice(text)}")
    return float(text)


def advice(text: str) -> str:
    """The end of a message: what to write instead of a number in another notation; empty if it is no number.

    >>> advice("0x10"), advice("010"), advice("1_000"), advice("1:30"), advice("warm")
    ('; write 16', '; write 10', '; write 1000', '; write it in decimal digits', '')
    """
    if len(text) > _MOST_DIGITS:
        return ""
    for read in (lambda: int(text, 0), lambda: int(text), lambda: float(text)):
        try:
            number = read()
        except ValueError:
            continue
        return f"; write {number:.15g}" if isinstance(number, float) else f"; write {number}"
    return "; write it in decimal digits" if re.match(r"[-+]?\.?\d", text) else ""
