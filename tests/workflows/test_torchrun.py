"""Training and evaluation by several processes: their results are those of one, and they end together.

Processes are forked with the environment that torchrun gives; the last tests go through torchrun itself.
"""

import json
import math
import re
import signal
from datetime import timedelta
from pathlib import Path

import chain
import pytest
import ranks
import torch
import torchrun
import torture_training_ranks
from conftest import png
from torch import distributed

from dive.errors import DataError
from dive.models import checkpoint
from dive.training.ranks import LOST

THREE = (*chain.DIGITS, "--epochs", 3)
EVERY_EPOCH = {"dive.training.loop:SAVING_SHARE": math.inf}
# Sums of float32 in another order move these weights by 4e-7 at most (measured over three epochs at two and
# three processes, of a teacher and of a student): ten times that.
ROUNDING = 4e-6
STEPS = 13  # of an epoch: 399 images in batches of 32, the last of 15


def weights(path: str) -> dict[str, torch.Tensor]:
    return checkpoint.load_finished(Path(path))["model"]


def same_bits(one: str, other: str) -> bool:
    a, b = weights(one), weights(other)
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


def distance(one: str, other: str) -> float:
    """The largest difference of two weights."""
    a, b = weights(one), weights(other)
    return max((a[key].double() - b[key].double()).abs().max().item() for key in a)


def record(path: str) -> dict:
    return json.loads(Path(path).with_suffix(".json").read_text())


