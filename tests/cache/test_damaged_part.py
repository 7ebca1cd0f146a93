"""Damaged, edited and hostile unfinished exports: refused in one line, or ending in the right bytes."""

import hashlib
import json
import os
import random
import socket
import struct
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import caches
import chain
import h5py
import numpy as np
import pytest

from dive.cache import memory_file
from dive.cache import writer as cache_writer
from dive.cache.part import part_path
from dive.cache.reader import LogitCache
from dive.cache.writer import CacheWriter, Content
from dive.errors import CacheError, OutputError

PATH = Path("cache.h5")
PART = part_path(PATH)
USER_BLOCK = 512


def content_of(values: np.ndarray, store: str) -> Content:
    """The content of the exports of these tests."""
    return caches.content_for(
        values,
        store=store,
        digests=np.random.default_rng(1).integers(0, 256, (13, 16), dtype=np.uint8),
        facts={"precision": "fp32", "clean_id": 0, "teacher": {"seed": 3}, "versions": {"torch": "2.9.0"}},
    )


@dataclass(frozen=True)
class Stopped:
    """An export of seven blocks that was stopped after four: its part, and the cache that it ends in."""

    part: bytes
    whole: bytes
    content: Content
    values: np.ndarray


@pytest.fixture(autouse=True)
def two_samples_a_block(monkeypatch):
    monkeypatch.setattr(cache_writer, "BLOCK_IMAGES", 6)


@pytest.fixture(scope="module", params=caches.STORES)
def stopped(request, tmp_path_factory) -> Stopped:
    """The stopped export of each encoding."""
    folder = tmp_path_factory.mktemp("stopped")
    values = caches.values(request.param, 13, 3, 4)
    content = content_of(values, request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "BLOCK_IMAGES", 6)
        caches.write_blocks(folder / "whole.h5", content, values)
        caches.finish(folder / "whole.h5", content)
        caches.write_blocks(folder / "c.h5", content, values, range(4))
    part, whole = (folder / "c.h5.part").read_bytes(), (folder / "whole.h5").read_bytes()
    return Stopped(part, whole, content, values)


def resume(stopped: Stopped, *beside: str) -> str | None:
    """Resume the part as an export does and finish it; the line with which it was refused, or None.

    beside: the files that lie here besides it.
    """
    before = PART.read_bytes()
    try:
        facts = cache_writer.unfinished(PATH, stopped.content.identity)
        with CacheWriter(PATH, replace(stopped.content, facts=facts)) as writer:
            for block in writer.missing():
                writer.write(block, stopped.values[writer.rows(block)])
            writer.finish()
    except OutputError as error:
        assert "\n" not in str(error) and "cache.h5.part" in str(error) and "--force" in str(error)
        assert PART.read_bytes() == before  # refused before anything was written
        assert sorted(os.listdir()) == ["cache.h5.part", *beside]
        return str(error)
    assert sorted(os.listdir()) == ["cache.h5", *beside]
    return None


# Damages. Each takes the part's path and a generator.

Damage = Callable[[Path, random.Random], None]
TABLES = ("views", "labels", "class_counts", "digests", "keys", "classes")
BLOCK_TABLES = ("block_crc32", "block_done", "block_correct", "rows")


def table_called(file: h5py.File, name: str) -> h5py.Dataset:
    """A table of a cache; `rows` are those of its encoding."""
    return file[caches.table_of(file) if name == "rows" else name]


def table_entry(name: str) -> Damage:
    """Another value in one entry of a table, by h5py."""

    def damage(part: Path, generator: random.Random) -> None:
        def change(file: h5py.File) -> None:
            table = table_called(file, name)
            at = tuple(generator.randrange(length) for length in table.shape)
            if table.dtype.kind == "S":
                table[at] = table[at][:-1] + b"#"
            elif table.dtype.names:
                row = table[at]
                row["values"][generator.randrange(len(row["values"]))] ^= 1
                table[at] = row
            else:
                table[at] = table[at] + table.dtype.type(generator.randrange(1, 100))

        caches.edited(part, change)

    return damage


def whole_table(name: str) -> Damage:
    """A table in reversed order, by h5py; its rows would belong to other samples."""

    def damage(part: Path, _: random.Random) -> None:
        def change(file: h5py.File) -> None:
            table = table_called(file, name)
            table[:] = np.flip(table[:])

        caches.edited(part, change)

    return damage


