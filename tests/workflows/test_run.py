"""A run that is stopped, killed or interrupted ends, started again, as one that never was."""

import errno
import json
import math
import random
from pathlib import Path
from typing import BinaryIO

import chain
import folders
import pytest
import torch

from dive import files, outputs
from dive.models import checkpoint
from dive.training import loop

OUT = Path("run.pt")
FINISHED = ["run.history.jsonl", "run.json", "run.pt"]
EPOCHS = 5
STEPS = 13  # an epoch
TEACHER = ("teacher", *chain.DIGITS, "--epochs", EPOCHS)


@pytest.fixture
def every_epoch(monkeypatch):
    """Save the state after every epoch, however long that takes."""
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)


@pytest.fixture(scope="module")
def whole(tmp_path_factory, digits):
    """The results of a teacher and a student that nothing stopped."""
    folder = tmp_path_factory.mktemp("whole")
    chain.succeed(*TEACHER, "--out", folder / "teacher.pt")
    chain.succeed(*student(digits), "--out", folder / "student.pt")
    return {kind: ended(folder / f"{kind}.pt") for kind in ("teacher", "student")}


def student(digits) -> tuple:
    return ("student", *chain.DIGITS, "--epochs", EPOCHS, "--cache", digits.cache)


def ended(path: Path) -> tuple[dict, list[dict]]:
    """Weights and history of a finished run, without the times."""
    history = [json.loads(line) for line in path.with_suffix(".history.jsonl").read_text().splitlines()]
    for entry in history:
        assert entry.pop("seconds") > 0
    return torch.load(path, weights_only=True)["model"], history


def assert_same(found: tuple[dict, list[dict]], expected: tuple[dict, list[dict]]) -> None:
    """Weights equal bit for bit, histories equal without gap or repeat."""
    assert [entry["epoch"] for entry in found[1]] == list(range(1, EPOCHS + 1))
    assert found[1] == expected[1]
    assert found[0].keys() == expected[0].keys()
    for name, tensor in expected[0].items():
        assert torch.equal(found[0][name], tensor), name


def stop(step: int, *arguments: object, error: type[BaseException] = KeyboardInterrupt) -> chain.Outcome:
    """Run a command that stops by an exception before its `step`-th step (from 1)."""
    with chain.stopped_at(step, error):
        return chain.dive(*arguments)


@pytest.mark.parametrize("step", [1, 2, STEPS, STEPS + 1, 3 * STEPS, 3 * STEPS + 5, 5 * STEPS])
def test_a_teacher_stopped_at_any_step_ends_as_one_that_was_not(every_epoch, whole, step):
    assert stop(step, *TEACHER, "--out", OUT).code == 130
    assert not OUT.exists() and not OUT.with_suffix(".json").exists()
    chain.succeed(*TEACHER, "--out", OUT)
    assert_same(ended(OUT), whole["teacher"])


def test_a_student_stopped_twice_ends_as_one_that_was_not(every_epoch, whole, digits):
    assert stop(STEPS + 7, *student(digits), "--out", OUT).code == 130
    assert stop(2 * STEPS + 1, *student(digits), "--out", OUT).code == 130  # counted from epoch 2
    chain.succeed(*student(digits), "--out", OUT)
    assert_same(ended(OUT), whole["student"])


def test_a_resumed_run_says_from_where(every_epoch):
    arguments = [argument for argument in TEACHER if argument != "--quiet"]
    stop(2 * STEPS + 3, *arguments, "--out", OUT)
    outcome = chain.succeed(*arguments, "--out", OUT)
    assert "resuming after epoch 2 of 5 in fp32 (run.state)" in outcome.err


def test_a_finished_run_leaves_checkpoint_record_and_history_and_nothing_else(every_epoch):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
    assert sorted(chain.files_under()) == ["run.history.jsonl", "run.state"]
    chain.succeed(*TEACHER, "--out", OUT)
    assert sorted(chain.files_under()) == FINISHED


