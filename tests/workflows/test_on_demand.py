"""Photographs that are read on demand: the same weights by any number of workers, and what can go wrong."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import chain
import processes
import pytest
import torch
from photographs import HERE, write_all
from PIL import Image

from dive.feeds.images import StreamedImages
from dive.training.saved_state import EpochRecord
from dive.workflows import run

PICTURE = Path("pictures/train/ant/000.jpg")
# `dive` that says "now" when the second epoch has begun, and goes on when it is given a line.
WAITING = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # a suite run in the background ignores it
from dive.feeds.images import StreamedImages

load, calls = StreamedImages.load, []

def waiting(feed):
    calls.append(1)
    if len(calls) == 5:
        print("now", flush=True)
        sys.stdin.readline()
    load(feed)

StreamedImages.load = waiting
from dive.cli import main
main()
"""


def train(config: str, out: str, *options: object) -> dict[str, torch.Tensor]:
    """The weights of a teacher."""
    chain.succeed("teacher", "--config", config, *HERE, "--out", out, *options)
    return torch.load(out, weights_only=True)["model"]


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    """Whether weights are equal bit for bit."""
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


@pytest.mark.slow
def test_any_number_of_workers_makes_the_same_weights_of_a_list_as_of_a_folder() -> None:
    write_all()
    expected = train("listed.yaml", "0.pt", "--workers", 0)
    for workers in (1, 2):
        assert same(expected, train("listed.yaml", f"{workers}.pt", "--workers", workers))
    assert not same(expected, train("listed.yaml", "other.pt", "--workers", 0, "--seed", 1))


def test_a_list_goes_through_the_whole_chain() -> None:
    write_all()
    of_list = ("--config", "listed.yaml", *HERE, "--workers", 0)
    train("listed.yaml", "t.pt", "--workers", 0)
    chain.succeed("export-logits", *of_list, "--teacher", "t.pt", "--out", "c.h5", "--views", 2)
    chain.succeed("verify", "c.h5", "--sample", 8, "--teacher", "t.pt", "--quiet")
    student = chain.succeed("student", *of_list, "--cache", "c.h5", "--out", "s.pt", "--json").document
    assert student["digests"] == "files" and student["classes"] == ["ant", "bee", "cat"]
    found = chain.succeed("eval", "t.pt", "s.pt", "--quiet", "--workers", 0, "--json").document
    assert [one["kind"] for one in found["checkpoints"]] == ["teacher", "student"]


@pytest.mark.parametrize("call", [2, 5, 8])
def test_a_killed_run_is_resumed_and_ends_in_the_same_weights(call: int) -> None:
    write_all()
    expected = train("listed.yaml", "whole.pt", "--workers", 0)
    words = ("teacher", "--config", "listed.yaml", *HERE, "--out", "killed.pt", "--workers", 0)
    assert chain.struck("dive.training.step:Step.advance", call, *words).code == -signal.SIGKILL
    assert same(expected, train("listed.yaml", "killed.pt", "--workers", 0))


def test_the_history_says_how_long_images_were_waited_for_and_the_last_line_where_it_is_long() -> None:
    write_all()
    words = ("teacher", "--config", "listed.yaml", *HERE[:-1], "--workers", 0, "--out", "t.pt")
    told = chain.succeed(*words).err
    lines = [json.loads(line) for line in Path("t.history.jsonl").read_text().splitlines()]
    assert len(lines) == 3 and all(0 < line["image_wait"] < line["seconds"] for line in lines)
    waited, seconds = (sum(line[key] for line in lines) for key in ("image_wait", "seconds"))
    assert ("of it waiting for images; more --workers may help" in told) == (waited > 0.1 * seconds)


@pytest.mark.parametrize(
    ("waits", "told"),
    [
        ((None, None), "3 min"),
        ((10.0, 8.0), "3 min"),
        ((10.0, 8.1), "3 min, 18 s of it waiting for images; more --workers may help"),
        ((None, 100.0), "3 min, 2 min of it waiting for images; more --workers may help"),
    ],
)
def test_waiting_is_told_above_a_tenth_of_the_time(waits: tuple[float | None, ...], told: str) -> None:
    history = [EpochRecord(i + 1, 1.0, 0.1, 90.0, 0.5, image_wait=wait) for i, wait in enumerate(waits)]
    assert run._time_of(history) == told


def during(step: int, monkeypatch: pytest.MonkeyPatch, happening: Callable[[StreamedImages], Any]) -> None:
    """Something happens before the `step`-th batch of training is loaded."""
    original, calls = StreamedImages.load, []

    def load(self: StreamedImages) -> None:
        calls.append(1)
        if len(calls) == step:
            happening(self)
        original(self)

    monkeypatch.setattr(StreamedImages, "load", load)


def complaint(*options: object) -> str:
    """What a teacher complains of."""
    return chain.dive("teacher", "--config", "folder.yaml", *HERE, "--out", "t.pt", *options).complaint


