"""The seal: what it holds, checked against an independent reading of its bytes."""

import hashlib
import struct
import zlib
from pathlib import Path

import caches
import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive.cache import seal, writer
from dive.cache.reader import LogitCache
from dive.errors import CacheError

PATH = Path("sealed.h5")
HDF5_SIGNATURE = b"\x89HDF\r\n\x1a\n"


@pytest.fixture
def sealed(monkeypatch):
    """A finished cache of four blocks of two samples, its bytes and its logits."""
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 6)
    logits = caches.random_logits(7, 3, 5).astype(np.float16)
    caches.write_cache(PATH, logits)
    return PATH.read_bytes(), logits


def test_the_seal_says_where_the_logits_are_how_long_the_file_is_and_each_blocks_crc(sealed):
    content, logits = sealed
    magic, version, blocks = struct.unpack_from("<8sII", content)
    offset, size, length, block_bytes = struct.unpack_from("<QQQQ", content, 48)
    crcs = struct.unpack_from("<4I", content, 80)
    with h5py.File(PATH, "r") as file:
        assert (offset, size) == (file["logits"].id.get_offset(), logits.nbytes)
    assert (magic, version, blocks, length) == (b"DIVESEAL", 1, 4, len(content))
    assert block_bytes == 2 * 3 * 5 * 2
    assert content[offset : offset + size] == logits.tobytes()
    pieces = [logits.tobytes()[start : start + block_bytes] for start in range(0, size, block_bytes)]
    assert list(crcs) == [zlib.crc32(piece) for piece in pieces]


def test_the_digest_is_sha256_of_every_byte_outside_the_logits(sealed):
    content, _ = sealed
    offset, size = struct.unpack_from("<QQ", content, 48)
    without = content[:16] + bytes(32) + content[48:offset] + content[offset + size :]
    assert content[16:48] == hashlib.sha256(without).digest()
    assert LogitCache(PATH).hash == content[16:48].hex()


def test_the_seal_fills_the_user_block_and_hdf5_begins_behind_it(sealed):
    content, _ = sealed
    assert content.find(HDF5_SIGNATURE) == 512
    with h5py.File(PATH, "r") as file:
        assert file.userblock_size == 512


def test_a_cache_of_many_blocks_gets_a_larger_user_block(monkeypatch):
    monkeypatch.setattr(writer, "BLOCK_IMAGES", 1)
    logits = caches.random_logits(300, 1, 4)
    cache = caches.write_cache(PATH, logits, store="float32")
    with h5py.File(PATH, "r") as file:
        assert file.userblock_size == 2048  # 80 bytes and 300 CRCs of 4
    np.testing.assert_array_equal(cache.whole(), logits)


@pytest.mark.parametrize("size", [512, 1024, 4096])
def test_hdf5_is_recognised_behind_a_user_block_of_any_size(size):
    with h5py.File(PATH, "w", userblock_size=size) as file:
        file["labels"] = [1, 2, 3]
    content = PATH.read_bytes()
    with PATH.open("rb") as file:
        assert seal.holds_hdf5(file)
    PATH.write_bytes(content.replace(HDF5_SIGNATURE, HDF5_SIGNATURE.lower()))
    with PATH.open("rb") as file:
        assert not seal.holds_hdf5(file)


def test_a_seal_leaves_nothing_of_what_lay_in_the_user_block(sealed):
    content, _ = sealed
    offset, size, _, block_bytes = struct.unpack_from("<QQQQ", content, 48)
    PATH.write_bytes(b"\xff" * 512 + content[512:])
    with PATH.open("r+b") as file:
        crcs = np.array(struct.unpack_from("<4I", content, 80), np.uint32)
        seal.write(file, crcs, (offset, size), block_bytes)
    assert PATH.read_bytes() == content


def test_a_seal_that_is_right_is_not_written_again(sealed):
    """Otherwise a kill while the seal is written would leave a file without a record and a seal."""
    content, _ = sealed
    offset, size, length, block_bytes = struct.unpack_from("<QQQQ", content, 48)
    crcs = np.frombuffer(content, dtype="<u4", count=4, offset=80)
    with open(PATH, "rb") as file:  # not open for writing
        seal.write(file, crcs, (offset, size), block_bytes, length)
        with pytest.raises(OSError):
            seal.write(file, crcs + np.uint32(1), (offset, size), block_bytes, length)


@given(st.integers(0, 10**7))
def test_the_room_for_a_seal_is_the_smallest_power_of_two_that_holds_it(blocks):
    room = seal.room_for(blocks)
    assert room >= 512 and room & (room - 1) == 0
    needed = 8 + 4 + 4 + 32 + 4 * 8 + 4 * blocks
    assert needed <= room
    assert room == 512 or room // 2 < needed


