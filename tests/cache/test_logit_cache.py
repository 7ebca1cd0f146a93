"""The cache's format: anyone can read it, a kill loses a block at most, and damage is refused."""

import errno
import json
import mmap
import os
import shutil
import zlib
from collections import namedtuple
from pathlib import Path

import caches
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.cache import writer
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, block_rows, part_path, unfinished
from dive.errors import CacheError, OutputError

PATH = Path("small.h5")


@pytest.fixture
def two_rows_a_block(monkeypatch):
    """Blocks of two samples of three views each."""
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 6)


@pytest.fixture(params=caches.STORES)
def store(request) -> str:
    """The name of each encoding."""
    return request.param


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_plain_h5py_reads_back_everything_that_was_written(dtype):
    logits = caches.random_logits(7, 3, 5)
    views = np.random.default_rng(1).integers(0, 162, (7, 3)).astype(np.int32)
    content = caches.content_for(logits, views=views, store=dtype)
    caches.write_blocks(PATH, content, logits)
    caches.finish(PATH, content)
    with h5py.File(PATH, "r") as file:
        assert file["logits"].dtype == np.dtype(dtype) and file["logits"].shape == (7, 3, 5)
        np.testing.assert_array_equal(file["logits"][:], logits.astype(dtype))
        np.testing.assert_array_equal(file["views"][:], views)
        np.testing.assert_array_equal(file["labels"][:], [0, 1, 2, 3, 4, 0, 1])
        np.testing.assert_array_equal(file["digests"][:], content.digests)
        np.testing.assert_array_equal(file["class_counts"][:], [2, 2, 1, 1, 1])
        assert [key.decode() for key in file["keys"][:]] == content.keys
        assert tuple(name.decode() for name in file["classes"][:]) == content.classes
        assert (
            file.attrs["format"] == "dive-logits"
            and file.attrs["version"] == 4
            and file.attrs["encoding"] == dtype
        )
        assert file.attrs["complete"] and file.attrs["producer"].startswith("dive ")
        assert json.loads(file.attrs["identity"]) == caches.IDENTITY
        assert json.loads(file.attrs["facts"]) == content.facts


def map_of(rows: np.ndarray) -> object:
    """The object that owns the memory of an array, which may be a view of a view."""
    below = rows
    while isinstance(below, np.ndarray):
        below = below.base
    return below.obj


def test_the_logits_are_contiguous_and_lie_where_h5py_says():
    logits = caches.random_logits(6, 3, 4)
    cache = caches.write_cache(PATH, logits, store="float32")
    with h5py.File(PATH, "r") as file:
        dataset = file["logits"]
        assert dataset.chunks is None and dataset.compression is None
        offset, stored = dataset.id.get_offset(), dataset[:]
    raw = np.frombuffer(PATH.read_bytes(), dtype="<f4", count=6 * 3 * 4, offset=offset)
    np.testing.assert_array_equal(raw.reshape(6, 3, 4), stored)
    np.testing.assert_array_equal(cache.whole(), logits)
    assert isinstance(map_of(cache.encoded_whole()), mmap.mmap)


def test_the_tables_of_done_blocks_and_their_crcs_are_those_of_the_rows(two_rows_a_block):
    logits = caches.random_logits(7, 3, 5)
    caches.write_cache(PATH, logits)
    with h5py.File(PATH, "r") as file:
        np.testing.assert_array_equal(file["block_done"][:], [1, 1, 1, 1])
        rows = logits.astype("<f2")
        expected = [zlib.crc32(rows[start : start + 2].tobytes()) for start in (0, 2, 4, 6)]
        np.testing.assert_array_equal(file["block_crc32"][:], expected)
        right = [sum(logits[row, view].argmax() == row % 5 for view in range(3)) for row in range(7)]
        np.testing.assert_array_equal(
            file["block_correct"][:], [sum(right[start : start + 2]) for start in (0, 2, 4, 6)]
        )