FSYNCS = 4 * (EPOCHS - 1) + 6  # two for each of state and history an epoch; history, record, checkpoint
REPLACES = 2 * (EPOCHS - 1) + 3
MOMENTS = random.Random(0)
STRIKES = [
    ("teacher", "os:fsync", FSYNCS),  # the checkpoint has its place, its folder is not synced
    ("teacher", "os:replace", REPLACES),  # everything but the checkpoint has its place
    *(("teacher", "os:fsync", call) for call in MOMENTS.sample(range(1, FSYNCS), 3)),
    *(("student", "os:replace", call) for call in MOMENTS.sample(range(1, REPLACES), 2)),
    *(("teacher", "dive.training.step:Step.advance", call) for call in MOMENTS.sample(range(14, 66), 2)),
    *(("student", "dive.training.step:Step.advance", call) for call in MOMENTS.sample(range(14, 66), 1)),
]


@pytest.mark.slow
@pytest.mark.parametrize(("kind", "spot", "call"), STRIKES)
def test_a_killed_run_ends_as_one_that_was_not(digits, whole, kind, spot, call):
    arguments = (*(TEACHER if kind == "teacher" else student(digits)), "--out", OUT)
    settings = {"dive.training.loop:SAVING_SHARE": math.inf}
    outcome = chain.struck(spot, call, *arguments, settings=settings)
    assert outcome.code == -9, outcome
    if (spot, call) == ("os:fsync", FSYNCS):
        assert_same(ended(OUT), whole[kind])  # it was finished, and is not done again
        assert sorted(chain.files_under()) == [".run.pt.lock", *FINISHED, "run.state"]
        assert "run.pt exists already" in chain.dive(*arguments).complaint
        assert sorted(chain.files_under()) == FINISHED
        return
    assert not OUT.exists()
    chain.succeed(*arguments)
    assert_same(ended(OUT), whole[kind])
    assert not OUT.with_suffix(".state").exists()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_ctrl_c_ends_with_one_line_and_exit_code_130_and_the_run_is_resumed(digits, whole, kind):
    arguments = (*(TEACHER if kind == "teacher" else student(digits)), "--out", OUT)
    spot = ("dive.training.step:Step.advance", 3 * STEPS + 4)
    outcome = chain.struck(*spot, *arguments, by=chain.signal.SIGINT)
    assert outcome.code == 130
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("dive: interrupted")
    left = chain.files_under()
    assert not set(left) - {"run.state", "run.history.jsonl"}
    assert "run.state" in left
    chain.succeed(*arguments)
    assert_same(ended(OUT), whole[kind])


@pytest.mark.slow
@pytest.mark.parametrize("spot", ["dive.models.network:Network.forward", "os:pwrite"])
def test_ctrl_c_ends_an_export_with_one_line_and_the_export_is_resumed(digits, spot):
    arguments = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--out", "c.h5")
    call = 3 if spot == "dive.models.network:Network.forward" else 5  # of the first batch; of rows and tables
    outcome = chain.struck(spot, call, *arguments, by=chain.signal.SIGINT)
    assert outcome.code == 130
    assert outcome.err.count("\n") == 1 and outcome.err.startswith("dive: interrupted")
    assert list(chain.files_under()) == ["c.h5.part"]
    chain.succeed(*arguments)
    assert Path("c.h5").read_bytes() == digits.cache.read_bytes()


CHANGES = [
    (("--set", "optimizer.lr=0.05"), "recipe.optimizer.lr: 0.1, now 0.05"),
    (("--seed", 4), "recipe.seed: 0, now 4"),
    (("--loss", "ce"), "recipe.teacher.loss: bsce, now ce"),
    (("--set", "data.seed=1"), "recipe.data.seed: 0, now 1"),
    (("--set", "data.imbalance=20"), "recipe.data.imbalance: 50.0, now 20.0"),
    (("--set", "model.name=resnet14"), "recipe.model.name: resnet8, now resnet14"),
    (("--epochs", 7), "recipe.schedule.epochs: 5, now 7"),
]