def attribute(name: str, how: str) -> Damage:
    """An attribute changed in place, replaced by another kind, or removed, by h5py."""

    def damage(part: Path, generator: random.Random) -> None:
        def change(file: h5py.File) -> None:
            value = file.attrs[name]
            if how == "removed":
                del file.attrs[name]
            elif how == "replaced":
                file.attrs[name] = np.arange(generator.randrange(2, 9))
            elif isinstance(value, str):
                file.attrs.modify(name, value.replace("3", "4").replace("fp", "bf").replace("a", "e"))
            else:
                file.attrs.modify(name, value.dtype.type(1 - value))

        caches.edited(part, change)

    return damage


def saved_by_h5py(part: Path, generator: random.Random) -> None:
    """The part after another program opened it for writing: the record after the cache is gone."""
    with h5py.File(part, "r+") as file:
        file.attrs[f"note {generator.randrange(9)}"] = "checked"


def flipped(begin: int | None, end: int | None) -> Damage:
    """One to four bytes changed within [begin, end) of the file."""

    def damage(part: Path, generator: random.Random) -> None:
        content = bytearray(part.read_bytes())
        places = range(len(content))[begin:end]
        for _ in range(generator.randrange(1, 5)):
            content[generator.choice(places)] ^= generator.randrange(1, 256)
        part.write_bytes(content)

    return damage


def zeros(part: Path, generator: random.Random) -> None:
    """A page of zeros, as a power cut leaves one."""
    content = bytearray(part.read_bytes())
    pages = [start for start in range(0, len(content), USER_BLOCK) if any(content[start:][:USER_BLOCK])]
    start = generator.choice(pages)
    content[start : start + USER_BLOCK] = bytes(len(content[start:][:USER_BLOCK]))
    part.write_bytes(content)


def cut(part: Path, generator: random.Random) -> None:
    content = part.read_bytes()
    part.write_bytes(content[: generator.randrange(len(content))])


def longer(part: Path, generator: random.Random) -> None:
    part.write_bytes(part.read_bytes() + generator.randbytes(generator.randrange(1, 2000)))


def replaced(name: str, **how: object) -> Damage:
    """A table in another layout (chunked, filtered, external), as a forger writes it; keeps the record."""

    def damage(part: Path, _: random.Random) -> None:
        def change(file: h5py.File) -> None:
            table = table_called(file, name)
            place, values = table.name, table[:]
            del file[place]
            file.create_dataset(place, data=values, **how)

        caches.edited(part, change)

    return damage


def soft_link(part: Path, _: random.Random) -> None:
    def change(file: h5py.File) -> None:
        file.move("labels", "hidden")
        file["labels"] = h5py.SoftLink("/hidden")

    caches.edited(part, change)


TO_TABLES = [
    *(table_entry(name) for name in TABLES + BLOCK_TABLES),
    *(whole_table(name) for name in TABLES + BLOCK_TABLES),
]
TO_ATTRIBUTES = [
    *(
        attribute(name, how)
        for name in ("format", "version", "producer", "identity", "facts", "complete")
        for how in ("changed", "replaced", "removed")
    ),
    saved_by_h5py,
    saved_by_h5py,
]
TO_STRUCTURE = [
    flipped(0, USER_BLOCK),
    flipped(0, 8),
    flipped(USER_BLOCK, USER_BLOCK + 100),
    flipped(USER_BLOCK, 3000),
    flipped(USER_BLOCK, None),
    flipped(None, None),
    flipped(None, None),
    flipped(-60, None),
    flipped(-400, -60),
    flipped(-1, None),
    zeros,
    zeros,
    zeros,
    cut,
    cut,
    longer,
    soft_link,
    replaced("labels", chunks=True),
    replaced("views", chunks=True, compression="gzip"),
    replaced("rows", chunks=True),
]
DAMAGES = [
    *(("tables", damage) for damage in TO_TABLES),
    *(("attributes", damage) for damage in TO_ATTRIBUTES),
    *(("structure", damage) for damage in TO_STRUCTURE),
]


