"""The layout of a logit cache: every byte of its file besides the rows, computed in memory.

HDF5 lays the file out, but into memory: the library crashes where a disk fills or a file may not grow,
and it believes what a damaged or hostile file says. What it laid out is written to the disk, compared
with it and repaired there as plain bytes at known places. The same content is laid out as the same bytes.
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

_ALIGNMENT = 64  # bytes, of every table: the rows are mapped and used in place
_BLOCK_TABLES = {"block_crc32": "<u4", "block_done": "u1", "block_correct": "<u4"}


@dataclass(frozen=True)
class Content:
    """What a cache is made of besides its rows.

    views: (N, V) view ids. labels: (N,). keys: N texts. digests: (N, 16) uint8, of the images.
    classes: C names. class_counts: (C,). store: the name of its encoding. identity: nested plain values
    that must be equal for an unfinished export to be resumed. facts: further plain values to record
    (precision, versions, …). head: of an encoding of features.
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
        """How its rows are encoded."""
        return Codec(ENCODINGS[self.store], len(self.classes), self.head)

    @property
    def bytes(self) -> int:
        """Size of the file, but for some kilobytes of HDF5's own."""
        n, v, _ = self.shape
        keys = n * max(len(key.encode()) for key in self.keys)
        tables = [self.views, self.labels, self.digests, *_head_tables(self.head).values()]
        return n * v * self.codec.row.itemsize + sum(table.nbytes for table in tables) + keys


@dataclass(frozen=True)
class Place:
    """Where something lies in a file: offset and size in bytes."""

    offset: int
    size: int

    @property
    def stop(self) -> int:
        """The first byte behind it."""
        return self.offset + self.size


class Layout:
    """A cache's file as it is before the first row: all blocks to do, not complete, not sealed.

    length: of the file in bytes. rows, block_crc32, block_done, block_correct: where these tables lie.
    complete: the place of the byte that says so. digest: SHA-256 in hexadecimal of every byte that never
    changes again, and of its place.
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
        """The layout of the same file with so many bytes of rows: what lies behind them moves up.

        Its digest is that of the whole file, so that files of other rows are known to belong together.
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
        """Offset and right content of each piece, up to a megabyte, that changed and never should."""
        return [
            (offset, content)
            for offset, content in self._pieces(self._fixed)
            if read_at(handle, len(content), offset) != content
        ]


def lay_out(content: Content, producer: str, blocks: int) -> Layout:
    """The layout of a cache of so many blocks. producer: the dive that begins it."""
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
            "complete": True,  # and False below, which shows where this stands
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
    plan.set_obj_track_times(False)  # the same content makes the same bytes
    codec = content.codec
    space = h5py.h5s.create_simple((*content.views.shape, *codec.row.shape))
    name = codec.encoding.table.encode()
    h5py.h5d.create(file.id, name, h5py.h5t.py_create(codec.row.base, logical=True), space, plan)


def _between(places: list[Place], length: int) -> list[Place]:
    """What of a file of this length lies outside the places, which do not overlap."""
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
    """`size` bytes of an open file from an offset on, fewer where it ends before; raises OSError."""
    pieces = []
    while size > 0 and (piece := os.pread(handle, size, offset)):
        pieces.append(piece)
        size, offset = size - len(piece), offset + len(piece)
    return b"".join(pieces)
