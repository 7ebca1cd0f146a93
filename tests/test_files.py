"""Results on disk: whole or not at all, by one writer at a time, whatever happens to it."""

import errno
import fcntl
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from dive import files, outputs
from dive.errors import OutputError

PATH = Path("result.bin")
KIND = outputs.Kind("a note", lambda path: path.read_bytes().startswith(b"old"))


def names() -> list[str]:
    return sorted(path.name for path in Path().iterdir())


def test_a_file_appears_when_the_block_ends_and_not_before():
    with files.replacing(PATH) as file:
        file.write(b"half")
        file.flush()
        assert not PATH.exists()
        file.write(b" and half")
    assert PATH.read_bytes() == b"half and half"
    assert names() == ["result.bin"]


def test_the_old_file_stands_until_the_new_one_is_whole():
    PATH.write_bytes(b"old")
    with files.replacing(PATH) as file:
        file.write(b"new")
        file.flush()
        assert PATH.read_bytes() == b"old"
    assert PATH.read_bytes() == b"new"


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit, OSError])
def test_an_exception_leaves_the_old_file_and_nothing_else(error):
    PATH.write_bytes(b"old")
    with pytest.raises(error), files.replacing(PATH) as file:
        file.write(b"new")
        raise error
    assert PATH.read_bytes() == b"old"
    assert names() == ["result.bin"]


def test_an_exception_where_there_was_no_file_leaves_none():
    with pytest.raises(ValueError), files.replacing(PATH) as file:
        file.write(b"new")
        raise ValueError
    assert names() == []


def test_a_failed_sync_or_move_leaves_the_old_file(monkeypatch):
    PATH.write_bytes(b"old")
    for function in ("fsync", "replace"):
        with monkeypatch.context() as broken:
            broken.setattr(os, function, lambda *_: (_ for _ in ()).throw(OSError(errno.ENOSPC, "no space")))
            with pytest.raises(OSError, match="no space"):
                files.write_bytes(PATH, b"new")
        assert PATH.read_bytes() == b"old"
        assert names() == ["result.bin"]


def test_the_content_is_forced_to_the_disk_before_the_move_and_the_folder_after(monkeypatch):
    calls = []
    fsync, replace = os.fsync, os.replace

    def note_sync(handle: int) -> None:
        target = os.readlink(f"/proc/self/fd/{handle}")
        size = os.fstat(handle).st_size if os.path.isfile(target) else None
        calls.append(("sync", os.path.basename(target) if size is not None else "folder", size))
        fsync(handle)

    def note_move(old: Path, new: Path) -> None:
        assert Path(old).parent == Path(new).parent  # a move within a folder, so it cannot be half done
        calls.append(("move", Path(old).name, Path(new).name))
        replace(old, new)

    monkeypatch.setattr(os, "fsync", note_sync)
    monkeypatch.setattr(os, "replace", note_move)
    files.write_bytes(PATH, b"12345")
    temporary = calls[0][1]
    assert calls == [("sync", temporary, 5), ("move", temporary, "result.bin"), ("sync", "folder", None)]


