"""The training loop against one written out plainly, and what it says when it cannot go on."""

import json
from pathlib import Path

import chain
import pytest
import reference_loop
import torch

from dive.recipe.reading import load

OUT = Path("t.pt")
SHORT = (
    *("--set", "schedule.epochs=3"),
    *("--set", "schedule.warmup_epochs=1"),
    *("--set", "schedule.milestones=[2]"),
    *("--set", "schedule.gamma=0.1"),
    # Gentle steps magnify the rounding of fp32 less; a decay of this size is seen in the loss.
    *("--set", "optimizer.lr=0.01"),
    *("--set", "optimizer.weight_decay=0.1"),
)
RECIPE = load(chain.CONFIG, SHORT[1::2])


def history(path: Path = OUT) -> list[dict]:
    lines = path.with_suffix(".history.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


@pytest.mark.parametrize("loss", ["bsce", "ce"])
def test_a_teacher_trains_as_a_plain_loop_does(loss):
    chain.succeed("teacher", *chain.DIGITS, *SHORT, "--loss", loss, "--out", OUT)
    samples = reference_loop.training_samples(RECIPE)
    labels = torch.from_numpy(samples.labels)

    def loss_of(logits, rows, _):
        if loss == "ce":
            return -torch.log_softmax(logits.double(), 1)[torch.arange(len(rows)), labels[rows]]
        return reference_loop.balanced_softmax(logits, labels[rows], samples.counts)

    expected = reference_loop.train(RECIPE, loss_of)
    found = history()
    assert [entry["epoch"] for entry in found] == [1, 2, 3]
    # A pixel changed by one part in 10^6 moves the later losses by some per mille (ReLU's kinks).
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=1e-4)
    for entry, reference in zip(found, expected, strict=True):
        assert entry["loss"] == pytest.approx(reference["loss"], rel=5e-3)
        assert entry["train_accuracy"] == pytest.approx(reference["train_accuracy"], abs=2.5 / 399)
        assert entry["lr"] == pytest.approx(reference["lr"], rel=1e-12)
    assert [entry["lr"] for entry in found] == pytest.approx([0.01, 0.01, 0.001])


def test_the_two_losses_are_two_losses():
    for loss in ("bsce", "ce"):
        chain.succeed(
            "teacher", *chain.DIGITS, "--epochs", 1, "--loss", loss, "--out", Path(loss).with_suffix(".pt")
        )
    assert history(Path("bsce.pt"))[0]["loss"] != pytest.approx(history(Path("ce.pt"))[0]["loss"], rel=0.01)


def test_the_history_is_one_json_record_an_epoch_with_test_accuracy_only_at_the_end(digits):
    found = history(digits.teacher)
    assert [entry["epoch"] for entry in found] == [1, 2, 3]
    keys = {"epoch", "loss", "lr", "seconds", "train_accuracy"}
    assert [set(entry) for entry in found] == [keys, keys, keys | {"test_accuracy"}]
    record = json.loads(digits.teacher.with_suffix(".json").read_text())
    assert found[-1]["test_accuracy"] == record["accuracy"]["all"]
    assert record["train_accuracy"] == found[-1]["train_accuracy"]
    assert record["seconds"] == pytest.approx(sum(entry["seconds"] for entry in found), abs=0.06)


def test_evaluating_every_second_epoch_adds_its_accuracies_and_changes_nothing_else(digits):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--eval-every", 2, "--out", OUT)
    found, before = history(), history(digits.teacher)
    assert ["test_accuracy" in entry for entry in found] == [False, True, True]
    assert [entry["loss"] for entry in found] == [entry["loss"] for entry in before]
    weights = [torch.load(path, weights_only=True)["weights_hash"] for path in (OUT, digits.teacher)]
    assert weights[0] == weights[1]


def test_two_runs_of_one_seed_end_in_the_same_weights_and_another_seed_in_others(digits):
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--out", OUT)
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, "--seed", 1, "--out", "other.pt")
    same, other, before = (torch.load(path, weights_only=True) for path in (OUT, "other.pt", digits.teacher))
    assert same["weights_hash"] == before["weights_hash"] != other["weights_hash"]
    assert other["data_fingerprint"] == before["data_fingerprint"]


@pytest.mark.parametrize("command", ["teacher", "student"])
def test_a_loss_that_is_not_finite_names_epoch_and_step_and_leaves_no_result(digits, command):
    arguments = (*chain.DIGITS, "--epochs", 3, "--set", "optimizer.lr=1e30", "--out", OUT)
    if command == "student":
        arguments += ("--cache", digits.cache)
    complaint = chain.dive(command, *arguments).complaint
    assert complaint.startswith(f"dive: {OUT}: the loss is ") and "at epoch 1, step 2;" in complaint
    assert "optimizer.lr" in complaint
    assert not OUT.exists() and not OUT.with_suffix(".json").exists()
    assert list(chain.files_under()) == []


def test_a_loss_that_is_not_finite_later_names_that_epoch_and_step(monkeypatch):
    from dive.method import losses

    real, calls = losses.balanced_softmax, []

    def failing(*arguments):
        calls.append(1)
        return real(*arguments) * (float("nan") if len(calls) == 13 * 2 + 5 else 1)

    monkeypatch.setattr(losses, "balanced_softmax", failing)
    complaint = chain.dive("teacher", *chain.DIGITS, "--epochs", 3, "--out", OUT).complaint
    assert "the loss is nan at epoch 3, step 5;" in complaint
    assert not OUT.exists()