texts = st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), min_size=1, max_size=8)
finite = {
    "float16": st.floats(width=16, allow_nan=False, allow_infinity=False),
    "float32": st.floats(width=32, allow_nan=False, allow_infinity=False),
}


@st.composite
def small_contents(draw):
    n, v, c = draw(st.integers(1, 6)), draw(st.integers(1, 4)), draw(st.integers(1, 5))
    dtype = draw(st.sampled_from(["float16", "float32"]))
    size = n * v * c
    values = draw(st.lists(finite[dtype], min_size=size, max_size=size))
    logits = np.array(values, dtype=dtype).reshape(n, v, c)
    ids = draw(st.lists(st.integers(0, 2**31 - 1), min_size=n * v, max_size=n * v))
    content = caches.content_for(
        logits,
        labels=draw(st.lists(st.integers(0, c - 1), min_size=n, max_size=n)),
        views=np.array(ids, dtype=np.int32).reshape(n, v),
        store=dtype,
        keys=draw(st.lists(texts, min_size=n, max_size=n, unique=True)),
        classes=tuple(draw(st.lists(texts, min_size=c, max_size=c, unique=True))),
        identity=draw(st.dictionaries(texts, st.one_of(st.integers(), texts, st.none()), max_size=3)),
        facts=draw(st.dictionaries(texts, st.one_of(st.booleans(), texts), max_size=3)),
    )
    return logits, content, draw(st.integers(1, 12))