KILLED_WRITER = """
import os, signal
from pathlib import Path
from dive.files import replacing
with replacing(Path("result.bin")) as file:
    file.write(b"new" * 100_000)
    file.flush()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_in_the_middle_leaves_the_old_file_and_the_next_writer_succeeds():
    PATH.write_bytes(b"old")
    assert subprocess.run([sys.executable, "-c", KILLED_WRITER], timeout=30).returncode == -signal.SIGKILL
    assert PATH.read_bytes() == b"old"
    files.write_bytes(PATH, b"next")
    assert PATH.read_bytes() == b"next"
    assert names() == ["result.bin"]


def test_json_can_be_read_by_people_and_programs():
    document = {"name": "Vögel", "values": [1, 2.5, None, True]}
    files.write_json(PATH, document)
    text = PATH.read_text(encoding="utf-8")
    assert json.loads(text) == document
    assert "Vögel" in text and text.endswith("}\n") and len(text.splitlines()) > 3


def test_json_lines_hold_one_document_each():
    documents = [{"epoch": 1, "note": "a\nb"}, {"epoch": 2, "note": "é"}]
    files.write_json_lines(PATH, documents)
    lines = PATH.read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in lines] == documents
    files.write_json_lines(PATH, [])
    assert PATH.read_bytes() == b""


def test_json_that_cannot_be_written_leaves_the_old_file():
    PATH.write_bytes(b"old")
    with pytest.raises(TypeError):
        files.write_json(PATH, {"bad": object()})
    assert PATH.read_bytes() == b"old"


def test_json_of_a_name_that_is_not_utf_8_is_written_and_read_back():
    document = {"file": os.fsdecode(b"caf\xe9"), "more": "café"}
    files.write_json(Path("one.json"), document)
    files.write_json_lines(Path("lines.jsonl"), [document, {"more": "café"}])
    assert files.read_json(Path("one.json")) == document
    assert files.read_json_lines(Path("lines.jsonl")) == [document, {"more": "café"}]
    assert "café" in Path("lines.jsonl").read_text(encoding="utf-8").splitlines()[1]


@pytest.mark.parametrize("fails", [1, 2, 3])
def test_of_files_that_are_written_together_none_is_replaced_where_one_finds_no_room(monkeypatch, fails):
    paths = [Path(name) for name in ("a", "b", "c")]
    for path in paths:
        path.write_text("old")
    real, calls = os.fsync, []

    def full(handle: int) -> None:
        calls.append(handle)
        if len(calls) == fails:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(handle)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space left") as failure:
            files.write_together([(path, b"new") for path in paths])
    assert failure.value.filename == "abc"[fails - 1]
    assert [path.read_text() for path in paths] == ["old"] * 3 and len(list(Path().iterdir())) == 3
    moved = []
    monkeypatch.setattr(files, "publish", lambda temporary, final: moved.append(final.name))
    files.write_together([(path, b"new") for path in paths])
    assert moved == ["a", "b", "c"]


def test_what_is_no_regular_file_has_no_digest():
    os.mkfifo("fifo")
    with pytest.raises(OSError, match="a FIFO"):
        files.file_sha256(Path("fifo"))
    assert files.file_sha256(Path("nothing")) is None


def test_a_place_is_looked_at_without_making_a_folder():
    """Another process may look at the same place meanwhile."""
    outputs.require_place(Path("new/deeper/plot.png"))
    assert names() == []
    Path("file").touch()
    with pytest.raises(OutputError, match="cannot make the folder file/deeper: Not a directory"):
        outputs.require_place(Path("file/deeper/plot.png"))


@pytest.mark.skipif(not os.geteuid(), reason="root may write everywhere")
def test_a_place_below_a_folder_that_is_closed_is_refused():
    Path("closed").mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot make the folder closed/new: cannot write to the folder"):
        outputs.require_place(Path("closed/new/plot.png"))


def test_sha256_is_the_published_one():
    # FIPS 180-4: the digest of "abc"
    expected = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    assert files.sha256(b"abc") == files.sha256(memoryview(b"abc")) == expected


def test_a_finished_result_is_refused_unless_forced():
    outputs.refuse_existing(PATH, False, KIND)
    PATH.write_bytes(b"old")
    with pytest.raises(OutputError, match=r"result\.bin exists already.*--out.*--force"):
        outputs.refuse_existing(PATH, False, KIND)
    outputs.refuse_existing(PATH, True, KIND)
    assert PATH.read_bytes() == b"old"


def test_a_refusal_removes_the_lock_of_a_writer_killed_when_its_result_was_in_place_but_no_live_one():
    PATH.write_bytes(b"done")
    lock = PATH.with_name(f".{PATH.name}.lock")
    lock.touch()
    with pytest.raises(OutputError, match="exists already"):
        outputs.refuse_existing(PATH, False, KIND)
    assert names() == [PATH.name]
    with outputs.only_writer(PATH):
        with pytest.raises(OutputError, match="exists already"):
            outputs.refuse_existing(PATH, False, KIND)
        assert lock.exists()


@pytest.mark.parametrize("force", [False, True])
def test_a_folder_is_never_an_output(force):
    PATH.mkdir()
    with pytest.raises(OutputError, match="is a folder"):
        outputs.refuse_existing(PATH, force, KIND)


def test_the_folder_of_an_output_is_made():
    outputs.prepare_folder(Path("a/b/result.bin"))
    assert Path("a/b").is_dir() and list(Path("a/b").iterdir()) == []
    outputs.prepare_folder(Path("a/b/result.bin"))


def test_a_folder_that_cannot_be_made_is_refused():
    Path("file").write_text("")
    for path in ("file/result.bin", "file/deeper/result.bin"):
        with pytest.raises(OutputError, match=r"cannot make the folder file"):
            outputs.prepare_folder(Path(path))
    assert names() == ["file"]


def test_a_name_the_disk_cannot_hold_is_refused():
    with pytest.raises(OutputError, match="cannot write to the folder"):
        outputs.prepare_folder(Path("folder") / ("x" * 300))


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_without_permission_is_refused():
    folder = Path("closed")
    folder.mkdir(mode=0o500)
    with pytest.raises(OutputError, match="cannot write to the folder closed"):
        outputs.prepare_folder(folder / "result.bin")
    with pytest.raises(OutputError, match="cannot make the folder"):
        outputs.prepare_folder(folder / "deeper" / "result.bin")


def test_a_folder_that_cannot_be_written_to_is_refused(monkeypatch):
    def touch(*_: object, **__: object) -> None:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(Path, "touch", touch)
    with pytest.raises(OutputError, match="cannot write to the folder here: Permission denied"):
        outputs.prepare_folder(Path("here/result.bin"))


def test_too_little_space_is_refused_with_both_sizes(monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000_000))
    outputs.require_space(PATH, 10_000_000)
    with pytest.raises(OutputError, match=r"result\.bin needs 351 MB and the disk has 10\.0 MB free"):
        outputs.require_space(PATH, 10_847 * 162 * 100 * 2)


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 bytes"),
        (999, "999 bytes"),
        (1000, "1.0 kB"),
        (12_345, "12.3 kB"),
        (351_442_800, "351 MB"),
        (437_513 * 8_142 * 2, "7.1 GB"),
        (2.5e12, "2.5 TB"),
        (1.234e15, "1234.0 TB"),
    ],
)
def test_sizes_are_written_as_people_write_them(size, text):
    assert files.readable_size(size) == text


HOLDER = """
import sys, time
from pathlib import Path
from dive.outputs import only_writer
with only_writer(Path("result.bin")):
    print("held", flush=True)
    sys.stdin.readline()
