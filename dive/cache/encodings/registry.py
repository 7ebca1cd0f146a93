"""The encodings by name, one line each."""

from dive.cache.encodings.encoding import FEATURES, LOGITS, Encoding
from dive.cache.encodings.floats import Floats
from dive.cache.encodings.int8 import Int8

ENCODINGS = {
    encoding.name: encoding
    for encoding in (
        Encoding("float16", LOGITS, Floats("float16")),
        Encoding("float32", LOGITS, Floats("float32")),
        Encoding("int8", LOGITS, Int8(offset=True)),
        Encoding("features", FEATURES, Floats("float16")),
        Encoding("features-int8", FEATURES, Int8(offset=False)),
    )
}
DEFAULT = "float16"


def row_sizes(classes: int, features: int | None) -> dict[str, int]:
    """The bytes of a view in each encoding that a network allows.

    features: the inputs of its last linear layer; None if it does not end in one.
    """
    sizes = {name: one.row_bytes(classes, features) for name, one in ENCODINGS.items()}
    return {name: size for name, size in sizes.items() if size is not None}


def recommended(sizes: dict[str, int]) -> str | None:
    """The first encoding that takes less than half of the bytes of the default; None if there is none.

    >>> recommended(row_sizes(1000, 2048)), recommended(row_sizes(8142, 2048))
    (None, 'features')
    """
    return next((name for name, size in sizes.items() if 2 * size < sizes[DEFAULT]), None)
