"""Logits by sample and view against h5py's own array; what is corrupt or of another version is refused."""

import json
import os
import pickle
import re
from pathlib import Path

import caches
import chain
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.cache import seal, writer
from dive.cache.mapping import mapped
from dive.cache.reader import LogitCache
from dive.errors import CacheError

PATH = Path("small.h5")
N, V, C = 11, 3, 4
CORRUPT = slice(4, 6)  # the samples of the block that is damaged in some tests


@pytest.fixture(scope="module", params=caches.STORES)
def written(request, tmp_path_factory):
    """A cache of six blocks, two samples in each but the last, and its rows as h5py reads them."""
    path = tmp_path_factory.mktemp("written") / "cache.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_IMAGES", 6)
        caches.write_cache(path, caches.values(request.param, N, V, C), store=request.param)
    return path, caches.stored(path)


@pytest.fixture
def corrupt(written):
    """The same cache with one bit of sample 5 flipped, and its logits as they should be."""
    path, stored = written
    content = bytearray(path.read_bytes())
    content[caches.offset(path) + 5 * stored[0].nbytes + 3] ^= 4
    PATH.write_bytes(content)
    return LogitCache(PATH), caches.decoded(path)


def near(found: np.ndarray, logits: np.ndarray) -> None:
    """Compare decoded logits with those in float64."""
    assert found.dtype == np.float32 and found.shape == logits.shape
    np.testing.assert_allclose(found, logits, rtol=1e-6, atol=1e-5)


pairs = st.lists(st.tuples(st.integers(0, N - 1), st.integers(0, V - 1)), max_size=20)


@given(pairs)
def test_gathered_rows_are_those_that_h5py_reads_byte_for_byte_and_logits_are_decoded(written, asked):
    path, stored = written
    rows, columns = np.array(asked, dtype=np.int64).reshape(-1, 2).T
    expected = b"".join(stored[row, column].tobytes() for row, column in asked)
    found = LogitCache(path).encoded(rows, columns)
    assert found.tobytes() == expected and len(found) == len(asked)
    room = np.full_like(found, 7)
    assert LogitCache(path).encoded(rows, columns, out=room) is room
    assert room.tobytes() == expected
    near(LogitCache(path).logits(rows, columns), caches.decoded(path)[rows, columns])


def test_logits_take_lists_and_single_numbers(written):
    path, _ = written
    cache, logits = LogitCache(path), caches.decoded(path)
    near(cache.logits([10, 0], [2, 1]), logits[[10, 0], [2, 1]])
    near(cache.logits(3, 1), logits[3:4, 1])


def test_the_whole_and_its_blocks_are_what_h5py_reads(written):
    path, stored = written
    cache = LogitCache(path)
    assert cache.encoded_whole().tobytes() == stored.tobytes() and cache.encoded_whole().dtype == stored.dtype
    near(cache.whole(), caches.decoded(path))
    assert cache.nbytes == stored.nbytes and cache.block_count == 6 and cache.block_rows == 2
    blocks = list(cache.blocks())
    assert [(rows.start, rows.stop) for rows, _ in blocks] == [
        (0, 2),
        (2, 4),
        (4, 6),
        (6, 8),
        (8, 10),
        (10, 11),
    ]
    for rows, logits in blocks:
        near(logits, caches.decoded(path)[rows])


@pytest.mark.parametrize("read", ["encoded", "logits"])
def test_a_batch_that_touches_a_corrupt_block_is_refused_and_any_other_is_read(corrupt, read):
    cache, logits = corrupt
    sound = np.array([row for row in range(N) if row not in range(CORRUPT.start, CORRUPT.stop)])
    for _ in range(2):  # also after blocks were found sound
        for row in range(N):
            batch, columns = np.array([0, row, N - 1]), np.array([2, 0, 1])
            if row in sound:
                found = getattr(cache, read)(batch, columns)
                found = cache.codec.decode(cache.codec.unpacked(found)) if read == "encoded" else found
                near(found, logits[batch, columns])
                continue
            with pytest.raises(
                CacheError, match="small.h5 is corrupt: samples 4 to 5 do not match their CRC"
            ):
                getattr(cache, read)(batch, columns)
    near(cache.logits(sound, sound * 0), logits[sound, 0])