def history(path: str) -> list[dict]:
    lines = Path(path).with_suffix(".history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def together(size: int, *words: object, **options: object) -> list[chain.Outcome]:
    """Several processes that must end well."""
    outcomes = ranks.forked(size, *words, **options)
    assert [outcome.code for outcome in outcomes] == [0] * size, outcomes
    return outcomes


@pytest.mark.slow
@pytest.mark.parametrize("command", ["teacher", "student"])
def test_without_batch_norm_several_processes_end_in_the_weights_of_one(digits, command):
    words = (command, *THREE, *ranks.plain_network())
    words += ("--cache", digits.cache) if command == "student" else ()
    chain.succeed(*words, "--out", "1.pt")
    for size in (2, 3):
        together(size, *words, "--out", f"{size}.pt")
        assert distance("1.pt", f"{size}.pt") < ROUNDING
        for one, other in zip(history("1.pt"), history(f"{size}.pt"), strict=True):
            assert other["loss"] == pytest.approx(one["loss"], rel=1e-6)
            assert other["train_accuracy"] == one["train_accuracy"]
        assert record(f"{size}.pt")["accuracy"] == record("1.pt")["accuracy"]
        assert record(f"{size}.pt")["worlds"] == [[1, size]]
        assert record(f"{size}.pt")["batch_norm"] is False
    assert not {"worlds", "batch_norm"} & record("1.pt").keys()


def test_parts_of_batches_clipping_and_empty_shares_are_those_of_one_process():
    """Batches of 199 in two parts, the last batch of one image: two of three processes have none of it."""
    sets = ("schedule.batch_size=199", "schedule.accumulate=2", "optimizer.clip_norm=0.3")
    words = ("teacher", *THREE, *ranks.plain_network(), *(word for one in sets for word in ("--set", one)))
    chain.succeed(*words, "--out", "1.pt")
    together(3, *words, "--out", "3.pt")
    assert distance("1.pt", "3.pt") < ROUNDING
    assert history("3.pt")[-1]["train_accuracy"] == history("1.pt")[-1]["train_accuracy"]


@pytest.mark.slow
def test_with_batch_norm_accuracy_is_within_the_noise_of_seeds():
    words = ("teacher", *chain.DIGITS, "--epochs", 12)
    found = []
    for seed in range(4):
        chain.succeed(*words, "--seed", seed, "--out", f"{seed}.pt")
        found.append(record(f"{seed}.pt")["accuracy"]["all"])
    together(2, *words, "--seed", 0, "--out", "two.pt")
    spread = torch.tensor(found).std().item()
    assert abs(record("two.pt")["accuracy"]["all"] - sum(found) / 4) < max(3.5 * spread, 0.02)
    assert record("two.pt")["batch_norm"] is True


def test_an_evaluation_by_three_processes_is_that_of_one(digits):
    words = ("eval", digits.teacher, digits.student, "--json", "--quiet")
    first, *others = together(3, *words)
    assert first.document == chain.succeed(*words).document
    assert [(outcome.out, outcome.err) for outcome in others] == [("", "")] * 2


@pytest.mark.slow
def test_stopped_processes_resume_exactly_and_another_number_of_them_is_told():
    words = ("teacher", *THREE)
    together(2, *words, "--out", "whole.pt")
    kill = {1: {"dive.training.step:Step.advance": (STEPS + 3, signal.SIGKILL)}}
    for name in ("same.pt", "other.pt"):
        ended = ranks.forked(2, *words, "--out", name, faults=kill, settings=EVERY_EPOCH)
        assert [outcome.code for outcome in ended] == [1, -signal.SIGKILL]
        assert list(ranks.told(ended)) == [f"dive: {LOST}"]  # by the one that is left: nobody else can
        assert not Path(name).exists() and Path(name).with_suffix(".state").exists()
    together(2, *words, "--out", "same.pt")
    assert same_bits("same.pt", "whole.pt")
    first, second, third = together(3, *words, "--out", "other.pt")
    assert "another number of processes (3) than before (2)" in first.err and second.err == third.err == ""
    assert record("other.pt")["worlds"] == [[1, 2], [2, 3]]
    assert [entry["epoch"] for entry in history("other.pt")] == [1, 2, 3]


def complaint(outcomes: list[chain.Outcome], code: int = 1) -> str:
    """The one line that all processes told together; each ended with that code."""
    assert [outcome.code for outcome in outcomes] == [code] * len(outcomes), outcomes
    (line,) = ranks.told(outcomes)
    return line


@pytest.mark.parametrize(
    ("error", "named"),
    [(MemoryError(), "out of memory"), (DataError("a/b.png changed while it was read"), "a/b.png changed")],
)
def test_an_error_of_one_process_is_one_line_and_ends_all(error, named):
    faults = {1: {"dive.training.step:Step.advance": (STEPS + 3, error)}}
    ended = ranks.forked(
        2, "teacher", *THREE, *ranks.plain_network(), "--out", "t.pt", faults=faults, settings=EVERY_EPOCH
    )
    assert named in complaint(ended)
    assert not Path("t.pt").exists() and Path("t.state").exists()


def test_ctrl_c_which_all_get_is_one_line_and_keeps_the_state():
    press = {"dive.training.step:Step.advance": (STEPS + 3, signal.SIGINT)}
    words = ("teacher", *THREE, *ranks.plain_network(), "--out", "t.pt")
    assert "interrupted" in complaint(
        ranks.forked(2, *words, faults=dict.fromkeys((0, 1), press), settings=EVERY_EPOCH), 130
    )
    assert not Path("t.pt").exists() and Path("t.state").exists()


def test_processes_that_do_not_reach_each_other_say_which_and_what_to_set():
    fault = {1: {"torch.distributed:init_process_group": (1, RuntimeError("Gloo connectFullMesh failed"))}}
    quickly = {"dive.training.ranks:CONNECTING": timedelta(seconds=2)}
    line = complaint(ranks.forked(2, "teacher", *THREE, "--out", "t.pt", faults=fault, settings=quickly))
    assert "process 1 does not reach the others over the network (Gloo connectFullMesh failed)" in line
    assert "GLOO_SOCKET_IFNAME" in line


def test_an_exchange_that_fails_in_all_processes_is_told_once():
    """As NCCL's first use does on a GPU that two processes were given."""
    fault = {"dive.training.ranks:_exchange": (1, distributed.DistBackendError("Duplicate GPU detected"))}
    ended = ranks.forked(2, "teacher", *THREE, "--out", "t.pt", faults=dict.fromkeys((0, 1), fault))
    assert re.fullmatch(
        r"dive: process [01] cannot exchange tensors on cpu with the others \(Duplicate GPU detected\); .*",
        complaint(ended),
    )


def test_a_connection_that_breaks_for_all_is_told_once():
    """Each takes the others for gone, and none has an error of its own to tell."""
    broken = {
        "torch:Tensor.backward": (2 * STEPS, distributed.DistBackendError("NCCL error: reset\nby peer"))
    }
    words = ("teacher", *THREE, *ranks.plain_network(), "--out", "t.pt")
    line = complaint(ranks.forked(2, *words, faults=dict.fromkeys((0, 1), broken), settings=EVERY_EPOCH))
    assert line == f"dive: {LOST} (NCCL error: reset by peer)"
    assert not Path("t.pt").exists() and Path("t.state").exists()


def test_a_process_of_another_recipe_is_named_with_the_keys_that_differ():
    more = {1: ("--set", "optimizer.lr=0.2"), 0: ("--set", "optimizer.lr=0.1")}
    line = complaint(ranks.forked(3, "teacher", *THREE, "--out", "t.pt", more=more))
    assert (
        line.count("process 1 in") == 1 and "optimizer.lr: 0.1, now 0.2" in line and "process 2" not in line
    )
    assert not list(Path().glob("*.pt"))


@pytest.mark.slow
def test_a_process_of_other_pictures_is_named(tree):
    files = tree.images({"ant": 8, "bee": 4}, tests=2)
    here = tree.files(files, "here")
    there = tree.files(files | {"train/ant/000.png": png(torch.zeros(8, 8, 3).byte().numpy())}, "there")
    recipe = ("--set", "data.kind=folder", "--set", "model.name=resnet8", "--set", "schedule.batch_size=4")
    more = {0: ("--data", here), 1: ("--data", there)}
    ended = ranks.forked(2, "teacher", *recipe, "--device", "cpu", "--epochs", 1, "--quiet", more=more)
    assert "process 1 in fingerprint.train" in complaint(ended)


def test_a_mistake_that_all_make_is_told_once():
    quickly = {"dive.peers:A_WORD": timedelta(seconds=1)}
    ended = ranks.forked(2, "teacher", *chain.DIGITS, "--set", "optimizer.lr=fast", settings=quickly)
    assert ended[0].code == 2 and "optimizer.lr" in ended[0].err
    assert ended[1].err == "" and ended[1].out == ""


def test_sync_batchnorm_is_refused_on_a_cpu():
    line = chain.dive("teacher", *THREE, "--set", "model.sync_batchnorm=true").complaint
    assert "model.sync_batchnorm needs CUDA: torch has no synchronised batch norm on a CPU" in line


@pytest.mark.slow
def test_a_grid_is_trained_in_whole_students_side_by_side_or_split(digits):
    words = ("student", *chain.DIGITS, "--epochs", 1, "--cache", digits.cache, "--tau", 1, 3, 6)
    together(1, *words, "--out", "one.pt")  # of as many threads as each of two has
    first, second = together(2, *words, "--json", "--out", "apart.pt")
    names = [Path(one["checkpoint"]).name for one in first.document["students"]]
    assert names == [f"apart-t{tau}-p0.5-w0.5-s0.pt" for tau in (1, 3, 6)]
    assert second.out == second.err == ""
    for name in names:  # each by one process alone, bit for bit
        assert same_bits(name, name.replace("apart", "one"))
        assert "worlds" not in record(name)
    together(2, *words, "--split", "--out", "split.pt")
    assert [record(name.replace("apart", "split"))["worlds"] for name in names] == [[[1, 2]]] * 3
    first, _ = together(2, *words, "--json", "--out", "apart.pt")  # finished already
    assert len(first.document["students"]) == 3


@pytest.mark.slow
def test_torchrun_recovers_from_a_killed_rank_by_itself():
    words = ("teacher", *THREE)
    together(2, *words, "--out", "whole.pt")
    kill = {"DIVE_TEST_KILL": f"0:{2 * STEPS + 4}"}
    done = torchrun.run(2, *words, "--out", "t.pt", program=torchrun.SAVING, restarts=3, settings=kill)
    assert done.returncode == 0, done
    assert same_bits("t.pt", "whole.pt")
    assert done.stdout.count("teacher (bsce)") == 1
    assert not Path(".t.pt.lock").exists() and not Path("t.state").exists()


@pytest.mark.slow
def test_torchrun_recovers_whichever_rank_is_killed_whenever(digits, tmp_path):
    report = torture_training_ranks.torture_ranks(digits, tmp_path, kills=3, seed=0)
    assert report.faults == []
    assert sum(report.kills.values()) >= 3


@pytest.mark.slow
def test_torchrun_ends_with_one_line_of_dive_where_a_process_fails():
    done = torchrun.run(2, "teacher", *THREE, "--set", "optimizer.lr=1e30", "--out", "t.pt")
    assert done.returncode != 0 and done.stdout == ""
    lines = [line for line in done.stderr.splitlines() if line.startswith("dive: ")]
    assert len(lines) == 1 and "the loss is" in lines[0], done.stderr
