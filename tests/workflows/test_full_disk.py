"""A disk that is full, on a real small file system: one line, and what was there before is untouched."""

import multiprocessing
import os
import re
import resource
import shutil
import subprocess
import sys
import tempfile
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import chain
import pytest
import torch

SIZE = 4 << 20
FULL = "No space left on device"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of four megabytes."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={SIZE}", "tmpfs", str(place)]
    try:
        done = subprocess.run(mount, capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip("there is no mount command")
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", str(place)], check=True)


def fill(disk: Path, leave: int) -> Path:
    """Fill the disk up to some bytes."""
    free = shutil.disk_usage(disk).free
    filler = disk / "filler"
    filler.write_bytes(bytes(free - leave))
    return filler


def names(disk: Path) -> list[str]:
    return sorted(path.name for path in disk.iterdir() if not path.name.startswith("."))


def test_an_export_says_what_it_needs_before_it_begins(digits, small_disk):
    fill(small_disk, 50_000)
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", small_disk / "c.h5")
    complaint = chain.dive(*words).complaint
    assert "c.h5.part needs " in complaint and "the disk has " in complaint
    assert names(small_disk) == ["filler"]


def test_a_conversion_says_what_it_needs_before_it_begins(digits, small_disk):
    fill(small_disk, 50_000)
    words = ("convert", digits.features_cache, "--store", "float32", "--out", small_disk / "c.h5", "--quiet")
    complaint = chain.dive(*words).complaint
    assert "c.h5.part needs " in complaint and "the disk has " in complaint
    assert names(small_disk) == ["filler"]


TOO_LARGE = "File too large"


def limited(limit: int, *arguments: object) -> chain.Outcome:
    """Run `dive` in a process of its own whose files may not grow beyond `limit` bytes (`ulimit -f`)."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(chain.PRELOADED)
    with tempfile.NamedTemporaryFile() as err:
        words = ["dive", *map(str, arguments)]
        child = context.Process(
            target=_run_limited, args=(limit, words, torch.get_num_threads(), os.getcwd(), err.name)
        )
        child.start()
        child.join(120)
        assert child.exitcode is not None, "the command still runs"
        return chain.Outcome(child.exitcode, "", Path(err.name).read_text())


def _run_limited(limit: int, words: list[str], threads: int, folder: str, err: str) -> None:
    torch.set_num_threads(threads)
    os.chdir(folder)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
    sys.argv = words
    with open(err, "w") as sys.stderr, open(os.devnull, "w") as sys.stdout:
        chain.main()


def test_a_limit_on_file_sizes_is_one_line_and_leaves_nothing_wherever_it_lies(digits):
    """At the tables, amid the logits, just below the whole size: HDF5 used to crash at each."""
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "c.h5")
    for limit in (4_000, 70_000, digits.cache.stat().st_size - 1):
        complaint = limited(limit, *words).complaint
        assert "c.h5.part needs " in complaint and TOO_LARGE in complaint
        assert names(Path()) == []
    chain.succeed(*words)
    assert Path("c.h5").read_bytes() == digits.cache.read_bytes()


def test_a_limit_on_file_sizes_that_is_met_by_a_later_block_is_one_line_and_the_export_resumes(digits):
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "c.h5")
    assert chain.struck("os:pwrite", 8, *words).code == -9  # in the second of two blocks
    before = Path("c.h5.part").read_bytes()
    complaint = limited(len(before) // 2, *words).complaint
    assert TOO_LARGE in complaint and "c.h5.part" in complaint
    assert names(Path()) == ["c.h5.part"] and Path("c.h5.part").stat().st_size == len(before)
    chain.succeed(*words)
    assert Path("c.h5").read_bytes() == digits.cache.read_bytes()


def test_what_is_set_aside_for_an_export_is_all_it_needs(digits, small_disk):
    """A disk with just the room that was asked for is enough; a byte less than a page of it is refused."""
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", small_disk / "c.h5")
    page = os.sysconf("SC_PAGE_SIZE")
    asked = re.search(r"c\.h5\.part needs (\d+) kB", refused_for(words, small_disk, 0))
    room = -(-int(asked[1]) * 1000 // page) * page + page  # the number is rounded to a kilobyte
    filler = fill(small_disk, room)
    chain.succeed(*words)
    assert (small_disk / "c.h5").read_bytes() == digits.cache.read_bytes()
    assert filler.exists() and shutil.disk_usage(small_disk).free <= 2 * page


def refused_for(words: tuple, disk: Path, leave: int) -> str:
    """What an export says on a disk with `leave` bytes free."""
    filler = fill(disk, leave)
    try:
        return chain.dive(*words).complaint
    finally:
        filler.unlink()


def test_an_export_that_was_told_wrong_ends_before_the_first_row(digits, small_disk, monkeypatch):
    filler = fill(small_disk, 50_000)
    usage = namedtuple("usage", "total used free")
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", small_disk / "c.h5")
    with monkeypatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage(10**9, 0, 10**9))
        complaint = chain.dive(*words).complaint
    assert FULL in complaint
    assert names(small_disk) == ["filler"]
    filler.unlink()
    chain.succeed(*words)
    assert (small_disk / "c.h5").read_bytes() == digits.cache.read_bytes()


@pytest.mark.parametrize("kind", ["teacher", "student"])
@pytest.mark.parametrize("leave", [0, 8_192, 300_000, 700_000])
def test_a_training_run_that_fills_the_disk_goes_on_when_there_is_room(
    digits, small_disk, monkeypatch, kind, leave
):
    from dive.training import loop

    monkeypatch.setattr(loop, "SAVING_SHARE", float("inf"))
    out = small_disk / "run.pt"
    earlier = small_disk / "earlier.pt"
    earlier.write_bytes(digits.teacher.read_bytes())
    filler = fill(small_disk, leave)
    words = (kind, *chain.DIGITS, "--epochs", 3, "--out", out)
    if kind == "student":
        words += ("--cache", digits.cache)
    outcome = chain.dive(*words)
    assert outcome.code == 1 and f"{FULL} ({small_disk}/run." in outcome.complaint, outcome
    assert not out.exists() and not list(small_disk.glob("*.dive-tmp"))
    filler.unlink()
    chain.succeed(*words)
    assert earlier.read_bytes() == digits.teacher.read_bytes()


def test_a_plot_on_a_full_disk_leaves_nothing(digits, small_disk):
    fill(small_disk, 0)
    complaint = chain.dive("tune-tau", "--cache", digits.cache, "--plot", small_disk / "p.png").complaint
    assert FULL in complaint
    assert names(small_disk) == ["filler"]
