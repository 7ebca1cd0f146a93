"""One export by several processes: of torchrun, and of jobs that share a folder alone."""

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import chain
import pytest
import torch
import torchrun

from dive.cache.part import part_path
from dive.cache.plan import plan_path, read_plan
from dive.cache.reader import LogitCache
from dive.cache.shards import shard_files
from dive.cache.writer import BlockWriter
from dive.outputs import only_writer

OUT = Path("cache.h5")


@pytest.fixture(scope="module", autouse=True)
def one_thread():
    """As each rank of torchrun has it."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def words(digits):
    """An export of ten blocks."""
    told = tuple(word for word in chain.DIGITS if word != "--quiet")
    return ("export-logits", *told, "--teacher", digits.teacher, "--set", "views.pad=3")


@pytest.fixture(scope="module")
def whole(words, one_thread, tmp_path_factory):
    """The bytes that one process writes, of each encoding asked for."""
    folder, made = tmp_path_factory.mktemp("whole"), {}

    def of(store: str = "float16") -> bytes:
        if store not in made:
            chain.succeed(*words, "--store", store, "--out", folder / f"{store}.h5")
            made[store] = (folder / f"{store}.h5").read_bytes()
        return made[store]

    return of


def as_rank(rank: int, size: int, *words: object, restart: int = 0) -> chain.Outcome:
    """The command as rank `rank` of torchrun, in this process."""
    with pytest.MonkeyPatch.context() as patch:
        for name, value in torchrun.environment(rank, size, restart).items():
            patch.setenv(name, value)
        return chain.dive(*words, "--out", OUT)


@pytest.fixture
def computed(monkeypatch) -> list[int]:
    """The blocks that were computed, not copied."""
    blocks, real = [], BlockWriter.write

    def counting(self, block, values):
        blocks.append(block)
        real(self, block, values)

    monkeypatch.setattr(BlockWriter, "write", counting)
    return blocks


@pytest.mark.slow
@pytest.mark.parametrize(("size", "store"), [(2, "float16"), (3, "features")])
def test_torchrun_exports_the_bytes_of_one_process_and_rank_0_alone_tells(words, whole, size, store):
    done = torchrun.run(size, *words, "--store", store, "--out", OUT)
    assert done.returncode == 0, done.stderr
    assert OUT.read_bytes() == whole(store) and os.listdir() == [OUT.name]
    assert done.stdout.count("Logit cache") == 1
    assert done.stderr.count("shard 1/") == 1 and "shard 2/" not in done.stderr


@pytest.mark.parametrize(("order", "store"), [((2, 3, 1), "float16"), ((3, 1, 2), "features")])
def test_three_jobs_in_any_order_and_a_merge_make_the_bytes_of_one_process(words, whole, order, store):
    for number in order:
        chain.succeed(*words, "--store", store, "--shard", f"{number}/3", "--out", OUT)
        assert not OUT.exists()
    document = chain.succeed("merge-shards", "--out", OUT, "--json").document
    assert OUT.read_bytes() == whole(store) and os.listdir() == [OUT.name]
    assert document["shards"] == 3 and document["shape"] == [399, 49, 10]


def test_a_shard_tells_what_it_is_and_one_without_blocks_says_so(words):
    document = chain.succeed(*words, "--shard", "2/5", "--out", OUT, "--json", "--quiet").document
    assert document["shard"] == [2, 5] and document["blocks"] == [2, 3]
    assert Path(document["file"]) == shard_files(OUT)[0]
    inspected = chain.succeed("inspect", document["file"], "--json").document
    assert (inspected["complete"], inspected["shard"], inspected["blocks_done"]) == (True, "2/5", 2)
    empty = chain.succeed(*words, "--shard", "1/11", "--out", OUT)
    assert "shard 1/11 of 10 blocks is empty; there is nothing to do" in empty.err
    assert len(shard_files(OUT)) == 1


@pytest.mark.parametrize("given", ["0/3", "4/3", "3", "1/2/3", "a/b", "1/0", "-1/3"])
def test_a_share_that_cannot_be_is_a_mistake_in_use(words, given):
    outcome = chain.dive(*words, "--shard", given)
    assert outcome.code == 2 and "--shard" in outcome.complaint


def test_ranks_end_when_their_shard_is_written_and_rank_0_waits_for_all_and_merges(words, whole):
    for rank in (2, 1):
        outcome = as_rank(rank, 3, *words)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")
    assert not OUT.exists() and len(shard_files(OUT)) == 2
    assert as_rank(0, 3, *words).code == 0
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


@pytest.mark.parametrize("size", [1, 2, 3, 4])
def test_whatever_blocks_shards_of_another_world_hold_are_taken_over(words, whole, computed, size):
    with chain.stopped_after(2):
        assert as_rank(0, 3, *words).code == 130  # blocks 0 and 1 of 0 to 2
    with chain.stopped_after(1):
        assert as_rank(1, 3, *words).code == 130  # block 3 of 3 to 5
    assert as_rank(2, 3, *words).code == 0  # blocks 6 to 9
    computed.clear()
    for rank in reversed(range(size)):
        assert as_rank(rank, size, *words).code == 0
    assert sorted(computed) == [2, 4, 5]
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_the_part_of_one_process_is_taken_over_by_ranks(words, whole, computed):
    with chain.stopped_after(4):
        assert chain.dive(*words, "--out", OUT).code == 130
    computed.clear()
    for rank in (1, 0):
        assert as_rank(rank, 2, *words).code == 0
    assert sorted(computed) == [4, 5, 6, 7, 8, 9]
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_a_sealed_shard_is_not_computed_again_and_a_damaged_block_of_it_alone(words, whole, computed):
    assert as_rank(1, 2, *words).code == 0
    (file,) = shard_files(OUT)
    computed.clear()
    assert as_rank(1, 2, *words).code == 0 and computed == []
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    assert as_rank(1, 2, *words).code == 0 and len(computed) == 1
    assert as_rank(0, 2, *words).code == 0 and OUT.read_bytes() == whole()


def test_the_first_process_decides_the_precision_of_all(words, monkeypatch):
    """`auto` measures in one of them; another precision is refused, with where it stands."""
    from dive.training.device import Runtime
    from dive.workflows import export

    chosen = iter(["bf16", "fp32"])  # each process might measure something else
    monkeypatch.setattr(
        export, "choose_precision", lambda wanted, device, *_: Runtime(device, next(chosen), "measured")
    )
    words = (*words, "--precision", "auto")
    for number in (1, 2, 3):
        chain.succeed(*words, "--shard", f"{number}/3", "--out", OUT)
    assert read_plan(OUT).facts["precision"] == "bf16" and next(chosen) == "fp32"
    complaint = chain.dive(*words[:-1], "fp32", "--shard", "1/3", "--out", OUT, "--quiet").complaint
    assert "cache.h5.shards is an unfinished export in bf16, not fp32; give --precision bf16" in complaint
    chain.succeed("merge-shards", "--out", OUT)
    assert LogitCache(OUT).facts["precision"] == "bf16"


def test_shards_of_another_recipe_are_refused_by_name_and_go_with_force(words, whole):
    chain.succeed(*words, "--views", 4, "--shard", "1/1", "--out", OUT)
    kept = chain.files_under()
    for outcome in (chain.dive(*words, "--out", OUT, "--quiet"), as_rank(0, 2, *words, "--quiet")):
        assert (
            "cache.h5.shards is an unfinished export of another recipe (views: 4, now all"
            in outcome.complaint
        )
        assert chain.files_under() == kept
    plan_path(OUT).unlink()
    complaint = chain.dive(*words, "--out", OUT, "--quiet").complaint
    assert "cache.h5.shard-000000-" in complaint and "(views: 4, now all" in complaint
    chain.succeed(*words, "--out", OUT, "--force")
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_ranks_start_over_with_force_and_restarted_ones_do_not(words, whole, computed):
    OUT.write_bytes(whole("features"))  # a finished cache that is replaced
    for rank in (0, 1):
        with chain.stopped_after(2):
            assert as_rank(rank, 2, *words, "--force").code == 130
    computed.clear()
    assert as_rank(1, 2, *words, "--force", restart=1).code == 0
    assert sorted(computed) == [7, 8, 9]
    with pytest.MonkeyPatch.context() as patch:  # another start of torchrun
        patch.setattr("dive.workflows.export.launch_of", lambda _: "another")
        computed.clear()
        assert as_rank(1, 2, *words, "--force").code == 0
        assert sorted(computed) == [5, 6, 7, 8, 9]
        assert as_rank(0, 2, *words, "--force").code == 0
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_of_a_finished_cache_rank_0_alone_complains(words, whole):
    OUT.write_bytes(whole())
    late = as_rank(1, 2, *words)
    assert (late.code, late.out, late.err) == (0, "", "")
    assert "cache.h5 exists already" in as_rank(0, 2, *words, "--quiet").complaint
    for name in (
        "cache.h5.shard-000000-000004",
        ".cache.h5.shard-000005-000009.dive-tmp",
    ):  # of a killed merge
        Path(name).write_bytes(b"DIVESHRD")
    Path(".cache.h5.shard-000005-000009.lock").touch()
    assert "cache.h5 exists already" in as_rank(0, 2, *words, "--quiet").complaint
    assert os.listdir() == [OUT.name]


def test_one_shard_has_one_writer(words):
    chain.succeed(*words, "--shard", "1/2", "--out", OUT)
    with only_writer(shard_files(OUT)[0]):
        complaint = chain.dive(*words, "--shard", "1/2", "--out", OUT, "--quiet").complaint
    assert "cache.h5.shard-000000-000004 is being written by another process" in complaint


def test_an_error_of_a_rank_is_one_line_with_its_number(words):
    outcome = as_rank(1, 2, "export-logits", *chain.DIGITS, "--teacher", "none.pt", "--quiet")
    assert "rank 1: " in outcome.complaint and "none.pt" in outcome.complaint
    assert "torchrun gives each of its ranks a shard" in as_rank(0, 2, *words, "--shard", "1/2").complaint


def test_ctrl_c_which_all_ranks_get_is_told_by_rank_0_alone(words):
    for rank, lines in ((1, 0), (0, 1)):
        with chain.stopped_after(1):
            outcome = as_rank(rank, 2, *words, "--quiet")
        assert outcome.code == 130 and outcome.err.count("dive: interrupted") == lines, outcome


def test_rank_0_stops_waiting_where_somebody_else_merges(words, whole, monkeypatch):
    from dive.workflows import sharded

    def meanwhile(_: float) -> None:
        as_rank(1, 2, *words)
        with pytest.MonkeyPatch.context() as patch:
            patch.delenv("RANK")
            chain.succeed("merge-shards", "--out", OUT)

    monkeypatch.setattr(sharded.time, "sleep", meanwhile)
    outcome = as_rank(0, 2, *words, "--quiet")
    assert "another process merged or removed the shards" in outcome.complaint
    assert OUT.read_bytes() == whole()


@pytest.mark.slow
def test_a_killed_rank_ends_all_and_the_rest_is_done_by_another_world(words, whole):
    started = torchrun.start(3, *words, "--out", OUT)
    torchrun.wait_for(lambda: len(shard_files(OUT)) > 0 or started.poll() is not None)
    living = torchrun.members(started.pid)
    victim = max(living)  # the last one, most often rank 2; each may have ended
    os.kill(living[victim], signal.SIGKILL)
    _, err = started.communicate(timeout=120)
    assert started.returncode != 0 and not torchrun.members(started.pid)
    assert "dive: " not in err  # what torchrun says of it is torchrun's
    for rank in (1, 0):
        assert as_rank(rank, 2, *words).code == 0
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


@pytest.mark.parametrize(
    ("spot", "call"),
    [
        ("os:ftruncate", 1),
        ("os:replace", 2),
        ("dive.cache.shards:is_own", 1),
    ],
)
@pytest.mark.slow
def test_a_merge_that_is_killed_at_any_step_is_done_again(words, whole, spot, call):
    for number in (1, 2):
        chain.succeed(*words, "--shard", f"{number}/2", "--out", OUT)
    assert chain.struck(spot, call, "merge-shards", "--out", OUT).code == -9
    again = chain.dive("merge-shards", "--out", OUT)
    assert again.code == 0 or "exists already" in again.err, again
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_a_shard_that_comes_after_the_merge_is_refused(words, whole, monkeypatch):
    """It was begun before, when there was no cache yet, and would leave a plan beside the finished one."""
    from dive.workflows import sharded

    real = sharded.planning

    @contextmanager
    def late(out: Path) -> Iterator[None]:
        OUT.write_bytes(whole())
        with real(out):
            yield

    monkeypatch.setattr(sharded, "planning", late)
    assert "exists already" in chain.dive(*words, "--shard", "1/2", "--out", OUT, "--quiet").complaint
    assert OUT.read_bytes() == whole() and os.listdir() == [OUT.name]


def test_no_other_command_writes_a_cache_that_is_exported_in_shards(words, digits):
    chain.succeed(*words, "--shard", "1/2", "--out", OUT)
    before = chain.files_under()
    line = chain.dive("convert", digits.cache, "--store", "int8", "--out", OUT, "--force").complaint
    assert line.startswith("dive: an export of cache.h5 in shards is under way (cache.h5.shards); finish it")
    assert chain.files_under() == before


def test_a_full_disk_is_one_line(words, monkeypatch):
    monkeypatch.setattr("shutil.disk_usage", lambda _: type("Usage", (), {"free": 1000}))
    complaint = chain.dive(*words, "--shard", "1/2", "--out", OUT, "--quiet").complaint
    assert "cache.h5.shard-000000-000004 needs" in complaint and "1.0 kB free" in complaint
    assert [name for name in os.listdir() if "lock" in name or name.endswith(".dive-tmp")] == []


def test_the_part_is_no_shard_and_a_shard_no_part(words):
    chain.succeed(*words, "--shard", "1/2", "--out", OUT)
    shard_files(OUT)[0].rename(part_path(OUT))
    plan_path(OUT).unlink()
    outcome = chain.dive(*words, "--out", OUT, "--quiet")
    assert "cache.h5.part" in outcome.complaint and "a shard under another name" in outcome.complaint