def test_an_unfinished_run_of_another_recipe_is_refused_by_naming_the_keys_and_left_alone(every_epoch, whole):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
    before = chain.files_under()
    for change, named in CHANGES:
        complaint = chain.dive(*TEACHER, "--out", OUT, *change).complaint
        assert "run.state is an unfinished run of another recipe" in complaint
        assert named in complaint and "--force" in complaint
        assert "momentum" not in complaint
        assert chain.files_under() == before
    chain.succeed(*TEACHER, "--out", OUT)
    assert_same(ended(OUT), whole["teacher"])


def test_an_unfinished_teacher_is_not_resumed_as_a_student(every_epoch, digits):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
    complaint = chain.dive(*student(digits), "--out", OUT).complaint
    assert "kind: teacher, now student" in complaint and "loss: bsce, now dive" in complaint


def test_an_unfinished_student_is_not_resumed_from_another_cache(every_epoch, digits):
    stop(2 * STEPS + 3, *student(digits), "--out", OUT)
    other = ("student", *chain.DIGITS, "--epochs", EPOCHS, "--cache", digits.drawn_cache)
    complaint = chain.dive(*other, "--out", OUT).complaint
    assert "cache_hash: " in complaint and "recipe." not in complaint


def test_where_the_images_lie_is_no_other_recipe(every_epoch, tmp_path):
    config = folders.write_recipe(Path("insects.yaml"), folders.write_images(tmp_path / "images"))
    arguments = ("teacher", "--config", config, "--precision", "fp32", "--set", f"schedule.epochs={EPOCHS}")
    chain.succeed(*arguments, "--quiet", "--out", "whole.pt")
    assert stop(2 * 3 + 2, *arguments, "--out", OUT).code == 130  # three steps an epoch
    (tmp_path / "images").rename(tmp_path / "elsewhere")
    resumed = chain.succeed(*arguments, "--out", OUT, "--data", tmp_path / "elsewhere")
    assert "resuming after epoch 2 of 5" in resumed.err
    assert_same(ended(OUT), ended(Path("whole.pt")))
    assert "data.root is not a known key" in chain.dive(*TEACHER, "--data", "elsewhere").complaint


def test_force_starts_an_unfinished_run_anew(every_epoch, whole):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT, "--seed", 9)
    arguments = [argument for argument in TEACHER if argument != "--quiet"]
    outcome = chain.succeed(*arguments, "--out", OUT, "--force")
    assert "resuming" not in outcome.err
    assert_same(ended(OUT), whole["teacher"])


def test_a_finished_result_is_not_overwritten_without_force(digits):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--out", OUT)
    before = chain.files_under()
    for arguments in (("teacher", *chain.DIGITS), ("student", *chain.DIGITS, "--cache", digits.cache)):
        assert "run.pt exists already" in chain.dive(*arguments, "--epochs", 1, "--out", OUT).complaint
        assert chain.files_under() == before
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--seed", 1, "--out", OUT, "--force")
    assert chain.files_under() != before


def test_a_forced_run_that_fails_leaves_the_earlier_checkpoint(every_epoch):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--out", OUT)
    before = chain.files_under()
    complaint = chain.dive(*TEACHER, "--set", "optimizer.lr=1e30", "--out", OUT, "--force").complaint
    assert "not finite" in complaint or "the loss is" in complaint
    assert chain.files_under() == before


def test_a_forced_run_that_is_stopped_leaves_the_earlier_result_whole_and_is_resumed_without_force(
    every_epoch, whole
):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--out", OUT)
    before = chain.files_under()
    assert stop(2 * STEPS + 3, *TEACHER, "--out", OUT, "--force").code == 130
    assert before.items() < chain.files_under().items()
    chain.succeed(*TEACHER, "--out", OUT)
    assert_same(ended(OUT), whole["teacher"])
    assert "run.pt exists already" in chain.dive(*TEACHER, "--out", OUT).complaint


