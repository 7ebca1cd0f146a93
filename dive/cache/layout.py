"""The layout of a logit cache: every byte of its file besides the rows, computed in memory.

HDF5 writes the layout to memory, never to the disk: the library crashes if a disk is full or a limit on file
sizes is reached, and it trusts the content of a damaged or hostile file. The layout is then written to the
disk, compared with the file and repaired as plain bytes at known places. The same content gives the same
layout, byte for byte.
"""

import copy
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import h5py
import numpy as np

from dive.cache import seal
from dive.cache.encodings.codec import Codec, Head
from dive.cache.encodings.registry import ENCODINGS
from dive.cache.memory_file import MemoryFile
from dive.cache.tables import FORMAT, HEAD, VERSION

_ALIGNMENT = 64  # bytes, of every table, since the rows are used in place in the mapped file
_BLOCK_TABLES = {"block_crc32": "<u4", "block_done": "u1", "block_correct": "<u4"}


@dataclass(frozen=True)
class Content:
    """The content of a cache besides its rows.

    views: (N, V) view ids. labels: (N,). keys: N texts. digests: (N, 16) uint8, of the images.
    classes: C names. class_counts: (C,). store: the name of the encoding. identity: nested plain values;
    an unfinished export is resumed only if they are equal. facts: further plain values to record
    (precision, versions, …). head: the teacher's last Linear, if the encoding is one of features.
    """

    views: np.ndarray
    labels: np.ndarray
    keys: list[str]
    digests: np.ndarray
    classes: tuple[str, ...]
    class_counts: np.ndarray
    store: str
    identity: dict[str, Any]
    facts: dict[str, Any]
    head: Head | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """(N, V, C)."""
        return (*self.views.shape, len(self.classes))

    @cached_property
    def codec(self) -> Codec:
        """The codec that encodes and decodes its rows."""
        return Codec(ENCODINGS[self.store], len(self.classes), self.head)

    @property
    def bytes(self) -> int:
        """Approximate size of the file: without its small tables and the structures of HDF5."""
        n, v, _ = self.shape
        keys = n * max(len(key.encode()) for key in self.keys)
        tables = [self.views, self.labels, self.digests, *_head_tables(self.head).values()]
        return n * v * self.codec.row.itemsize + sum(table.nbytes for table in tables) + keys


