"""Shards of a cache: their shares, files, and what is made of them; damaged, foreign and forged ones too."""

import hashlib
import json
import os
import random
import struct
from dataclasses import dataclass, replace
from pathlib import Path

import caches
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from dive import files, outputs
from dive.cache import writer as cache_writer
from dive.cache.layout import Content
from dive.cache.part import DamagedError, part_path
from dive.cache.plan import Plan, plan_path, planning, read_plan, write_plan
from dive.cache.reader import LogitCache
from dive.cache.shards import ShardWriter, Share, content_of, read_shard, shard_files, shard_path, shards_of
from dive.cache.writer import CacheWriter
from dive.errors import BusyError, DiveError, OutputError
from dive.progress import SILENT
from dive.workflows.merge_shards import merge_shards

PATH = Path("cache.h5")


@given(st.integers(0, 200), st.integers(1, 50))
def test_the_shares_of_blocks_are_disjoint_cover_all_and_are_as_even_as_can_be(blocks, of):
    shares = [Share(number, of).blocks(blocks) for number in range(1, of + 1)]
    assert [block for share in shares for block in share] == list(range(blocks))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


@dataclass(frozen=True)
class Case:
    """A cache of seven blocks. whole: its bytes as one process writes them."""

    content: Content
    values: np.ndarray
    whole: bytes

    @property
    def plan(self) -> Plan:
        return Plan(self.content.identity, self.content.facts, cache_writer.new_record(self.content).producer)

    def write(self, share: Share, blocks=None, content: Content | None = None, finish: bool = True) -> Path:
        """Write a shard, or some blocks of it, and seal it."""
        content = content or self.content
        plan = replace(self.plan, identity=content.identity, facts=content.facts)
        with ShardWriter(PATH, content, share, plan, None, SILENT) as writer:
            for block in writer.missing() if blocks is None else blocks:
                writer.write(block, self.values[writer.rows(block)])
            if finish:
                writer.finish()
            return writer.file


@pytest.fixture(autouse=True)
def two_samples_a_block(monkeypatch):
    monkeypatch.setattr(cache_writer, "BLOCK_IMAGES", 6)


of_logits = pytest.mark.parametrize("case", ["float16"], indirect=True)  # whatever the encoding


@pytest.fixture(scope="module", params=["float16", "int8", "features"])
def case(request, tmp_path_factory) -> Case:
    values = caches.values(request.param, 13, 3, 4)
    content = caches.content_for(
        values,
        store=request.param,
        digests=np.random.default_rng(1).integers(0, 256, (13, 16), dtype=np.uint8),
        facts={"precision": "fp32", "clean_id": 0, "teacher": {"seed": 3}, "versions": {"torch": "2.9.0"}},
    )
    folder = tmp_path_factory.mktemp("whole")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cache_writer, "BLOCK_IMAGES", 6)
        caches.write_blocks(folder / "c.h5", content, values)
        caches.finish(folder / "c.h5", content)
    return Case(content, values, (folder / "c.h5").read_bytes())


@pytest.mark.parametrize("order", [(1, 2, 3), (3, 1, 2), (2, 3, 1)])
def test_three_shards_in_any_order_make_the_bytes_of_one_process(case, order):
    for number in order:
        case.write(Share(number, 3))
    assert [file.name[-13:] for file in shard_files(PATH)] == [
        "000000-000001",
        "000002-000003",
        "000004-000006",
    ]
    merge_shards(PATH)
    assert PATH.read_bytes() == case.whole and os.listdir() == [PATH.name]


def test_a_shard_holds_the_rows_of_its_blocks_and_no_others(case):
    file = case.write(Share(2, 3))
    rows = len(case.values) * 3 * case.content.codec.row.itemsize
    own = 4 * 3 * case.content.codec.row.itemsize
    with CacheWriter(Path("other.h5"), case.content):
        pass
    assert (
        abs(file.stat().st_size - part_path(Path("other.h5")).stat().st_size - own + rows) < 100
    )  # the record
    with pytest.raises(DiveError):
        LogitCache(file)  # nobody takes it for a cache


def test_what_a_finished_shard_says_of_its_cache_is_all_but_the_rows(case):
    found = content_of(read_shard(case.write(Share(3, 3))))
    for name in ("views", "labels", "digests", "class_counts"):
        np.testing.assert_array_equal(getattr(found, name), getattr(case.content, name))
    for name in ("keys", "classes", "store", "identity", "facts"):
        assert getattr(found, name) == getattr(case.content, name)


@of_logits
def test_shards_of_other_shares_make_one_cache_where_they_cover_it(case):
    case.write(Share(1, 2))  # blocks 0 to 2
    case.write(Share(2, 3))  # 2 and 3
    case.write(Share(3, 3))  # 4 to 6
    merge_shards(PATH)
    assert PATH.read_bytes() == case.whole