print("let go", flush=True)
"""


@pytest.fixture
def holder():
    """Another process that holds the right to write result.bin until it reads a line, or is killed."""
    command, pipe = [sys.executable, "-c", HOLDER], subprocess.PIPE
    with subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            assert process.stdout.readline() == "held\n"
            yield process
        finally:
            process.kill()


def test_a_second_process_is_refused_until_the_first_is_done(holder):
    with pytest.raises(OutputError, match=r"result\.bin is being written by another process"):
        with outputs.only_writer(PATH):
            pytest.fail("two processes held the same right")
    with outputs.only_writer(Path("other.bin")):
        pass  # another output is free
    holder.stdin.write("\n")
    holder.stdin.flush()
    assert holder.stdout.readline() == "let go\n"
    assert names() == []
    with outputs.only_writer(PATH):
        pass


def test_the_right_to_write_dies_with_its_process(holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait(30)
    with outputs.only_writer(PATH):
        pass
    assert names() == []


def test_a_refused_process_leaves_the_lock_of_the_first(holder):
    for _ in range(3):
        with pytest.raises(OutputError), outputs.only_writer(PATH):
            pass


def test_an_exception_gives_the_right_back():
    with pytest.raises(ValueError), outputs.only_writer(PATH):
        raise ValueError
    assert names() == []
    with outputs.only_writer(PATH):
        pass


def test_a_lock_file_left_behind_does_not_hold_anyone_up():
    with outputs.only_writer(PATH):
        (lock,) = names()
    Path(lock).write_text("")
    with outputs.only_writer(PATH):
        assert names() == [lock]
    assert names() == []


def test_a_lock_file_removed_while_it_was_being_locked_is_not_taken_for_a_lock(monkeypatch):
    flock, attempts = fcntl.flock, []

    def race(handle: int, operation: int) -> None:
        flock(handle, operation)
        attempts.append(handle)
        if len(attempts) == 1:  # its previous owner removes it between our open and our lock
            (lock,) = names()
            Path(lock).unlink()

    monkeypatch.setattr(fcntl, "flock", race)
    with outputs.only_writer(PATH):
        assert len(attempts) == 2
        assert len(names()) == 1
        with pytest.raises(OutputError), outputs.only_writer(PATH):
            pass


def kinds_that_are_not_regular(folder: Path) -> dict[str, Path]:
    fifo, link = folder / "fifo", folder / "link"
    os.mkfifo(fifo)
    link.symlink_to(fifo)
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(folder / "socket"))
    return {
        "a FIFO": fifo,
        "a FIFO, not": link,
        "a socket": folder / "socket",
        "a device": Path("/dev/zero"),
        "a folder": folder,
    }


def test_only_a_regular_file_is_opened_and_the_others_are_named(tmp_path):
    for said, path in kinds_that_are_not_regular(tmp_path).items():
        with pytest.raises(OSError, match=said):
            files.open_regular(path)
    PATH.write_bytes(b"content")
    Path("link.bin").symlink_to(PATH)
    assert files.read_regular(Path("link.bin")) == b"content"
    with pytest.raises(FileNotFoundError):
        files.read_regular(Path("missing"))


def test_force_replaces_only_what_dive_wrote():
    PATH.write_bytes(b"my own")
    with pytest.raises(OutputError, match=r"result\.bin is in the way: it is not a note written by dive"):
        outputs.refuse_existing(PATH, True, KIND)
    assert PATH.read_bytes() == b"my own"


def test_a_file_that_is_read_is_never_replaced_under_whatever_name():
    PATH.write_bytes(b"old")
    os.link(PATH, "other.bin")
    with pytest.raises(OutputError, match=r"--plot result\.bin is a file that the command reads"):
        outputs.refuse_existing(PATH, True, KIND, [Path("missing"), Path("other.bin")], "--plot")


@pytest.mark.parametrize("force", [False, True])
def test_an_output_is_a_new_or_a_regular_file(tmp_path, force):
    for said, path in kinds_that_are_not_regular(tmp_path).items():
        said = "a symbolic link|a FIFO" if path.name == "link" else said
        with pytest.raises(OutputError, match=f"{path} is ({said})"):
            outputs.refuse_existing(path, force, KIND)
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "nothing")
    with pytest.raises(OutputError, match="is a symbolic link"):
        outputs.refuse_existing(dangling, force, KIND)
    assert not (tmp_path / "nothing").exists()


def test_a_link_at_the_temporary_name_is_not_written_through():
    Path("mine").write_bytes(b"mine")
    Path(".result.bin.dive-tmp").symlink_to("mine")
    files.write_bytes(PATH, b"new")
    assert PATH.read_bytes() == b"new" and Path("mine").read_bytes() == b"mine"
    assert names() == ["mine", "result.bin"]


def test_what_is_no_file_at_the_temporary_name_is_named_and_left():
    os.mkfifo(".result.bin.dive-tmp")
    with pytest.raises(OSError, match="a FIFO"):
        files.write_bytes(PATH, b"new")
    assert names() == [".result.bin.dive-tmp"]


def test_a_lock_that_is_a_link_is_not_followed():
    Path(".result.bin.lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="a symbolic link"), outputs.only_writer(PATH):
        pass
    assert names() == [".result.bin.lock"]
