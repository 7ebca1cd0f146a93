"""The event files of TensorBoard, read back by TensorBoard's own reader."""

import importlib.util
import json
import math
import sys
from pathlib import Path

import chain
import pytest

from dive.training import loop

pytestmark = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="tensorboard is not installed"
)
EPOCHS = 4
STEPS = 13  # an epoch
TEACHER = ("teacher", *chain.DIGITS, "--epochs", EPOCHS)


def read(folder: Path):
    """What TensorBoard's reader finds in a folder; of it all, not of a sample."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    everything = {"scalars": 0, "tensors": 0, "images": 0, "histograms": 0}
    return EventAccumulator(str(folder), size_guidance=everything).Reload()


def scalars(folder: Path) -> dict[str, list[tuple[int, float]]]:
    """Tag to its steps and values in the order in which they were written."""
    found = read(folder)
    return {
        tag: [(one.step, one.value) for one in found.Scalars(tag)]
        for tag in found.Tags()["scalars"]
        if not tag.startswith("_")
    }


def recorded(checkpoint: Path) -> dict[str, list[tuple[int, float]]]:
    """The same of a run's own history."""
    lines = checkpoint.with_suffix(".history.jsonl").read_text().splitlines()
    history = [json.loads(line) for line in lines]
    names = {
        "loss": "loss",
        "lr": "lr",
        "seconds": "seconds",
        "accuracy/train": "train_accuracy",
        "accuracy/val": "val_accuracy",
        "accuracy/test": "test_accuracy",
    }
    found = {
        tag: [(one["epoch"], pytest.approx(one[key], rel=1e-6)) for one in history if key in one]
        for tag, key in names.items()
    }
    return {tag: values for tag, values in found.items() if values}


def test_the_scalars_are_those_of_the_history_and_the_recipe_is_beside_them():
    chain.succeed(*TEACHER, "--out", "out/bsce.pt", "--eval-every", 2, "--tensorboard", "board")
    (folder,) = (path.parent for path in Path("board").rglob("events.out.tfevents.*"))
    assert folder == Path("board/digits_lt_bbn/bsce")
    found = scalars(folder)
    assert found == recorded(Path("out/bsce.pt"))
    assert [step for step, _ in found["accuracy/test"]] == [2, 4]
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    (text,) = read(folder).Tensors("recipe/text_summary")
    shown = text.tensor_proto.string_val[0].decode()
    record = json.loads(Path("out/bsce.json").read_text())
    assert json.loads(shown) == record["recipe"]
    plugin = read(folder).SummaryMetadata("_hparams_/session_start_info").plugin_data
    assert plugin.plugin_name == "hparams" and b"optimizer.lr" in plugin.content


@pytest.mark.parametrize("step", [3, 2 * STEPS + 1, 4 * STEPS])
def test_a_resumed_run_has_every_epoch_once(step, monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)  # the state is saved after every epoch
    words = (*TEACHER, "--out", "run.pt", "--tensorboard", "board")
    with chain.stopped_at(step):
        assert chain.dive(*words).code == 130
    chain.succeed(*words)
    assert scalars(Path("board/digits_lt_bbn/run")) == recorded(Path("run.pt"))


def test_a_run_resumed_from_an_earlier_state_than_it_had_logged_has_every_epoch_once(monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", 1e-9)  # the state is saved once, after the first epoch
    words = (*TEACHER, "--out", "run.pt", "--tensorboard", "board")
    with chain.stopped_at(3 * STEPS + 1):
        assert chain.dive(*words).code == 130
    chain.succeed(*words)
    found = scalars(Path("board/digits_lt_bbn/run"))
    assert [step for step, _ in found["loss"]] == [1, 2, 3, 4]
    assert found == recorded(Path("run.pt"))


def test_a_run_that_began_without_it_has_its_first_epochs_too(monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)
    with chain.stopped_at(2 * STEPS + 1):
        chain.dive(*TEACHER, "--out", "run.pt")
    chain.succeed(*TEACHER, "--out", "run.pt", "--tensorboard", "board")
    assert scalars(Path("board/digits_lt_bbn/run")) == recorded(Path("run.pt"))


def test_a_run_started_over_replaces_what_was_there():
    words = (*TEACHER, "--out", "run.pt", "--tensorboard", "board")
    chain.succeed(*words)
    chain.succeed(*words, "--force", "--seed", 5)
    assert scalars(Path("board/digits_lt_bbn/run")) == recorded(Path("run.pt"))


def test_each_student_of_a_grid_has_a_folder_of_its_own(digits):
    words = ("--cache", digits.cache, "--epochs", 1, "--weight", 0.25, 0.75, "--tensorboard", "board")
    chain.succeed("student", *chain.DIGITS, *words, "--out", "student.pt")
    names = [f"student-t3-p0.5-w{weight}-s0" for weight in (0.25, 0.75)]
    assert sorted(path.name for path in Path("board/digits_lt_bbn").iterdir()) == names
    for name in names:
        assert scalars(Path("board/digits_lt_bbn", name)) == recorded(Path(f"{name}.pt"))


def test_only_the_first_of_several_processes_writes(monkeypatch):
    from dive.training import tensorboard
    from dive.world import World

    monkeypatch.setattr(tensorboard, "this_world", lambda: World(rank=1, size=2, local_rank=1, local_size=2))
    chain.succeed(*TEACHER, "--out", "run.pt", "--tensorboard", "board")
    assert not Path("board").exists()


def test_it_changes_nothing_of_the_result():
    for name, more in (("without", ()), ("with", ("--tensorboard", "board"))):
        chain.succeed(*TEACHER, "--out", f"{name}.pt", *more)
    one, other = (json.loads(Path(f"{name}.json").read_text()) for name in ("without", "with"))
    assert one | {"seconds": 0} == other | {"seconds": 0}


def test_without_the_extra_one_line_names_the_pip_command_before_anything_is_trained(monkeypatch):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    complaint = chain.dive(*TEACHER, "--out", "run.pt", "--tensorboard", "board").complaint
    assert "pip install 'dive-longtail[tensorboard]'" in complaint
    assert list(Path().iterdir()) == []


def test_a_place_that_is_no_folder_is_refused_in_a_line():
    Path("board").write_text("mine")
    complaint = chain.dive(*TEACHER, "--out", "run.pt", "--tensorboard", "board").complaint
    assert complaint.startswith("dive: --tensorboard: cannot write to board/digits_lt_bbn/run")
    assert Path("board").read_text() == "mine"
