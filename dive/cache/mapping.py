"""The rows of a cache, mapped into memory."""

import math
import mmap
from pathlib import Path
from typing import Any

import numpy as np

from dive import files
from dive.errors import CacheError

_NO_RESERVE = getattr(mmap, "MAP_NORESERVE", 0x4000)  # the value on Linux, for a Python that lacks the name


def mapped(path: Path, offset: int, kind: np.dtype[Any], shape: tuple[int, ...]) -> np.ndarray:
    """The rows of a file, memory-mapped; raises CacheError if they cannot be mapped.

    The mapping is copy-on-write: `torch.from_numpy` shares memory without a warning only if it is writable.
    No memory is reserved for copies of pages, since nothing writes to them, and with a reservation a file
    larger than memory could not be mapped.
    """
    try:
        with files.open_regular(path) as file:
            content = mmap.mmap(
                file.fileno(), 0, mmap.MAP_PRIVATE | _NO_RESERVE, mmap.PROT_READ | mmap.PROT_WRITE
            )
        return np.frombuffer(content, kind, math.prod(shape), offset).reshape(shape)
    except (OSError, ValueError) as error:
        raise CacheError(f"{path} cannot be mapped into memory: {error}") from error