def test_of_sixty_damages_to_a_part_none_reaches_the_finished_cache(stopped):
    part, whole = stopped.part, stopped.whole
    found = Counter()
    for number, (kind, damage) in enumerate(DAMAGES):
        PATH.unlink(missing_ok=True)
        PART.write_bytes(part)
        damage(PART, random.Random(number))
        assert PART.read_bytes() != part, (number, kind)
        refusal = resume(stopped)
        assert refusal or PATH.read_bytes() == whole, (number, kind)
        found[kind, "refused" if refusal else "equal"] += 1
        PART.unlink(missing_ok=True)
    assert Counter(kind for kind, _ in DAMAGES) == {"tables": 20, "attributes": 20, "structure": 20}
    # What is damaged outside the record is repaired; a damaged record is refused.
    assert (found["tables", "equal"], found["attributes", "equal"]) == (20, 18), found
    assert found["structure", "equal"] >= 8 and found["structure", "refused"] >= 5, found


def test_a_damaged_head_of_a_part_is_mended(stopped):
    if stopped.content.head is None:
        pytest.skip("logits need no head")
    for number, damage in enumerate(map(table_entry, ("head_weight", "head_bias"))):
        PATH.unlink(missing_ok=True)
        PART.write_bytes(stopped.part)
        damage(PART, random.Random(number))
        assert PART.read_bytes() != stopped.part
        assert resume(stopped) is None and PATH.read_bytes() == stopped.whole


def test_every_byte_of_a_part_may_change_and_none_reaches_the_finished_cache(stopped):
    part, whole = stopped.part, stopped.whole
    generator, refused = random.Random(0), 0
    for place in sorted(generator.sample(range(len(part)), 150)):
        changed = bytearray(part)
        changed[place] ^= 1 << generator.randrange(8)
        PATH.unlink(missing_ok=True)
        PART.write_bytes(changed)
        if resume(stopped) is None:
            assert PATH.read_bytes() == whole, place
        else:
            refused += 1
            assert place >= len(whole)  # the record alone cannot be mended
            PART.unlink()
    assert 0 < refused < 50


def test_a_resumed_part_keeps_the_facts_and_the_producer_of_the_export_that_began_it(stopped, monkeypatch):
    part, whole = stopped.part, stopped.whole
    PART.write_bytes(part)
    monkeypatch.setattr(cache_writer, "__version__", "99.0")
    with CacheWriter(PATH, replace(stopped.content, facts={"precision": "bf16", "versions": {}})) as writer:
        for block in writer.missing():
            writer.write(block, stopped.values[writer.rows(block)])
        writer.finish()
    assert PATH.read_bytes() == whole


@pytest.mark.parametrize("change", ["views", "labels", "digests", "keys", "head"])
def test_a_part_that_was_begun_with_other_tables_is_refused_and_not_rewritten(stopped, change):
    """The record is valid and the identity is the same, but the rows belong to other tables."""
    content = stopped.content
    other = {
        "views": {"views": content.views[:, ::-1].copy()},
        "labels": {"labels": np.roll(content.labels, 1)},
        "digests": {"digests": content.digests[::-1].copy()},
        "keys": {"keys": content.keys[::-1]},
        "head": {"head": caches.head(4, seed=6)},
    }[change]
    if change == "head" and content.head is None:
        pytest.skip("logits need no head")
    caches.write_blocks(PATH, replace(content, **other), stopped.values, range(4))
    refusal = resume(stopped)
    assert refusal and "was begun by dive" in refusal and "with other tables" in refusal


@pytest.mark.parametrize("place", ["facts", "producer", "layout", "block_rows", "shape"])
@pytest.mark.parametrize("value", [None, [], {}, "x", -1, 1e300, [1, 2, 3]])
def test_a_forged_record_is_refused_or_has_no_effect(stopped, place, value):
    part = stopped.part
    digest, length, begin, *rest = struct.unpack("<32sQQI8s", part[-60:])
    record = json.loads(part[begin : begin + length])
    assert hashlib.sha256(part[begin : begin + length]).digest() == digest
    text = json.dumps(record | {place: value}).encode()
    footer = struct.pack("<32sQQI8s", hashlib.sha256(text).digest(), len(text), begin, *rest)
    PART.write_bytes(part[:begin] + text + footer)
    assert resume(stopped)
    if place != "layout" or not isinstance(value, str):
        outcome = chain.dive("inspect", PART)
        assert outcome.code == 0 or outcome.complaint