def test_the_whole_of_a_corrupt_cache_is_refused_each_time(corrupt):
    cache, _ = corrupt
    for _ in range(2):
        with pytest.raises(CacheError, match="small.h5 is corrupt: samples 4 to 5"):
            cache.encoded_whole()


def test_a_block_is_checked_at_its_first_use_alone(written, monkeypatch):
    from dive.cache import reader

    real, calls = reader.crc, []
    monkeypatch.setattr(reader, "crc", lambda rows: calls.append(len(rows)) or real(rows))
    cache = LogitCache(written[0])
    cache.encoded(np.array([0, 1, 1]), np.array([0, 0, 2]))
    assert calls == [2]
    cache.encoded(np.array([1, 10]), np.array([0, 0]))
    assert calls == [2, 1]
    cache.encoded_whole()
    cache.encoded_whole()
    cache.logits([4], [0])
    assert calls == [2, 1, 2, 2, 2, 2]


@pytest.mark.parametrize(
    ("rows", "columns", "told"),
    [
        ([0, N], [0, 0], f"no row {N}: there are {N}, counted from 0"),
        ([-1, 3], [0, 0], f"no row -1: there are {N}, counted from 0"),
        ([0, 1], [0, V], f"no column {V}: there are {V}, counted from 0"),
        ([0, 1], [-2, 0], f"no column -2: there are {V}, counted from 0"),
        (2**40, 0, f"no row {2**40}"),
    ],
)
def test_a_row_or_column_that_is_not_there_is_an_index_error_that_says_how_many_there_are(
    written, rows, columns, told
):
    with pytest.raises(IndexError, match=re.escape(f"cache.h5 has {told}")):
        LogitCache(written[0]).logits(rows, columns)


OLD_NAMES = {
    "data_fingerprint": "data fingerprint",
    "view_space": "view space",
    "view_seed": "view seed",
    "weights_hash": "weights hash",
    "clean_id": "clean id",
}


def as_version_2(file: h5py.File) -> None:
    """A cache as dive 0.1.0 wrote it: keys with spaces, the source among the data, another table's name."""

    def renamed(value: object) -> object:
        if not isinstance(value, dict):
            return value
        return {OLD_NAMES.get(key, key): renamed(inner) for key, inner in value.items()}

    file.move("digests", "pixel_digests")
    file.attrs["version"] = 2
    del file.attrs["encoding"]
    for name in ("identity", "facts"):
        said = renamed(json.loads(file.attrs[name]))
        if name == "identity":
            said["data"]["source"] = said["data"].pop("kind")
        file.attrs[name] = json.dumps(said)


def test_a_cache_of_version_2_is_refused_by_the_command_that_makes_it_again(digits):
    PATH.write_bytes(digits.cache.read_bytes())
    caches.resealed(PATH, as_version_2)
    words = {
        "inspect": (PATH,),
        "verify": (PATH,),
        "tune-tau": ("--cache", PATH),
        "student": (*chain.DIGITS, "--cache", PATH, "--out", "s.pt"),
    }
    for command, rest in words.items():
        complaint = chain.dive(command, *rest).complaint
        assert "small.h5 is of another version of dive (dive-logits 2; this one reads 3 and 4)" in complaint
        assert (
            "make it again with its recipe and data: dive export-logits --out small.h5 --force" in complaint
        )
    before = PATH.read_bytes()
    again = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", PATH)
    assert "small.h5" in chain.dive(*again).complaint
    assert PATH.read_bytes() == before
    chain.succeed(*again, "--force")
    assert PATH.read_bytes() == digits.cache.read_bytes()