@given(small_contents())
def test_whatever_is_written_is_read_back(case):
    logits, content, block_images = case
    PATH.unlink(missing_ok=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_IMAGES", block_images)
        caches.write_blocks(PATH, content, logits)
        caches.finish(PATH, content)
    cache = LogitCache(PATH)
    assert cache.shape == logits.shape and cache.store == logits.dtype.name
    assert cache.encoded_whole().tobytes() == logits.tobytes()  # the sign of a zero too
    np.testing.assert_array_equal(cache.views, content.views)
    np.testing.assert_array_equal(cache.labels, content.labels)
    np.testing.assert_array_equal(cache.class_counts, content.class_counts)
    assert cache.keys == content.keys and cache.classes == content.classes
    assert cache.identity == content.identity and cache.facts == content.facts
    covered = [i for rows, _ in cache.blocks() for i in range(rows.start, rows.stop)]
    assert covered == list(range(len(logits)))


def test_the_same_content_makes_the_same_bytes_whatever_the_order_of_its_blocks(two_rows_a_block, store):
    values = caches.values(store, 9, 3, 4)
    content = caches.content_for(values, store=store)
    for name, order in (("a.h5", [0, 1, 2, 3, 4]), ("b.h5", [3, 0, 4, 1, 2])):
        caches.write_blocks(Path(name), content, values, order)
        caches.finish(Path(name), content)
    assert Path("a.h5").read_bytes() == Path("b.h5").read_bytes()
    assert LogitCache(Path("a.h5")).hash == LogitCache(Path("b.h5")).hash


@pytest.mark.parametrize("change", ["logits", "keys", "views", "identity", "facts"])
def test_any_other_content_has_another_hash(change):
    logits = caches.random_logits(4, 2, 3)
    before = caches.write_cache(Path("a.h5"), logits).hash
    options = {
        "logits": {},
        "keys": {"keys": ["a", "b", "c", "d"]},
        "views": {"views": np.ones((4, 2), dtype=np.int32)},
        "identity": {"identity": {}},
        "facts": {"facts": {}},
    }[change]
    if change == "logits":
        logits[3, 1, 2] += 1
    assert caches.write_cache(Path("b.h5"), logits, **options).hash != before


def test_nothing_stands_under_the_final_name_until_the_cache_is_finished(two_rows_a_block):
    logits = caches.random_logits(5, 3, 4)
    content = caches.content_for(logits)
    caches.write_blocks(PATH, content, logits)
    assert names() == ["small.h5.part"]
    caches.finish(PATH, content)
    assert names() == ["small.h5"]


@pytest.mark.parametrize("done", range(6))
def test_an_abandoned_cache_goes_on_at_the_first_missing_block_and_ends_in_the_same_bytes(
    two_rows_a_block, store, done
):
    values = caches.values(store, 9, 3, 4)
    content = caches.content_for(values, store=store)
    caches.write_cache(Path("whole.h5"), values, store=store)
    caches.write_blocks(PATH, content, values, range(done))
    with h5py.File(part_path(PATH), "r") as file:
        np.testing.assert_array_equal(file["block_done"][:], [block < done for block in range(5)])
        assert not file.attrs["complete"]
    with CacheWriter(PATH, content) as writer:
        assert writer.missing() == list(range(done, 5))
    caches.write_blocks(PATH, content, values)
    caches.finish(PATH, content)
    assert PATH.read_bytes() == Path("whole.h5").read_bytes()


def test_a_cache_that_was_sealed_but_not_moved_to_its_place_ends_in_the_same_bytes(two_rows_a_block, store):
    values = caches.values(store, 9, 3, 4)
    content = caches.content_for(values, store=store)
    caches.write_cache(PATH, values, store=store)
    expected = PATH.read_bytes()
    PATH.rename(part_path(PATH))
    assert unfinished(PATH, content.identity) == content.facts
    caches.finish(PATH, content)
    assert PATH.read_bytes() == expected


@pytest.mark.parametrize("damage", ["rows", "crc", "not done"])
def test_a_block_that_does_not_match_its_crc_or_is_not_done_is_written_again(two_rows_a_block, store, damage):
    values = caches.values(store, 9, 3, 4)
    content = caches.content_for(values, store=store)
    caches.write_cache(Path("whole.h5"), values, store=store)
    caches.write_blocks(PATH, content, values)

    def change(file: h5py.File) -> None:
        if damage == "rows":
            table = file[caches.table_of(file)]
            table[5, 2] = table[4, 2]
        elif damage == "crc":
            file["block_crc32"][2] += 1
        else:
            file["block_done"][2] = 0

    caches.edited(part_path(PATH), change)
    with CacheWriter(PATH, content) as writer:
        assert writer.missing() == [2]
    caches.write_blocks(PATH, content, values)
    caches.finish(PATH, content)
    assert PATH.read_bytes() == Path("whole.h5").read_bytes()


def test_an_unfinished_cache_of_another_identity_is_refused_by_naming_the_keys():
    logits = caches.random_logits(3, 2, 3)
    caches.write_blocks(PATH, caches.content_for(logits), logits)
    other = {
        "recipe": "small",
        "data": {"kind": "folder", "seed": 7, "imbalance": 10.0},
        "teacher": {"weights_hash": "def"},
        "views": "all",
    }
    with pytest.raises(OutputError) as refusal:
        unfinished(PATH, other)
    message = str(refusal.value)
    assert "data.seed: 0, now 7" in message and "teacher.weights_hash: abc, now def" in message
    assert "views: None, now all" in message
    assert "imbalance" not in message and "recipe: " not in message
    assert "--force" in message


def test_an_unfinished_cache_of_the_same_identity_gives_its_facts_and_none_gives_none():
    logits = caches.random_logits(3, 2, 3)
    assert unfinished(PATH, caches.IDENTITY) is None
    caches.write_blocks(PATH, caches.content_for(logits), logits, [])
    assert unfinished(PATH, caches.IDENTITY) == {"precision": "fp32", "clean_id": 0, "teacher": {}}


@pytest.mark.parametrize("keep", [0, 100, 600, 2000])
def test_a_damaged_unfinished_cache_is_refused_and_left_alone(keep):
    logits = caches.random_logits(3, 2, 3)
    caches.write_blocks(PATH, caches.content_for(logits), logits)
    part = part_path(PATH)
    part.write_bytes(part.read_bytes()[:keep])
    with pytest.raises(OutputError, match="small.h5.part is a damaged unfinished export.*--force"):
        unfinished(PATH, caches.IDENTITY)
    assert part.stat().st_size == keep


@pytest.fixture(scope="module", params=caches.STORES)
def whole_bytes(request, tmp_path_factory):
    """The bytes of a cache of four blocks, with the offset and length of its rows."""
    path = tmp_path_factory.mktemp("whole") / "whole.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(writer, "BLOCK_IMAGES", 6)
        caches.write_cache(path, caches.values(request.param, 7, 3, 5), store=request.param)
    return path.read_bytes(), caches.offset(path), caches.stored(path).nbytes


def refused(content: bytes) -> bool:
    """Whether a cache of this content is refused, at the latest when its blocks are checked."""
    PATH.write_bytes(content)
    try:
        LogitCache(PATH).encoded_whole()
    except CacheError as error:
        assert "small.h5" in str(error) and "\n" not in str(error)
        return True
    return False


def test_the_undamaged_cache_is_not_refused(whole_bytes):
    assert not refused(whole_bytes[0])


def test_a_cache_cut_short_anywhere_is_refused(whole_bytes):
    whole = whole_bytes[0]
    lengths = {0, 1, 8, 71, 72, 88, 511, 512, 513, len(whole) - 1, *range(0, len(whole), 97)}
    assert [length for length in sorted(lengths) if not refused(whole[:length])] == []


def test_a_cache_with_a_byte_too_many_is_refused(whole_bytes):
    assert refused(whole_bytes[0] + b"\0")


def test_a_flipped_bit_is_refused_wherever_it_is(whole_bytes):
    whole, offset, size = whole_bytes
    seal = range(72 + 4 * 4)
    logits = range(offset, offset + size, 5)
    rest = range(len(seal), len(whole), 11)
    accepted = []
    for position in sorted({*seal, *logits, *rest}):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << position % 8
        if not refused(bytes(flipped)):
            accepted.append(position)
    assert accepted == []


def test_a_flipped_bit_outside_the_logits_is_refused_before_hdf5_reads_the_file(whole_bytes, monkeypatch):
    whole, offset, size = whole_bytes

    def never(*_, **__):
        raise AssertionError("HDF5 was asked to read a damaged file")

    monkeypatch.setattr(h5py, "File", never)
    for position in (0, 20, 80, 300, 520, offset - 1, offset + size, len(whole) - 1):
        if offset <= position < offset + size:
            continue
        flipped = bytearray(whole)
        flipped[position] ^= 0x10
        PATH.write_bytes(flipped)
        with pytest.raises(CacheError):
            LogitCache(PATH)


def test_a_flipped_bit_in_the_logits_names_the_samples_it_spoils(whole_bytes):
    whole, offset, size = whole_bytes
    flipped = bytearray(whole)
    flipped[offset + 4 * size // 7] ^= 1  # the first value of sample 4: block 2 of two samples
    PATH.write_bytes(flipped)
    cache = LogitCache(PATH)
    rows, logits = cache.block(1)
    assert rows == slice(2, 4) and logits.shape == (2, 3, 5)
    with pytest.raises(CacheError, match="samples 4 to 5"):
        cache.block(2)
    with pytest.raises(CacheError, match="samples 4 to 5"):
        cache.whole()
    blocks = cache.blocks()
    assert [next(blocks)[0], next(blocks)[0]] == [slice(0, 2), slice(2, 4)]
    with pytest.raises(CacheError, match="samples 4 to 5"):
        next(blocks)


def test_an_unfinished_cache_under_the_final_name_is_refused(two_rows_a_block):
    logits = caches.random_logits(5, 3, 4)
    caches.write_blocks(PATH, caches.content_for(logits), logits)
    part_path(PATH).rename(PATH)
    with pytest.raises(CacheError, match="not sealed"):
        LogitCache(PATH)


@pytest.mark.parametrize(
    "content",
    [b"", b"not a cache", b"\x89PNG\r\n\x1a\n" + bytes(2000), bytes(100), b"DIVESEAL", b"DIVESEAL" * 500],
)
def test_a_file_of_another_kind_is_refused(content):
    assert refused(content)


def test_an_hdf5_file_of_another_kind_is_refused():
    with h5py.File(PATH, "w") as file:
        file["logits"] = np.zeros((3, 2, 4), dtype=np.float16)
    with pytest.raises(CacheError, match="not a logit cache written by dive"):
        LogitCache(PATH)


def test_a_missing_cache_names_the_command_that_makes_one_and_a_folder_is_none():
    with pytest.raises(CacheError, match="no logit cache small.h5; dive export-logits makes one"):
        LogitCache(PATH)
    PATH.mkdir()
    with pytest.raises(CacheError, match="cannot read small.h5"):
        LogitCache(PATH)


@pytest.mark.parametrize(
    ("value", "dtype"),
    [
        (np.inf, "float16"),
        (np.nan, "float16"),
        (65520.0, "float16"),  # the smallest number that rounds to infinity
        (-1e30, "float16"),
        (np.inf, "float32"),
        (np.nan, "float32"),
    ],
)
def test_logits_that_are_not_finite_as_stored_are_refused_and_their_block_stays_missing(
    two_rows_a_block, value, dtype
):
    logits = caches.random_logits(5, 3, 4)
    logits[3, 1, 2] = value
    content = caches.content_for(logits, store=dtype)
    with CacheWriter(PATH, content) as writer:
        writer.write(0, logits[writer.rows(0)])
        remedy = "--store float32" if np.isfinite(value) else "another --precision, or another teacher"
        with pytest.raises(CacheError, match=f"not finite in {dtype} .samples 2 to 3.*{remedy}"):
            writer.write(1, logits[writer.rows(1)])
        assert writer.missing() == [1, 2]
    assert not PATH.exists()


def test_the_largest_float16_is_written_as_it_is():
    logits = np.array([[[65504.0, -65504.0, 65519.0]]], dtype=np.float32)
    cache = caches.write_cache(PATH, logits, classes=("a", "b", "c"))
    np.testing.assert_array_equal(cache.whole()[0, 0], [65504, -65504, 65504])


def test_a_disk_too_small_is_told_before_anything_is_written(monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(10_000_000, 9_600_000, 400_000))
    logits = caches.random_logits(1000, 40, 5)  # 400 kB of logits, to which tables are added
    with pytest.raises(OutputError, match=r"small.h5.part needs \d+ kB and the disk has 400 kB free"):
        CacheWriter(PATH, caches.content_for(logits))
    assert names() == []


@pytest.mark.parametrize("code", [errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO])
@pytest.mark.parametrize("call", ["posix_fallocate", "pwrite", "fsync", "replace"])
def test_whatever_fails_while_a_cache_is_laid_out_is_one_line_and_leaves_nothing(monkeypatch, call, code):
    def fail(*_: object) -> None:
        raise OSError(code, os.strerror(code))

    with monkeypatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OutputError, match=rf"small.h5.part needs .* {os.strerror(code)}; make room"):
            CacheWriter(PATH, caches.content_for(caches.random_logits(3, 2, 4)))
    assert names() == []


def test_what_a_reader_does_to_the_rows_never_reaches_the_file(store):
    cache = caches.write_cache(PATH, caches.values(store, 3, 2, 4), store=store)
    before = PATH.read_bytes()
    mapped = cache.encoded_whole()
    mapped[:] = np.zeros((), mapped.dtype)
    map_of(mapped).flush()
    del cache, mapped
    assert PATH.read_bytes() == before


def test_a_block_holds_whole_samples_and_at_least_one():
    assert block_rows(162) == 12
    assert block_rows(1) == 2048
    assert block_rows(2048) == block_rows(100_000) == 1
