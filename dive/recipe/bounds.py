"""The allowed values of a recipe's keys: ranges, choices, names and paths.

A check takes a value of the right type and returns what it must be instead, or None if it is valid. It also
describes the allowed values in words, for docs/recipe.md.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from dive.printable import excerpt, printable, shortened

# The same for `dive tune-tau` and for training a student. Far beyond them, τ² and z/τ overflow float32.
TEMPERATURES = (1e-6, 1e6)
POWERS = (1e-6, 1.0)
SEEDS = (0, 2**63 - 1)
SHARES = (0.001, 0.9)  # of a class's images, set aside for test or validation
EPOCHS = (1, 1_000_000)
DEEPEST = 1202  # layers of the deepest published network of this family
LARGEST_SIDE = 1024  # in pixels, of an image held in memory and of a view
CROP_SCALES = (1e-4, 1.0)  # area of a crop, as a share of its image's
CROP_RATIOS = (0.01, 100.0)  # width of a crop, as a multiple of its height
JITTER = ((0.0, 10.0), (0.0, 10.0), (0.0, 10.0), (0.0, 0.5))  # brightness, contrast, saturation, hue
BETAS = ((0.0, 0.9999), (0.0, 0.999999))  # AdamW's decay rates of the means of gradients and of their squares
LONGEST_NETWORK = 200  # characters of a network's name
OWN_NETWORK = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)*:[A-Za-z_]\w*(\.[A-Za-z_]\w*)*", re.ASCII)
_LIBRARY_NETWORK = re.compile(r"[a-z]\w*/\w[\w.-]*", re.ASCII)
_TORCHVISION_RESNETS = tuple(f"resnet{depth}" for depth in (18, 34, 101))  # 50 and 152 are 6n+2
MOST_NAME_BYTES = 200  # a file name may have 255, and suffixes follow


@dataclass(frozen=True)
class Check:
    """What a value must be.

    wanted: the allowed values in words. fault: takes a value and returns what it must be instead, or None if
    it is valid.

    >>> check = within(0, 1)
    >>> check.wanted, check(0.5), check(2)
    ('0 to 1', None, 'must be >= 0 and <= 1, not 2')
    """

    wanted: str
    fault: Callable[[Any], str | None]

    def __call__(self, value: Any) -> str | None:
        """What is wrong with a value of the right type, or None if it is valid."""
        return self.fault(value)


def _told(number: float) -> str:
    """A number as people write it: 1e-6, 1024, 1 000 000."""
    if isinstance(number, int):
        return f"{number:,}".replace(",", " ") if number >= 10_000 else f"{number}"
    return re.sub(r"e\+?(-?)0*", r"e\1", f"{number:g}")


def within(low: float, high: float) -> Check:
    """A check that a number, or each of a tuple of numbers, is in [low, high]."""
    ends = (f"{end:g}" if isinstance(end, float) else f"{end}" for end in (low, high))
    wanted = "must be >= {} and <= {}".format(*ends)

    def check(value: Any) -> str | None:
        several = value if isinstance(value, tuple) else (value,)
        if all(low <= number <= high for number in several):  # false of NaN
            return None
        return f"{wanted}, not {excerpt(value)}"

    return Check(f"{_told(low)} to {_told(high)}", check)


def interval(low: float, high: float) -> Check:
    """A check that two numbers are the ends of an interval within [low, high]."""
    wanted = f"must be two numbers >= {low:g} and <= {high:g}, the smaller first"

    def check(value: Any) -> str | None:
        right = len(value) == 2 and low <= value[0] <= value[1] <= high
        return None if right else f"{wanted}, not {excerpt(list(value))}"

    return Check(f"two numbers from {_told(low)} to {_told(high)}, the smaller first", check)


def numbers(*ranges: tuple[float, float]) -> Check:
    """A check that there is one number for each range, within that range."""
    wanted = ", ".join(f"{low:g} to {high:g}" for low, high in ranges)

    def check(value: Any) -> str | None:
        right = len(value) == len(ranges) and all(
            low <= number <= high for number, (low, high) in zip(value, ranges, strict=True)
        )
        return None if right else f"must be {len(ranges)} numbers ({wanted}), not {excerpt(list(value))}"

    return Check(f"{len(ranges)} numbers: {wanted}", check)


def one_of(*choices: str) -> Check:
    """A check that a string is one of `choices`."""
    wanted = f"must be one of {', '.join(choices)}"

    def check(value: Any) -> str | None:
        return None if value in choices else f"{wanted}, not {excerpt(value)}"

    return Check(" or ".join([", ".join(choices[:-1]), choices[-1]]), check)


def resnet_depth(value: str) -> int | None:
    """N of `resnetN` if there is a network for small images of that depth, otherwise None."""
    depth = re.fullmatch(r"resnet([1-9][0-9]{0,3})", value)
    if depth and 8 <= int(depth[1]) <= DEEPEST and int(depth[1]) % 6 == 2:
        return int(depth[1])
    return None


def _network(value: str) -> str | None:
    named = _LIBRARY_NETWORK.fullmatch(value) or OWN_NETWORK.fullmatch(value)
    if resnet_depth(value) is not None or (named and len(value) <= LONGEST_NETWORK):
        return None
    meant = f"; did you mean torchvision/{value}?" if value in _TORCHVISION_RESNETS else ""
    return (
        f"must be resnetN with N = 6n+2, at most {DEEPEST} (resnet8, resnet20, resnet32, …), a library's "
        f"(torchvision/resnet50, timm/…) or your own (package.module:callable), not {excerpt(value)}{meant}"
    )


def _file_name(value: str) -> str | None:
    if re.fullmatch(r"\w[\w .+-]{0,99}", value) and len(value.encode()) <= MOST_NAME_BYTES:
        return None
    return (
        "must be usable as a file name (letters, digits, _ - + . and spaces, at most 100 of them and "
        f"{MOST_NAME_BYTES} bytes), not {excerpt(value)}"
    )


def _path(value: str) -> str | None:
    try:
        value.encode()
    except UnicodeEncodeError:
        return f"must be a path in UTF-8, not '{printable(shortened(value))}'; rename it or give a link to it"
    return f"must be a path without NUL characters, not {excerpt(value)}" if "\0" in value else None


# Only the form of a network's name is checked. Whether the network exists is found out when it is built.
network = Check("resnetN with N = 6n+2, library/name or package.module:callable", _network)
# A string that file names can start with.
file_name = Check("letters, digits, _ - + . and spaces, at most 100", _file_name)
# A path that can be recorded with a result, as JSON in UTF-8.
path = Check("a path in UTF-8", _path)