@dataclass(frozen=True)
class Place:
    """A range of bytes in a file: its offset and size."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """The offset of the first byte after it."""
        return self.offset + self.size


class Layout:
    """A cache's file before the first row is written: no block is done, not complete, not sealed.

    length: the length of the file in bytes. rows, block_crc32, block_done, block_correct: the places of these
    tables. complete: the place of the byte that is 1 in a complete cache. digest: SHA-256 in hexadecimal of
    every byte that never changes afterwards, and of its offset.
    """

    def __init__(self, memory: MemoryFile, tables: dict[str, Place], complete: Place, room: int) -> None:
        self._memory = memory
        self.length = len(memory)
        self.complete = complete
        self.rows = tables["rows"]
        self.block_crc32, self.block_done, self.block_correct = (tables[name] for name in _BLOCK_TABLES)
        changing = [Place(0, room), complete, *tables.values()]
        self._fixed = _between(changing, self.length)
        self._cut = 0
        digest = hashlib.sha256()
        for offset, content in self._pieces(self._fixed):
            digest.update(f"{offset} {len(content)}\n".encode() + content)
        self.digest = digest.hexdigest()

    def narrowed(self, size: int) -> "Layout":
        """The layout of the same file with only `size` bytes of rows; what follows the rows moves up.

        Its digest remains that of the whole file, so that the shards of one cache have equal digests.
        """
        narrow = copy.copy(self)
        cut = self.rows.size - size
        narrow._cut = self._cut + cut
        narrow.length = self.length - cut

        def moved(place: Place) -> Place:
            return Place(place.offset - cut, place.size) if place.offset >= self.rows.stop else place

        narrow.complete = moved(self.complete)
        narrow.block_crc32, narrow.block_done = moved(self.block_crc32), moved(self.block_done)
        narrow.block_correct = moved(self.block_correct)
        narrow._fixed = [moved(place) for place in self._fixed]
        narrow.rows = Place(self.rows.offset, size)
        return narrow

    def _pieces(self, places: list[Place]) -> Iterator[tuple[int, bytes]]:
        for place in places:
            in_memory = self._cut if place.offset >= self.rows.stop else 0
            for start in range(place.offset, place.stop, 1 << 20):
                yield start, self._memory.at(start + in_memory, min(1 << 20, place.stop - start))

    def write(self, handle: int) -> None:
        """Write everything but the rows to an empty file; raises OSError."""
        for offset, content in self._pieces(_between([self.rows], self.length)):
            write_at(handle, content, offset)

    def damage(self, handle: int) -> list[tuple[int, bytes]]:
        """The offset and the correct bytes of each piece of the file that must never change but did.

        A piece has at most 1 MiB.
        """
        return [
            (offset, content)
            for offset, content in self._pieces(self._fixed)
            if read_at(handle, len(content), offset) != content
        ]


def lay_out(content: Content, producer: str, blocks: int) -> Layout:
    """The layout of a cache of `blocks` blocks. producer: the version of dive that begins the cache."""
    memory, room = MemoryFile(), seal.room_for(blocks)
    with h5py.File(
        memory, "w", userblock_size=room, alignment_threshold=1, alignment_interval=_ALIGNMENT
    ) as file:
        for key, value in {
            "format": FORMAT,
            "version": VERSION,
            "encoding": content.store,
            "producer": producer,
            "identity": json.dumps(content.identity),
            "facts": json.dumps(content.facts),
            "complete": True,  # set to False below: the byte that changes is its place
        }.items():
            file.attrs[key] = value
        for name, texts in (("keys", content.keys), ("classes", content.classes)):
            encoded = [text.encode() for text in texts]
            file[name] = np.array(encoded, dtype=h5py.string_dtype("utf-8", max(map(len, encoded))))
        file["labels"], file["views"] = content.labels, content.views
        file["class_counts"], file["digests"] = content.class_counts, content.digests
        for name, table in _head_tables(content.head).items():
            file[name] = table
        _allocate_rows(file, content)
        for name, kind in _BLOCK_TABLES.items():
            file[name] = np.zeros(blocks, dtype=kind)
        places = {"rows": content.codec.encoding.table} | {name: name for name in _BLOCK_TABLES}
        tables = {what: Place(file[name].id.get_offset(), file[name].nbytes) for what, name in places.items()}
        file.flush()
        memory.watch()
        file.attrs.modify("complete", np.bool_(False))
    (complete,) = memory.changes()
    return Layout(memory, tables, Place(complete, 1), room)


def _head_tables(head: Head | None) -> dict[str, np.ndarray]:
    """The tables of a head, little-endian."""
    if head is None:
        return {}
    return {name: table.astype("<f4") for name, table in zip(HEAD, (head.weight, head.bias), strict=True)}


def _allocate_rows(file: h5py.File, content: Content) -> None:
    plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plan.set_layout(h5py.h5d.CONTIGUOUS)
    plan.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    plan.set_fill_time(h5py.h5d.FILL_TIME_NEVER)
    plan.set_obj_track_times(False)  # so that the same content gives the same bytes
    codec = content.codec
    space = h5py.h5s.create_simple((*content.views.shape, *codec.row.shape))
    name = codec.encoding.table.encode()
    h5py.h5d.create(file.id, name, h5py.h5t.py_create(codec.row.base, logical=True), space, plan)


def _between(places: list[Place], length: int) -> list[Place]:
    """The rest of a file of this length: the ranges outside the given places, which do not overlap."""
    found, start = [], 0
    for place in sorted(places, key=lambda place: place.offset):
        found.append(Place(start, place.offset - start))
        start = place.stop
    found.append(Place(start, length - start))
    return [place for place in found if place.size]


def write_at(handle: int, content: bytes | memoryview, offset: int) -> None:
    """Write all of `content` to an open file at an offset; raises OSError."""
    rest = memoryview(content).cast("B")
    while rest:
        done = os.pwrite(handle, rest, offset)
        rest, offset = rest[done:], offset + done


def read_at(handle: int, size: int, offset: int) -> bytes:
    """`size` bytes of an open file from an offset on, fewer if the file ends before; raises OSError."""
    pieces = []
    while size > 0 and (piece := os.pread(handle, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)