def test_a_file_that_is_removed_or_changed_during_training_stops_it_and_keeps_the_state(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    write_all()
    path = Path("pictures/train/ant/000.jpg")
    content = path.read_bytes()
    with monkeypatch.context() as patch:
        during(5, patch, lambda _: path.unlink())  # the second epoch; three batches each
        assert (
            complaint("--workers", 0)
            == "dive: pictures: train/ant/000.jpg cannot be read: No such file or directory"
        )
    assert Path("t.state").exists()
    path.write_bytes(content)
    with monkeypatch.context() as patch:
        during(1, patch, lambda _: path.write_bytes(content + b" "))
        assert "pictures: train/ant/000.jpg has changed since it was indexed" in complaint("--workers", 0)
    path.write_bytes(content)
    resumed = train("folder.yaml", "t.pt", "--workers", 0)
    assert same(resumed, train("folder.yaml", "whole.pt", "--workers", 0))


def training(*words: object) -> subprocess.Popen:
    """`dive` in a session of its own, which waits in its second epoch."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    command = [sys.executable, "-c", WAITING, *map(str, words)]
    run = subprocess.Popen(command, **pipes, text=True, start_new_session=True)
    assert run.stdout.readline() == "now\n"
    return run


@pytest.mark.slow
def test_no_worker_outlives_a_command_that_is_killed() -> None:
    write_all()
    words = ("teacher", "--config", "listed.yaml", *HERE, "--workers", 2, "--out", "t.pt")
    with training(*words) as run:
        assert len(processes.workers(run.pid)) == 2
        run.kill()
    assert processes.lingering(run.pid) < processes.LAST_BREATH


@pytest.mark.slow
@pytest.mark.alone
def test_ctrl_c_which_a_terminal_sends_to_workers_too_is_one_line() -> None:
    write_all()
    words = ("teacher", "--config", "listed.yaml", *HERE, "--workers", 2, "--out", "t.pt")
    with training(*words) as run:
        os.killpg(run.pid, signal.SIGINT)
        out, err = run.communicate(timeout=120)
    assert (run.returncode, out) == (130, "") and re.fullmatch("dive: interrupted; .*\n", err), err
    assert Path("t.state").exists() and processes.lingering(run.pid) < processes.LAST_BREATH


def remove(session: int) -> None:
    """Remove a picture."""
    PICTURE.unlink()


def replace(session: int) -> None:
    """Put another picture in the place of one."""
    Image.new("RGB", (50, 40), "red").save(PICTURE)


def truncate(session: int) -> None:
    """Cut a picture short."""
    PICTURE.write_bytes(PICTURE.read_bytes()[:-300])


def kill_worker(session: int) -> None:
    """SIGKILL to one of two workers."""
    one, _ = processes.workers(session)
    os.kill(one, signal.SIGKILL)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("happening", "told"),
    [
        (remove, "pictures: train/ant/000.jpg cannot be read: No such file or directory"),
        (replace, "pictures: train/ant/000.jpg has changed since it was indexed; put the file back, .*"),
        (truncate, "pictures: train/ant/000.jpg has changed since it was indexed; put the file back, .*"),
        (kill_worker, r"a worker process that reads images died \(.*\); is there enough memory\?"),
    ],
)
def test_what_stops_training_by_two_workers_is_one_line_and_the_run_is_resumed(
    happening: Callable[[int], None], told: str
) -> None:
    write_all()
    content = PICTURE.read_bytes()
    words = ("teacher", "--config", "listed.yaml", *HERE, "--workers", 2, "--out", "t.pt")
    with training(*words) as run:
        happening(run.pid)
        out, err = run.communicate("\n", timeout=120)
    assert processes.lingering(run.pid) < processes.LAST_BREATH
    assert run.returncode == 1 and out == "" and re.fullmatch(f"dive: {told}\n", err), err
    assert Path("t.state").exists() and not Path("t.pt").exists()
    PICTURE.write_bytes(content)
    resumed = chain.succeed(*words[:-2], "--out", "t.pt", "--json")
    assert same(torch.load("t.pt", weights_only=True)["model"], train("listed.yaml", "0.pt", "--workers", 0))
    assert resumed.document["epochs"] == 3


@pytest.mark.slow
def test_a_worker_that_is_killed_ends_the_run_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    write_all()

    def kill(feed: StreamedImages) -> None:
        worker = feed._coming._workers[0]
        os.kill(worker.pid, signal.SIGKILL)
        worker.join()

    during(4, monkeypatch, kill)
    assert "a worker process that reads images died" in complaint("--workers", 1)


def test_a_file_that_is_no_picture_stops_the_run_before_it_begins() -> None:
    write_all()
    Path("pictures/test/bee/001.jpg").write_bytes(b"no picture")
    assert "pictures: test/bee/001.jpg is not a readable image" in complaint("--workers", 0)
    assert not Path("t.state").exists() and not Path("t.pt").exists()


def test_check_images_finds_a_truncated_picture_that_its_header_does_not_show() -> None:
    write_all()
    path = Path("pictures/train/ant/000.jpg")
    path.write_bytes(path.read_bytes()[:-300])
    assert "pictures: train/ant/000.jpg is not a readable image: " in complaint(
        "--workers", 0, "--check-images"
    )
    assert not Path("t.state").exists()
    assert "pictures: train/ant/000.jpg is not a readable image: " in complaint("--workers", 0)


def test_a_cache_of_photographs_is_not_one_of_pictures_held_in_memory() -> None:
    write_all()
    of_list = ("--config", "listed.yaml", *HERE, "--workers", 0)
    train("listed.yaml", "t.pt", "--workers", 0)
    chain.succeed("export-logits", *of_list, "--teacher", "t.pt", "--out", "c.h5", "--views", 2)
    other = ("--set", "views.kind=crop_flip", "--set", "views.size=24")
    told = chain.dive(
        "student", "--config", "listed.yaml", *HERE, *other, "--cache", "c.h5", "--out", "s.pt"
    ).complaint
    assert "has digests of the images' files, but the recipe's views need digests of pixels" in told


def test_workers_are_said_to_have_no_effect_on_pictures_in_memory(digits: chain.Chain) -> None:
    told = chain.succeed("eval", digits.teacher, "--workers", 2, "--quiet").err
    assert "warning: --workers has no effect here: the images are held in memory" in told
    assert "--workers" not in chain.succeed("eval", digits.teacher, "--quiet").err
