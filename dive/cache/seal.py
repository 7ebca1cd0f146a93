"""The seal of a logit cache: checksums that are verified before any HDF5 code reads the file.

The seal is in the user block of the HDF5 file. It has the SHA-256 of every byte outside the rows, the offset
and size of the rows, the length of the file, and the CRC32 of each block of rows.
"""

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from dive.errors import CacheError
from dive.files import open_regular
from dive.outputs import Kind

VERSION = 1
# magic, version, number of blocks, SHA-256, offset and size of the rows, length of the file, bytes per block
_SEAL = struct.Struct("<8sII32sQQQQ")
CACHE = b"DIVESEAL"  # the first bytes of a sealed cache
SHARD = b"DIVESHRD"  # the first bytes of a sealed shard, which has only some blocks and is not a cache
_DIGEST = slice(16, 48)
_SMALLEST_USER_BLOCK, _LARGEST_USER_BLOCK = 512, 1 << 26
_HDF5 = b"\x89HDF\r\n\x1a\n"
_PIECE = 1 << 20


def is_own(path: Path) -> bool:
    """Whether a file begins like a sealed cache; the rest is not checked."""
    try:
        with open_regular(path) as file:
            return is_sealed(file.read(len(CACHE)))
    except OSError:
        return False


KIND = Kind("a logit cache", is_own)


def holds_hdf5(file: BinaryIO) -> bool:
    """Whether a file has HDF5's signature at an offset where a user block may end."""
    place = _SMALLEST_USER_BLOCK
    while place <= _LARGEST_USER_BLOCK:
        file.seek(place)
        if file.read(len(_HDF5)) == _HDF5:
            return True
        place *= 2
    return False


def room_for(blocks: int) -> int:
    """The size in bytes of the user block that holds a seal of `blocks` blocks.

    A power of two, as HDF5 requires.
    """
    size = _SMALLEST_USER_BLOCK
    while size < _SEAL.size + 4 * blocks:
        size *= 2
    return size


def write(
    file: BinaryIO,
    crcs: np.ndarray,
    place: tuple[int, int],
    block_bytes: int,
    length: int | None = None,
    magic: bytes = CACHE,
) -> None:
    """Seal a finished file, open for reading and writing; writes the whole user block.

    crcs: the CRC32 of each block of rows. place: offset and size of the rows in bytes. length: the length of
    the finished file in bytes, if the file is longer now and will be cut; its current length if not given.
    magic: `CACHE` or `SHARD`. A seal that is correct already is not written again, so that a kill cannot
    damage it. Raises OSError.
    """
    length = os.fstat(file.fileno()).st_size if length is None else length
    header = _SEAL.pack(magic, VERSION, len(crcs), bytes(32), *place, length, block_bytes)
    block = bytearray(header + crcs.astype("<u4").tobytes())
    block += bytes(room_for(len(crcs)) - len(block))
    block[_DIGEST] = _digest(file, bytes(block), place, length)
    file.seek(0)
    if file.read(len(block)) != block:
        file.seek(0)
        file.write(block)
        file.flush()


def _digest(file: BinaryIO, start: bytes, place: tuple[int, int], length: int) -> bytes:
    """SHA-256 of every byte outside the rows, with the field of the digest taken as zeros.

    start: the first bytes of the file, at least the seal without its CRCs.
    """
    offset, size = place
    digest = hashlib.sha256(start[: _DIGEST.start] + bytes(32) + start[_DIGEST.stop :])
    for begin, stop in ((len(start), offset), (offset + size, length)):
        file.seek(begin)
        while begin < stop:
            piece = file.read(min(_PIECE, stop - begin))
            if not piece:
                break
            digest.update(piece)
            begin += len(piece)
    return digest.digest()


def is_sealed(start: bytes, magic: bytes = CACHE) -> bool:
    """Whether a file with these first bytes has a seal, valid or not. magic: `CACHE` or `SHARD`."""
    return start[: len(magic)] == magic


@dataclass(frozen=True)
class Seal:
    """A verified seal: its digest, offset and size of the rows, bytes per block, CRC32 of each block."""

    digest: bytes
    offset: int
    size: int
    block_bytes: int
    crcs: np.ndarray


def check(path: Path, magic: bytes = CACHE) -> Seal:
    """The seal of the file at `path`, verified; the CRCs of the blocks are not compared with the rows.

    magic: the magic number that the seal must have. Raises CacheError if the file is missing, cannot be read,
    is not sealed, or does not match its seal.
    """
    try:
        with open_regular(path) as file:
            length = os.fstat(file.fileno()).st_size
            head = file.read(_SEAL.size)
            if len(head) < _SEAL.size or not is_sealed(head, magic):
                raise CacheError(_unsealed(path, head))
            _, version, blocks, digest, offset, size, sealed_length, block_bytes = _SEAL.unpack(head)
            if version != VERSION:
                raise CacheError(
                    f"{path} has seal version {version}; this version of dive reads version {VERSION}"
                )
            if length != sealed_length:
                raise CacheError(
                    f"{path} has {length} bytes, not the {sealed_length} it was sealed with; export it again"
                )
            sound = (
                block_bytes > 0
                and _SEAL.size + 4 * blocks <= offset
                and offset + size <= length
                and blocks == -(-size // block_bytes)
            )
            if not sound or digest != _digest(file, head, (offset, size), length):
                raise CacheError(f"{path} is corrupt: it does not match its seal; export it again")
            file.seek(_SEAL.size)
            crcs = np.frombuffer(file.read(4 * blocks), dtype="<u4")
    except FileNotFoundError:
        raise CacheError(f"there is no logit cache {path}; dive export-logits makes one") from None
    except OSError as error:
        raise CacheError(f"cannot read {path}: {error.strerror}") from error
    return Seal(digest, offset, size, block_bytes, crcs)


def _unsealed(path: Path, head: bytes) -> str:
    if head[:8] == bytes(8):
        return f"{path} is not sealed: its export was interrupted or is still running"
    return f"{path} is not a logit cache written by dive"