def test_a_seal_of_a_later_version_is_refused_by_its_number(sealed):
    content, _ = sealed
    PATH.write_bytes(content[:8] + struct.pack("<I", 2) + content[12:])
    with pytest.raises(CacheError, match="seal version 2; this version of dive reads version 1"):
        seal.check(PATH)


@pytest.mark.parametrize("field", [12, 48, 56, 72])  # blocks, offset, length of the logits, bytes a block
@pytest.mark.parametrize("value", [0, 1, 2**31, 2**63])
def test_a_seal_with_senseless_numbers_is_refused(sealed, field, value):
    content, _ = sealed
    kind = "<I" if field == 12 else "<Q"
    changed = bytearray(content)
    struct.pack_into(kind, changed, field, value % 2**32 if field == 12 else value)
    assert changed != content
    PATH.write_bytes(changed)
    with pytest.raises(CacheError, match="sealed.h5 is corrupt"):
        seal.check(PATH)


def test_a_wrong_length_is_told_with_both_numbers(sealed):
    content, _ = sealed
    PATH.write_bytes(content[:-10])
    with pytest.raises(CacheError, match=f"{len(content) - 10} bytes, not the {len(content)} it was sealed"):
        seal.check(PATH)


@pytest.mark.parametrize(("attribute", "value"), [("complete", False), ("format", "something else")])
def test_a_sealed_file_that_is_not_a_complete_cache_of_this_version_is_refused(sealed, attribute, value):
    with h5py.File(PATH, "r+") as file:
        file.attrs.modify(attribute, value)
    seal_again()
    with pytest.raises(CacheError, match="not a complete dive-logits file of version 4"):
        LogitCache(PATH)


@pytest.mark.parametrize(
    ("table", "value"),
    [
        ("labels", [0, 1, 2, 3, 4, 0, 0]),  # counts no longer those of /class_counts
        ("class_counts", [7, 0, 0, 0, 0]),
    ],
)
def test_a_sealed_file_whose_tables_contradict_each_other_is_refused(sealed, table, value):
    with h5py.File(PATH, "r+") as file:
        file[table][:] = value
    seal_again()
    with pytest.raises(CacheError, match="contradicts itself"):
        LogitCache(PATH)


@pytest.mark.parametrize("table", ["logits", "views", "keys", "classes", "labels", "class_counts"])
def test_a_sealed_file_without_one_of_its_tables_is_refused(sealed, table):
    with h5py.File(PATH, "r+") as file:
        del file[table]
    seal_again()
    with pytest.raises(CacheError, match="sealed.h5 is not a logit cache that this version of dive can read"):
        LogitCache(PATH)


@pytest.mark.parametrize("more", [-1, 1])
@pytest.mark.parametrize(
    "table", ["keys", "labels", "views", "digests", "classes", "class_counts", "block_correct"]
)
def test_a_sealed_file_with_a_table_that_is_a_row_longer_or_shorter_is_refused(sealed, table, more):
    with h5py.File(PATH, "r+") as file:
        rows = file[table][:]
        del file[table]
        file[table] = rows[:-1] if more < 0 else np.concatenate([rows, rows[-1:]])
        if table == "labels":
            file["class_counts"][:] = np.bincount(file["labels"][:], minlength=5)
    seal_again()
    with pytest.raises(CacheError, match="contradicts itself"):
        LogitCache(PATH)


def test_a_cache_whose_last_class_has_no_sample_is_read():
    cache = caches.write_cache(PATH, caches.random_logits(4, 1, 5), labels=[0, 3, 1, 2])
    assert cache.class_counts.tolist() == [1, 1, 1, 1, 0] and cache.shape == (4, 1, 5)


def test_the_accuracy_of_a_cache_is_the_share_of_all_views_that_are_right(sealed):
    _, logits = sealed
    right = sum(int(logits[i, v].argmax() == i % 5) for i in range(7) for v in range(3))
    assert LogitCache(PATH).accuracy == right / 21 and 0 < right < 21


def seal_again() -> None:
    """Seal the changed file as its writer would, the place of the logits as it was."""
    head = PATH.read_bytes()[:96]
    offset, size, _, block_bytes = struct.unpack_from("<QQQQ", head, 48)
    crcs = np.frombuffer(head, dtype="<u4", count=4, offset=80)
    with open(PATH, "r+b") as file:
        seal.write(file, crcs, (offset, size), block_bytes)
