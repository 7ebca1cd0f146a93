"""A disk that is full, on a real small file system: one line, and what was there before is untouched."""

import shutil
import subprocess
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

import chain
import pytest

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
    from dive import training

    monkeypatch.setattr(training, "SAVING_SHARE", float("inf"))
    out = small_disk / "run.pt"
    earlier = small_disk / "earlier.pt"
    earlier.write_bytes(digits.teacher.read_bytes())
    filler = fill(small_disk, leave)
    words = (kind, *chain.DIGITS, "--epochs", 3, "--out", out)
    if kind == "student":
        words += ("--cache", digits.cache)
    outcome = chain.dive(*words)
    assert outcome.code == 1 and f"{FULL} ({small_disk}/run." in outcome.complaint, outcome
    assert not out.exists() and not list(small_disk.glob("*.tmp"))
    filler.unlink()
    chain.succeed(*words)
    assert earlier.read_bytes() == digits.teacher.read_bytes()


def test_a_plot_on_a_full_disk_leaves_nothing(digits, small_disk):
    fill(small_disk, 0)
    complaint = chain.dive("tune-tau", "--cache", digits.cache, "--plot", small_disk / "p.png").complaint
    assert FULL in complaint
    assert names(small_disk) == ["filler"]