# Hostile parts: HDF5 could be made to read and write other files.


def external(part: Path) -> None:
    """Logits in another file (external storage)."""

    def change(file: h5py.File) -> None:
        table = table_called(file, "rows")
        place, shape, kind = table.name, table.shape, table.dtype
        del file[place]
        size = int(np.prod(shape)) * kind.itemsize
        file.create_dataset(place, shape, kind, external=[("victim", 0, size)])

    caches.edited(part, change)


def linked(part: Path) -> None:
    """Logits that are a link to another HDF5 file."""

    def change(file: h5py.File) -> None:
        table = table_called(file, "rows")
        place = table.name
        with h5py.File("victim", "w") as other:
            other["rows"] = table[:]
        del file[place]
        file[place] = h5py.ExternalLink("victim", "/rows")

    caches.edited(part, change)


@pytest.mark.parametrize("make", [external, linked])
@pytest.mark.parametrize("record", ["kept", "cut off"])
def test_a_hostile_part_writes_into_no_other_file(stopped, make, record):
    part, whole = stopped.part, stopped.whole
    Path("victim").write_bytes(bytes(5000))
    PART.write_bytes(part)
    make(PART)
    if record == "cut off":
        PART.write_bytes(PART.read_bytes()[: len(whole)])
    victim = Path("victim").read_bytes()
    chain.dive("inspect", PART)
    refusal = resume(stopped, "victim")
    assert Path("victim").read_bytes() == victim
    assert refusal if record == "cut off" else PATH.read_bytes() == whole


@pytest.mark.parametrize("nested", ["recipe", "facts"])
def test_a_record_that_is_nested_too_deeply_is_refused_in_one_line(stopped, nested):
    part = stopped.part
    length, begin, *rest = struct.unpack("<32sQQI8s", part[-60:])[1:]
    text = part[begin : begin + length].decode()
    for depth in (900, 970, 100_000):
        changed = text.replace('"small"', "[" * depth + "]" * depth)
        if nested == "facts":
            changed = text.replace('"fp32"', "[" * depth + "]" * depth)
        footer = (hashlib.sha256(changed.encode()).digest(), len(changed), begin, *rest)
        PART.write_bytes(part[:begin] + changed.encode() + struct.pack("<32sQQI8s", *footer))
        assert resume(stopped), depth


def test_hdf5_never_opens_an_unfinished_export(stopped):
    real = h5py.File

    def only_memory(place, *arguments, **options):
        assert isinstance(place, memory_file.MemoryFile), f"HDF5 was asked to open {place}"
        return real(place, *arguments, **options)

    PART.write_bytes(stopped.part)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(h5py, "File", only_memory)
        assert chain.succeed("inspect", PART, "--json").document["blocks_done"] == 4
        assert resume(stopped) is None
    assert PATH.read_bytes() == stopped.whole


def in_the_way(kind: str, place: Path) -> None:
    """Something at `place` that is not a regular file."""
    if kind == "FIFO":
        os.mkfifo(place)
    elif kind == "folder":
        place.mkdir()
    elif kind == "socket":
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind(str(place))
    elif kind == "link to a device":
        place.symlink_to("/dev/zero")
    elif kind == "link to a file":
        Path("mine").write_text("mine")
        place.symlink_to("mine")
    else:
        place.symlink_to("nowhere")