@of_logits
def test_a_merge_without_a_shard_says_which_is_missing_and_leaves_everything(case):
    with pytest.raises(OutputError, match=r"there is no shard of cache.h5; dive export-logits --shard 1/N"):
        merge_shards(PATH)
    case.write(Share(1, 4))
    case.write(Share(3, 4), blocks=[3], finish=False)
    before = sorted(os.listdir())
    wanted = r"cache.h5: 6 of 7 blocks are missing, those of --shard 2/4, 3/4 \(unfinished\), 4/4; run dive"
    with pytest.raises(OutputError, match=wanted):
        merge_shards(PATH)
    assert sorted(os.listdir()) == before
    for number in (2, 3, 4):
        case.write(Share(number, 4))
    merge_shards(PATH)
    assert PATH.read_bytes() == case.whole


@of_logits
def test_a_merge_that_was_stopped_goes_on(case, monkeypatch):
    for number in (1, 2, 3):
        case.write(Share(number, 3))
    caches.write_blocks(PATH, case.content, case.values, range(5))
    shard_files(PATH)[0].unlink()  # whose blocks are in the part
    merge_shards(PATH)
    assert PATH.read_bytes() == case.whole and os.listdir() == [PATH.name]


@of_logits
def test_nobody_plans_while_the_finished_cache_goes_to_its_place(case, monkeypatch):
    """Otherwise a process that starts late would find neither the cache nor the plan."""
    case.write(Share(1, 1))
    real, published = files.publish, []

    def publish(temporary: Path, final: Path) -> None:
        if final == PATH:
            assert not plan_path(PATH).exists()
            with pytest.raises(BusyError), outputs.only_writer(plan_path(PATH)):
                pass
            published.append(final)
        real(temporary, final)

    monkeypatch.setattr(files, "publish", publish)
    merge_shards(PATH)
    assert published == [PATH] and os.listdir() == [PATH.name]


@pytest.mark.parametrize("finished", [True, False])
def test_random_damages_to_a_shard_are_refused_or_written_anew_and_never_reach_the_cache(case, finished):
    blocks = None if finished else [2]
    file = case.write(Share(2, 3), blocks, finish=finished)
    others = [case.write(Share(number, 3)) for number in (1, 3)]
    kept = {one: one.read_bytes() for one in (file, *others)}
    generator, found = random.Random(0), {"refused": 0, "merged": 0}
    for turn in range(24):
        PATH.unlink(missing_ok=True)
        for one, content in kept.items():
            one.write_bytes(content)
        damaged = bytearray(kept[file])
        for _ in range(generator.randrange(1, 4)):
            damaged[generator.randrange(len(damaged))] ^= generator.randrange(1, 256)
        file.write_bytes(damaged)
        try:
            if turn % 2:
                merge_shards(PATH)
            else:  # what the export does that is started again
                case.write(Share(2, 3))
                merge_shards(PATH)
            found["merged"] += 1
        except OutputError as error:
            assert "\n" not in str(error) and "cache.h5" in str(error)
            found["refused"] += 1
            part_path(PATH).unlink(missing_ok=True)
            continue
        assert PATH.read_bytes() == case.whole
    assert found["refused"] and found["merged"], found


@of_logits
@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            {"identity": caches.IDENTITY | {"recipe": "large"}},
            "recipe: small, now large|recipe: large, now small",
        ),
        (
            {"facts": {"precision": "bf16", "clean_id": 0, "teacher": {"seed": 3}}},
            "precision: (fp32|bf16), now",
        ),
        ({"keys": [f"other/{i}.png" for i in range(13)]}, "with other tables"),
    ],
    ids=["identity", "precision", "tables"],
)
def test_a_shard_of_another_export_is_refused_by_name_with_what_differs(case, change, told):
    case.write(Share(1, 2))
    other = case.write(Share(2, 2), content=replace(case.content, **change))
    with pytest.raises(OutputError, match=f"{other.name}.*({told})"):
        merge_shards(PATH)
    # Nor is it resumed.
    with pytest.raises(OutputError, match=f"{other.name}.*({told})"):
        case.write(Share(2, 2))
    assert not PATH.exists()


@of_logits
def test_shards_of_another_export_than_the_plans_are_left_out_and_removed_with_force(case):
    case.write(Share(1, 2), content=replace(case.content, identity=caches.IDENTITY | {"recipe": "large"}))
    for number in (1, 2, 3):
        case.write(Share(number, 3))
    write_plan(PATH, case.plan)
    with pytest.raises(OutputError, match=r"shard-000000-000002 is of another export \(recipe: large"):
        merge_shards(PATH)
    merge_shards(PATH, force=True)
    assert PATH.read_bytes() == case.whole and os.listdir() == [PATH.name]