def test_a_forced_run_that_is_stopped_in_its_first_epoch_is_begun_again_without_force(every_epoch, whole):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--out", OUT)
    before = chain.files_under()
    stopped = stop(3, *TEACHER, "--out", OUT, "--force")
    assert stopped.code == 130 and "the same command without --force resumes" in stopped.err
    assert before.items() < chain.files_under().items()
    document = chain.succeed("inspect", OUT.with_suffix(".state"), "--json").document
    assert (document["kind"], document["epochs_done"]) == ("announced teacher", 0)
    assert "precision" not in document
    complaint = chain.dive(*TEACHER, "--seed", 3, "--out", OUT).complaint
    assert "is to be replaced by another run (recipe.seed: 0, now 3), begun with --force" in complaint
    chain.succeed(*TEACHER, "--out", OUT)
    assert_same(ended(OUT), whole["teacher"])


def test_an_unfinished_run_keeps_its_precision(every_epoch):
    auto = ("teacher", "--config", chain.CONFIG, "--quiet", "--epochs", 2, "--out", OUT)
    stop(STEPS + 3, *auto, "--precision", "bf16")
    complaint = chain.dive(*auto, "--precision", "fp32").complaint
    assert "unfinished run in bf16, not fp32" in complaint
    chain.succeed(*auto, "--precision", "auto")  # over the recipe's own fp32
    assert checkpoint.load(OUT)["precision"] == "bf16"


def test_an_unfinished_run_in_tf32_is_not_resumed_where_there_is_none(every_epoch):
    stop(STEPS + 3, *TEACHER, "--out", OUT)
    path = OUT.with_suffix(".state")
    checkpoint.save(path, checkpoint.load(path) | {"precision": "tf32"})
    before = chain.files_under()
    auto = (*TEACHER, "--out", OUT)
    complaint = chain.dive(*auto, "--precision", "auto").complaint
    assert "run.state is an unfinished run in tf32: TF32 needs a CUDA device" in complaint
    assert chain.files_under() == before


def test_tf32_on_a_cpu_is_refused_in_one_line():
    arguments = ("--config", chain.CONFIG, "--device", "cpu", "--quiet", "--precision", "tf32")
    complaint = chain.dive("teacher", *arguments, "--out", OUT).complaint
    assert complaint.startswith("dive: --precision tf32: TF32 needs a CUDA device")
    assert chain.files_under() == {}