KINDS = ["FIFO", "folder", "socket", "link to a device", "link to a file", "broken link"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("name", ["cache.h5.part", ".cache.h5.part.dive-tmp"])
@pytest.mark.parametrize("force", [(), ("--force",)])
def test_what_is_not_a_file_of_its_own_in_the_place_of_a_part_is_refused_before_it_is_opened(
    kind, name, force
):
    in_the_way(kind, Path(name))
    words = ("export-logits", *chain.DIGITS, "--teacher", "t.pt", "--out", PATH, *force)
    complaint = chain.dive(*words).complaint
    assert f"{name} is in the way: it is a " in complaint and "remove it" in complaint
    with pytest.raises(OutputError, match=f"{name} is in the way"):
        CacheWriter(PATH, content_of(caches.random_logits(13, 3, 4), "float16"))
    if kind == "link to a file":
        assert Path("mine").read_text() == "mine"
    assert os.path.lexists(name) and not PATH.exists()


@pytest.mark.parametrize("kind", KINDS)
def test_inspecting_a_part_that_is_not_a_file_of_its_own_does_not_wait_for_it(kind):
    in_the_way(kind, PART)
    assert "cache.h5.part" in chain.dive("inspect", PART).complaint


@pytest.mark.parametrize("kind", ["FIFO", "folder", "socket", "link to a device"])
def test_a_cache_that_is_not_a_file_is_refused_before_it_is_opened(kind):
    in_the_way(kind, PATH)
    with pytest.raises(CacheError, match="cannot read cache.h5: it is a"):
        LogitCache(PATH)


# A few through the command itself.


@pytest.fixture(scope="module")
def half_done(digits, tmp_path_factory) -> tuple[bytes, bytes]:
    """An export of the digits that was stopped after one of its blocks, and what it ends in."""
    out = tmp_path_factory.mktemp("half") / "cache.h5"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "BLOCK_IMAGES", 2048)
        write, done = CacheWriter.write, []

        def stopping(self, block, logits):
            if done:
                raise KeyboardInterrupt
            done.append(block)
            write(self, block, logits)

        patch.setattr(CacheWriter, "write", stopping)
        words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", out)
        assert chain.dive(*words).code == 130
    return part_path(out).read_bytes(), digits.cache.read_bytes()


def other_precision(part: Path, _: random.Random) -> None:
    content = part.read_bytes()
    begin = len(content) - 60 - struct.unpack("<32sQQI8s", content[-60:])[1]
    part.write_bytes(
        content[:begin] + content[begin:].replace(b'"precision": "fp32"', b'"precision": "bf16"')
    )


@pytest.mark.parametrize(
    ("damage", "ends"),
    [
        (table_entry("views"), "repaired"),
        (table_entry("rows"), "equal"),
        (attribute("facts", "changed"), "repaired"),
        (other_precision, "refused"),
        (cut, "refused"),
    ],
    ids=["views", "rows", "facts", "record", "cut"],
)
def test_the_command_repairs_a_damaged_part_and_says_so_or_refuses_it(
    digits, half_done, monkeypatch, damage, ends
):
    monkeypatch.setattr(cache_writer, "BLOCK_IMAGES", 2048)
    part, whole = half_done
    PART.write_bytes(part)
    damage(PART, random.Random(0))
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", PATH)
    outcome = chain.dive(*words)
    if ends == "refused":
        assert "cache.h5.part is a damaged unfinished export" in outcome.complaint
        chain.succeed(*words, "--force")
    else:
        assert outcome.code == 0
        assert ("damaged outside its rows" in outcome.err) == (ends == "repaired")
    assert PATH.read_bytes() == whole


def test_a_part_of_the_same_weights_but_another_teachers_facts_is_refused(digits, half_done):
    from dive.models import checkpoint

    PART.write_bytes(half_done[0])
    document = checkpoint.load(digits.teacher)
    document["accuracy"] = {name: 0.25 for name in document["accuracy"]}
    checkpoint.save(Path("other.pt"), document)
    before = PART.read_bytes()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "BLOCK_IMAGES", 2048)
        words = ("export-logits", *chain.DIGITS, "--teacher", "other.pt", "--out", PATH)
        complaint = chain.dive(*words).complaint
    assert "teacher.accuracy.all: " in complaint and "now 0.25" in complaint
    assert PART.read_bytes() == before


def test_a_part_that_was_sealed_and_then_damaged_is_refused_or_ends_in_the_same_bytes(stopped):
    """After the record is removed and before the file is moved, an export has only a seal."""
    whole = stopped.whole
    generator = random.Random(5)
    PART.write_bytes(whole)
    assert resume(stopped) is None and PATH.read_bytes() == whole
    for _ in range(40):
        changed = bytearray(whole)
        changed[generator.randrange(len(whole))] ^= 1 << generator.randrange(8)
        PATH.unlink(missing_ok=True)
        PART.write_bytes(changed)
        assert resume(stopped) or PATH.read_bytes() == whole
        PART.unlink(missing_ok=True)