@of_logits
def test_a_file_of_another_program_in_the_place_of_a_shard_is_left_alone(case):
    file = shard_path(PATH, range(0, 3))
    file.write_bytes(b"mine" * 100)
    with pytest.raises(OutputError, match="it is not a shard of a logit cache written by dive"):
        case.write(Share(1, 2))
    with pytest.raises(OutputError, match="it is not a shard of a logit cache written by dive"):
        merge_shards(PATH)
    assert file.read_bytes() == b"mine" * 100
    file.unlink()
    file.symlink_to("elsewhere")
    with pytest.raises(OutputError, match="symbolic link"):
        case.write(Share(1, 2))


@of_logits
def test_a_shard_under_the_name_of_another_is_not_used(case, capsys):
    file = case.write(Share(1, 2))
    file.rename(shard_path(PATH, range(3, 7)))
    assert shards_of(PATH, SILENT) == []
    assert "is damaged and is not used" in capsys.readouterr().err


@of_logits
@pytest.mark.parametrize("value", [None, [], "x", [1], [0, 3], [4, 3], [1, 2, 3], [1e300, 2], {"a": 1}])
@pytest.mark.parametrize("place", ["share", "shape", "block_rows", "facts"])
def test_a_forged_record_of_a_shard_is_refused_in_one_line(case, place, value):
    file = case.write(Share(1, 2), finish=False)
    content = file.read_bytes()
    _, length, begin, *rest = struct.unpack("<32sQQI8s", content[-60:])
    record = json.loads(content[begin : begin + length])
    text = json.dumps(record | {place: value}).encode()
    footer = struct.pack("<32sQQI8s", hashlib.sha256(text).digest(), len(text), begin, *rest)
    file.write_bytes(content[:begin] + text + footer)
    with pytest.raises(OutputError) as refused:
        merge_shards(PATH)
    assert "\n" not in str(refused.value)


@of_logits
def test_a_shard_of_a_later_version_is_named_and_left_alone(case):
    """A later version of dive may have worked on it for a night; only --force removes it."""
    file = case.write(Share(1, 2), finish=False)
    content = bytearray(file.read_bytes())
    content[-12:-8] = struct.pack("<I", 2)
    file.write_bytes(content)
    for action in (lambda: case.write(Share(1, 2)), lambda: merge_shards(PATH)):
        with pytest.raises(
            OutputError, match="begun by another version of dive .its record has version 2; this"
        ):
            action()
    assert file.read_bytes() == content
    for number in (1, 2, 3):
        case.write(Share(number, 3))
    merge_shards(PATH, force=True)
    assert PATH.read_bytes() == case.whole and os.listdir() == [PATH.name]


# The plan.


@of_logits
def test_a_plan_is_read_as_it_was_written_and_a_damaged_one_is_refused(case):
    assert read_plan(PATH) is None
    plan = replace(case.plan, launch="process 1 of 2")
    write_plan(PATH, plan)
    assert read_plan(PATH) == plan
    written = plan_path(PATH).read_bytes()
    generator = random.Random(0)
    for _ in range(60):
        damaged = bytearray(written)
        damaged[generator.randrange(len(damaged) - 1)] ^= 1 << generator.randrange(8)
        plan_path(PATH).write_bytes(damaged)
        with pytest.raises(OutputError, match=r"cache.h5.shards is (damaged|in the way)"):
            read_plan(PATH)


@of_logits
def test_who_plans_waits_for_who_plans_already(case):
    import threading

    order = []

    def second():
        with planning(PATH):
            order.append("second")

    with planning(PATH):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join(0.3)
        order.append("first")
    thread.join()
    assert order == ["first", "second"] and os.listdir() == []


@of_logits
def test_a_shard_that_another_process_writes_is_not_removed(case, capsys):
    from dive import outputs
    from dive.cache.shards import discard

    file, other = case.write(Share(1, 2)), case.write(Share(2, 2))
    with outputs.only_writer(file):
        discard(PATH, SILENT)
        assert file.exists() and not other.exists()
        with pytest.raises(BusyError), outputs.only_writer(file):
            pass
    assert "is being written by another process and is not removed" in capsys.readouterr().err


@of_logits
def test_what_does_not_match_its_seal_is_said_to_be_made_again(case):
    file = case.write(Share(1, 1))
    content = bytearray(file.read_bytes())
    content[600] ^= 1
    file.write_bytes(content)
    with pytest.raises(
        DamagedError, match="run the command that wrote it again .dive export-logits --shard 1/1, or torchrun"
    ):
        merge_shards(PATH)