def test_an_unfinished_run_keeps_its_number_of_threads(every_epoch, whole):
    before = torch.get_num_threads()
    try:
        stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
        torch.set_num_threads(before + 1)
        chain.succeed(*TEACHER, "--out", OUT)
        assert torch.get_num_threads() == before + 1  # the run's own threads were its alone
        assert checkpoint.load(OUT)["threads"] == before
        assert_same(ended(OUT), whole["teacher"])
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("damage", ["flipped", "cut short", "empty"])
def test_a_damaged_state_is_refused_and_force_starts_anew(every_epoch, whole, damage):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
    state = OUT.with_suffix(".state")
    content = bytearray(state.read_bytes())
    if damage == "flipped":
        content[len(content) // 2] ^= 1
    state.write_bytes({"flipped": content, "cut short": content[:-100], "empty": b""}[damage])
    complaint = chain.dive(*TEACHER, "--out", OUT).complaint
    assert complaint.startswith("dive: the unfinished run cannot be resumed: run.state ")
    assert complaint.endswith("; --force starts over")
    chain.succeed(*TEACHER, "--out", OUT, "--force")
    assert_same(ended(OUT), whole["teacher"])


def test_a_state_of_a_later_version_is_refused_in_one_line(every_epoch):
    stop(2 * STEPS + 3, *TEACHER, "--out", OUT)
    state = OUT.with_suffix(".state")
    document = checkpoint.load(state)
    document["history"][0]["gradient_norm"] = 1.5
    checkpoint.save(state, document)
    complaint = chain.dive(*TEACHER, "--out", OUT).complaint
    assert "its history has gradient_norm, which this version of dive does not know" in complaint


def test_a_full_disk_at_the_end_leaves_the_earlier_result_whole(every_epoch, monkeypatch):
    """Checkpoint, record and history are of one run, whichever of the three finds no room."""
    chain.succeed(*TEACHER, "--out", OUT)
    before = chain.files_under()
    real = files.create

    def full(path: Path) -> BinaryIO:
        if path.name == f".{OUT.name}.dive-tmp":
            raise OSError(errno.ENOSPC, "No space left on device")
        return real(path)

    monkeypatch.setattr(files, "create", full)
    complaint = chain.dive(*TEACHER, "--seed", 1, "--out", OUT, "--force").complaint
    assert "No space left on device (run.pt)" in complaint
    left = chain.files_under()
    assert {name: left[name] for name in before} == before and set(left) - set(before) == {"run.state"}


def test_two_runs_to_one_place_do_not_mix():
    with outputs.only_writer(OUT):
        complaint = chain.dive(*TEACHER, "--out", OUT).complaint
    assert "run.pt is being written by another process" in complaint
    assert chain.files_under() == {}


@pytest.mark.parametrize("names", [("s_0.5", "s_0.9"), ("run.pt", "run.ckpt"), ("s_0.5.pt", "s_0.9.pt")])
def test_results_of_two_names_share_no_file(names):
    for seed, name in enumerate(names):
        before = chain.files_under()
        outcome = chain.dive("teacher", *chain.DIGITS, "--epochs", 1, "--seed", seed, "--out", name)
        after = chain.files_under()
        assert {name: after[name] for name in before} == before  # nothing finished was overwritten
        if outcome.code != 0:
            assert outcome.complaint and after == before
            return


@pytest.mark.parametrize("name", ["run.state", "run.json", "run.history.jsonl", "run"])
def test_a_checkpoint_named_as_one_of_its_side_files_is_refused(name):
    complaint = chain.dive("teacher", *chain.DIGITS, "--epochs", 1, "--out", name).complaint
    assert f"{name} must end in .pt" in complaint
    assert chain.files_under() == {}


def test_the_record_beside_the_weights_is_what_json_prints_and_the_checkpoint_holds():
    outcome = chain.succeed("teacher", *chain.DIGITS, "--epochs", 1, "--out", OUT, "--json")
    printed = outcome.document
    assert printed.pop("checkpoint") == "run.pt"
    assert json.loads(OUT.with_suffix(".json").read_text()) == printed
    document = torch.load(OUT, weights_only=True)
    assert (printed.pop("format"), document["format"]) == ("dive-record", "dive-checkpoint")
    assert printed["version"] == 2
    assert {key: document[key] for key in printed} == printed
    assert set(document) - set(printed) == {"model", "format", "producer"}


def test_the_record_says_what_was_trained_on_what_and_how(digits):
    record = json.loads(digits.teacher.with_suffix(".json").read_text())
    assert record["kind"] == "teacher" and record["loss"] == "bsce"
    assert record["recipe"]["name"] == "digits_lt_bbn" and record["recipe"]["schedule"]["epochs"] == 3
    # 146 images of the largest class (3) are for training, 142 of class 0
    assert record["class_counts"] == [142, *(int(146 * 50 ** (-c / 9)) for c in range(1, 10))]
    assert record["classes"] == list("0123456789")
    assert record["architecture"]["name"] == "resnet8"
    weights = torch.load(digits.teacher, weights_only=True)["model"]
    trained = [n for n in weights if not n.endswith(("running_mean", "running_var", "num_batches_tracked"))]
    assert record["architecture"]["parameters"] == sum(weights[name].numel() for name in trained)
    assert record["epochs"] == 3 and record["precision"] == "fp32" and record["seed"] == 0
    assert record["versions"]["torch"].split("+")[0] == torch.__version__.split("+")[0]
    assert record["threads"] == torch.get_num_threads()


def test_a_student_records_its_cache_and_its_teacher(digits):
    record = json.loads(digits.student.with_suffix(".json").read_text())
    teacher = json.loads(digits.teacher.with_suffix(".json").read_text())
    assert record["kind"] == "student" and record["loss"] == "dive"
    assert record["cache_hash"] == digits.cache.read_bytes()[16:48].hex()  # the seal's digest
    assert record["teacher"]["accuracy"] == teacher["accuracy"]
    assert record["free_views"] is False