def test_a_cache_of_a_later_version_is_refused_too():
    caches.write_cache(PATH, caches.random_logits(5, 2, 3))
    caches.resealed(PATH, lambda file: file.attrs.modify("version", 5))
    with pytest.raises(CacheError, match="of another version of dive .dive-logits 5; this one reads 3 and 4"):
        LogitCache(PATH)


def as_version_3(file: h5py.File) -> None:
    """A cache as dive wrote it before it had encodings: the dtype of the logits is the encoding."""
    said = json.loads(file.attrs["identity"])
    said["dtype"] = said.pop("store")
    file.attrs["identity"] = json.dumps(said)
    file.attrs["version"] = 3
    del file.attrs["encoding"]


def test_a_cache_of_version_3_is_read_as_one_of_this_version(digits):
    PATH.write_bytes(digits.cache.read_bytes())
    caches.resealed(PATH, as_version_3)
    old, new = LogitCache(PATH), LogitCache(digits.cache)
    assert (old.version, old.store, old.identity) == (3, "float16", new.identity)
    np.testing.assert_array_equal(old.whole(), new.whole())
    for words in (("verify", PATH), ("tune-tau", "--cache", PATH), ("inspect", PATH)):
        chain.succeed(*words)
    trained = chain.succeed(
        "student", *chain.DIGITS, "--epochs", 1, "--cache", PATH, "--out", "s.pt", "--json"
    )
    assert trained.document["cache"]["store"] == "float16"


@pytest.mark.parametrize("store", ["int8", "features", "features-int8"])
def test_an_encoding_that_version_3_did_not_know_is_not_read_under_its_number(store):
    caches.write_cache(PATH, caches.values(store, 5, 2, 3), store=store)
    caches.resealed(PATH, lambda file: file.attrs.modify("version", 3))
    with pytest.raises(CacheError, match="not a logit cache that this version of dive can read"):
        LogitCache(PATH)


def other_cache(path: Path) -> bytes:
    """Replace an existing cache with another one; returns its bytes."""
    caches.write_cache(Path("other.h5"), caches.random_logits(5, 2, 3, seed=9))
    Path("other.h5").replace(path)
    return path.read_bytes()


@pytest.mark.slow
def test_a_file_larger_than_memory_is_mapped():
    """With memory reserved for copies, the system would refuse the mapping."""
    size = 4 * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with open(PATH, "wb") as file:
        file.truncate(size)
    rows = mapped(PATH, size - 8, np.dtype("<f4"), (1, 2))
    assert rows.shape == (1, 2) and not rows.any() and rows.flags.writeable


def test_an_open_cache_stays_what_it_was_when_another_takes_its_place():
    caches.write_cache(PATH, caches.random_logits(5, 2, 3))
    before, cache = LogitCache(PATH).whole(), LogitCache(PATH)
    other_cache(PATH)
    assert np.array_equal(cache.whole(), before) and not np.array_equal(LogitCache(PATH).whole(), before)


def test_a_cache_is_unpickled_as_itself_or_not_at_all():
    caches.write_cache(PATH, caches.random_logits(5, 2, 3))
    cache = LogitCache(PATH)
    content = pickle.dumps(cache)
    assert pickle.loads(content).hash == cache.hash
    other_cache(PATH)
    with pytest.raises(
        CacheError, match=f"was replaced after it was opened: its hash is .*, not {cache.hash[:12]}"
    ):
        pickle.loads(content)


def test_a_cache_that_is_replaced_while_it_is_opened_is_told_so(monkeypatch):
    caches.write_cache(PATH, caches.random_logits(5, 2, 3))
    caches.write_cache(Path("other.h5"), caches.random_logits(5, 2, 3, seed=9))
    real = seal.check

    def slow(path: Path) -> seal.Seal:
        found = real(path)
        Path("other.h5").replace(path)
        return found

    monkeypatch.setattr(seal, "check", slow)
    with pytest.raises(CacheError, match="was replaced while it was opened"):
        LogitCache(PATH)
