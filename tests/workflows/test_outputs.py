"""What the commands write: new files, or those that dive wrote; never what they read, never another's."""

import json
import os
from pathlib import Path

import chain
import pytest

TEACHER = ("teacher", *chain.DIGITS, "--epochs", 1)


@pytest.mark.parametrize("force", [(), ("--force",)])
@pytest.mark.parametrize("name", ["mine.json", "mine.history.jsonl", "mine.state"])
def test_a_file_beside_the_output_that_dive_did_not_write_is_kept(name, force):
    for content in (b'{"my": "notes"}\n', b"\x00" * 100, b"[" * 100_000):
        Path(name).write_bytes(content)
        complaint = chain.dive(*TEACHER, "--out", "mine.pt", *force).complaint
        assert f"{name} is in the way" in complaint and "give another --out" in complaint
        assert chain.files_under() == {name: content}


def test_what_an_earlier_run_left_beside_the_output_is_replaced(digits):
    for suffix in (".pt", ".json", ".history.jsonl"):
        Path(f"mine{suffix}").write_bytes(digits.teacher.with_suffix(suffix).read_bytes())
    chain.succeed(*TEACHER, "--out", "mine.pt", "--force")
    assert json.loads(Path("mine.json").read_text())["epochs"] == 1
    Path("mine.pt").unlink()  # as one does to train again
    chain.succeed(*TEACHER, "--out", "mine.pt")


def test_a_student_never_replaces_the_cache_that_it_reads(digits):
    before = digits.cache.read_bytes()
    for name in ("c.pt", "c.state", "c.json", "c.history.jsonl"):
        Path(name).write_bytes(before)
        words = ("student", *chain.DIGITS, "--cache", name, "--out", "c.pt", "--force")
        assert f"--out c.pt would replace {name}" in chain.dive(*words).complaint
        assert chain.files_under() == {name: before}
        Path(name).unlink()


def test_a_grid_never_replaces_the_cache_that_it_reads(digits):
    name = "s-t3-p0.5-w0.5-s1.pt"
    Path(name).write_bytes(digits.cache.read_bytes())
    words = ("student", *chain.DIGITS, "--cache", name, "--out", "s.pt", "--seed", 0, 1, "--force")
    assert f"would replace {name}" in chain.dive(*words).complaint
    assert list(chain.files_under()) == [name]


def test_a_plot_never_replaces_the_cache_that_it_draws(digits):
    before = digits.cache.read_bytes()
    Path("c.png").write_bytes(before)
    complaint = chain.dive("tune-tau", "--cache", "c.png", "--plot", "c.png", "--force").complaint
    assert "--plot c.png is a file that the command reads" in complaint
    os.link("c.png", "link.png")
    words = ("tune-tau", "--cache", digits.cache, "c.png", "--plot", "link.png", "--force")
    assert "--plot link.png is a file that the command reads" in chain.dive(*words).complaint
    assert chain.files_under() == {"c.png": before, "link.png": before}


def test_a_plot_replaces_a_plot_and_no_other_picture(digits, tree):
    for suffix in ("png", "svg", "pdf"):
        for _ in range(2):
            chain.succeed("tune-tau", "--cache", digits.cache, "--plot", f"p.{suffix}", "--force", "--quiet")
    photograph = next(iter(tree.images({"cat": 1}).values()))
    Path("photo.png").write_bytes(photograph)
    words = ("tune-tau", "--cache", digits.cache, "--plot", "photo.png", "--force")
    assert "photo.png is in the way: it is not a figure" in chain.dive(*words).complaint
    assert Path("photo.png").read_bytes() == photograph


def test_a_link_at_a_plots_temporary_name_is_not_written_through(digits):
    Path("mine").write_bytes(b"mine")
    Path(".p.png.dive-tmp").symlink_to("mine")
    chain.succeed("tune-tau", "--cache", digits.cache, "--plot", "p.png", "--quiet")
    assert sorted(chain.files_under()) == ["mine", "p.png"] and Path("mine").read_bytes() == b"mine"


def commands(digits, out: Path) -> dict[str, tuple]:
    """Each command that writes, with its output at `out`."""
    return {
        "teacher": (*TEACHER, "--out", out.with_suffix(".pt")),
        "student": ("student", *chain.DIGITS, "--cache", digits.cache, "--out", out.with_suffix(".pt")),
        "export-logits": ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", out),
        "tune-tau": ("tune-tau", "--cache", digits.cache, "--plot", out.with_suffix(".png")),
    }


@pytest.mark.parametrize("command", ["teacher", "student", "export-logits", "tune-tau"])
def test_fifos_devices_links_and_folders_are_no_outputs(digits, command):
    words = (*commands(digits, Path("out"))[command], "--force")
    out = Path(str(words[-2]))
    for make, said in ((os.mkfifo, "a FIFO"), (os.mkdir, "a folder"), (_link, "a symbolic link")):
        make(out)
        assert f"{out} is {said}" in chain.dive(*words).complaint
        out.rmdir() if out.is_dir() and not out.is_symlink() else out.unlink()
    if os.geteuid() == 0:
        os.mknod(out, 0o020600, os.makedev(1, 5))  # /dev/zero's
        assert f"{out} is a device" in chain.dive(*words).complaint
        out.unlink()
    assert chain.files_under() == {}


def _link(path: Path) -> None:
    path.symlink_to("nowhere")


def test_an_export_never_replaces_what_is_not_a_cache(digits):
    for name, content in (("t.pt", digits.teacher.read_bytes()), ("notes.h5", b"notes")):
        Path(name).write_bytes(content)
        words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", name, "--force")
        assert f"{name} is in the way: it is not a logit cache" in chain.dive(*words).complaint
        assert Path(name).read_bytes() == content
    words = ("export-logits", *chain.DIGITS, "--teacher", "t.pt", "--out", "t.pt", "--force")
    assert "--out t.pt is a file that the command reads" in chain.dive(*words).complaint


@pytest.mark.parametrize("command", ["eval", "inspect", "verify", "export-logits"])
def test_a_checkpoint_or_cache_that_is_no_regular_file_is_refused_before_it_is_opened(command):
    os.mkfifo("fifo.pt")
    for path in ("fifo.pt", "/dev/zero", "."):
        words = {"export-logits": (*chain.DIGITS, "--teacher", path, "--out", "c.h5")}.get(command, (path,))
        assert "not a regular file" in chain.dive(command, *words).complaint


@pytest.mark.parametrize("force", [(), ("--force",)])
def test_a_part_that_is_no_unfinished_export_is_kept(digits, force):
    Path("c.h5.part").write_bytes(b"half a download" * 1000)
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "c.h5", *force)
    assert "c.h5.part is in the way" in chain.dive(*words).complaint
    assert chain.files_under() == {"c.h5.part": b"half a download" * 1000}
