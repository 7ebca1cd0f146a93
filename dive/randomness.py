"""Every random choice of dive, as a pure function of (seed, purpose, epoch, sample key).

Nothing here has state. A choice depends only on these values, so that it is the same in a resumed run, with
another batch size, on another machine, and for the same images in another folder. The generator is
SplitMix64's finaliser (Steele, Lea, Flood 2014), applied to these values as 64-bit words. It needs only
wrapping 64-bit integer arithmetic. Unlike the stream of `Generator.permutation`, it cannot change between
releases of NumPy.
"""

import hashlib
from collections.abc import Iterable

import numpy as np

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)

# One word for each purpose of a choice, so that no two purposes share a stream.
ORDER = 1
VIEW = 2
STORED_VIEWS = 3
NETWORK = 4


def hash64(*words: int | np.ndarray) -> np.ndarray:
    """Mix integer words (broadcast against each other) into uniform uint64 values.

    Returns an array of the broadcast shape, at least one-dimensional.
    """
    state = np.zeros(1, dtype=np.uint64)
    for word in words:
        state = _finalise((state ^ _word(word)) + _GOLDEN)
    return state


def _word(word: int | np.ndarray) -> np.ndarray:
    if isinstance(word, np.ndarray):
        return word.astype(np.uint64, copy=False)
    return np.array([word % 2**64], dtype=np.uint64)


def _finalise(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def key_hashes(keys: Iterable[str]) -> np.ndarray:
    """The first 64 bits of each key's SHA-256, shape (N,), uint64; choices depend on them."""
    digests = b"".join(hashlib.sha256(key.encode()).digest()[:8] for key in keys)
    return np.frombuffer(digests, dtype="<u8").astype(np.uint64)


def draw_order(seed: int, keys: list[str]) -> np.ndarray:
    """Positions of `keys` in a seeded random order, shape (N,).

    Keys are sorted by the SHA-256 of seed and key. A subset therefore keeps the order of the whole, and a
    smaller draw is part of a larger one.
    """
    ranks = [hashlib.sha256(f"{seed}\0{key}".encode()).digest() for key in keys]
    return np.array(sorted(range(len(keys)), key=lambda i: (ranks[i], keys[i])), dtype=np.int64)


def epoch_order(seed: int, epoch: int, hashes: np.ndarray) -> np.ndarray:
    """The order in which epoch `epoch` visits the samples: a permutation, shape (N,), int64."""
    return np.argsort(hash64(seed, ORDER, epoch, hashes), kind="stable")


def epoch_choice(seed: int, epoch: int, hashes: np.ndarray, choices: int) -> np.ndarray:
    """A number below `choices` for each sample in epoch `epoch`, uniform, shape (N,), int64."""
    return (hash64(seed, VIEW, epoch, hashes) % np.uint64(choices)).astype(np.int64)


def network_seed(seed: int, epoch: int, step: int, rank: int = 0) -> int:
    """The seed of the draws within a network (dropout) in a step of an epoch, 63 bits.

    rank: of this process, if several share the step. Each draws for different samples.
    """
    where = (epoch, step, rank) if rank else (epoch, step)
    return int(hash64(seed, NETWORK, *where)[0] >> np.uint64(1))


def stored_choice(seed: int, hashes: np.ndarray, size: int | None, k: int) -> np.ndarray:
    """K distinct view ids for each sample, ascending, shape (N, K), int64.

    `size` is the number of ids of a finite view space; None draws 62-bit ids of an unbounded one.
    """
    if size is None:
        ids = hash64(seed, STORED_VIEWS, hashes[:, None], np.arange(k)[None, :])
        return np.sort((ids >> np.uint64(2)).astype(np.int64), axis=1)
    ranks = hash64(seed, STORED_VIEWS, hashes[:, None], np.arange(size)[None, :])  # (N, size)
    return np.sort(np.argsort(ranks, axis=1, kind="stable")[:, :k], axis=1)
