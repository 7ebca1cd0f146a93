"""Checkpoints and states that somebody else sealed: each is refused in one line, whatever it holds."""

import hashlib
import io
import json
import math
import random
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import chain
import forging
import pytest
import torch

from dive.models import checkpoint
from dive.training import loop

EPOCHS = 3
TEACHER = ("teacher", *chain.DIGITS, "--epochs", EPOCHS)


def seal(path: Path, document: dict[str, Any]) -> None:
    checkpoint.save(path, {key: value for key, value in document.items() if key not in ("format", "version")})


def test_a_pickle_of_lists_a_hundred_thousand_deep_is_refused_in_one_line(digits):
    seal(Path("plain.pt"), checkpoint.load(digits.teacher) | {"device": "HERE"})
    as_text, as_lists = b"X\x04\x00\x00\x00HERE", b"]" * 100_000 + b"a" * 99_999
    buffer = io.BytesIO()
    with zipfile.ZipFile("plain.pt") as plain, zipfile.ZipFile(buffer, "w") as forged:
        for name in plain.namelist():
            content = plain.read(name)
            assert name != "archive/data.pkl" or content.count(as_text) == 1
            forged.writestr(
                name, content.replace(as_text, as_lists) if name.endswith("data.pkl") else content
            )
        forged.comment = b"dive-sha256:" + b"0" * 64
    body = buffer.getvalue()[:-76]
    Path("forged.pt").write_bytes(body + b"dive-sha256:" + hashlib.sha256(body).hexdigest().encode())
    for command in ("inspect", "eval"):
        assert "forged.pt is sealed but" in chain.dive(command, "forged.pt").complaint


@pytest.fixture(scope="module")
def state(tmp_path_factory) -> dict[str, Any]:
    """The state of a run stopped in its third epoch."""
    path = tmp_path_factory.mktemp("state") / "run.pt"
    with pytest.MonkeyPatch.context() as patch, chain.stopped_at(30):
        patch.setattr(loop, "SAVING_SHARE", math.inf)
        assert chain.dive(*TEACHER, "--out", path).code == 130
    return checkpoint.load(path.with_suffix(".state"))


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_forty_forged_checkpoints_are_refused_in_one_line(digits, kind):
    whole = checkpoint.load(getattr(digits, kind))
    for path, document in forging.forgeries(whole, 20, seed=len(kind)):
        seal(Path("forged.pt"), document)
        for command in ("inspect", "eval"):
            complaint = chain.dive(command, "forged.pt").complaint
            assert "forged.pt" in complaint and len(complaint) < 600, (path, complaint)


def test_twenty_forged_states_are_refused_in_one_line(state):
    for path, document in forging.forgeries(state, 20, seed=3):
        seal(Path("run.state"), document)
        outcome = chain.dive("inspect", "run.state")
        assert outcome.code == 0 or "run.state" in outcome.complaint, path
        complaint = chain.dive(*TEACHER, "--out", "run.pt").complaint
        assert "run.state" in complaint and len(complaint) < 600, (path, complaint)
    seal(Path("run.state"), state)
    chain.succeed(*TEACHER, "--out", "run.pt")


def weights_of_other_shapes(state: dict) -> None:
    state["model"] = {name: tensor[:1] if tensor.ndim else tensor for name, tensor in state["model"].items()}


def weights_missing(state: dict) -> None:
    del state["model"]["linear.bias"]


def momentum_of_other_shapes(state: dict) -> None:
    for entry in state["optimizer"]["state"].values():
        entry["momentum_buffer"] = torch.zeros(3)


def momentum_missing(state: dict) -> None:
    state["optimizer"]["state"] = {}


def optimizer_of_text(state: dict) -> None:
    state["optimizer"]["state"][0] = {"momentum_buffer": "x"}


def weights_of_text(state: dict) -> None:
    state["model"]["linear.bias"] = "x"


def history_too_long(state: dict) -> None:
    state["history"] = [{**state["history"][0], "epoch": epoch} for epoch in range(1, 10)]


def history_with_a_gap(state: dict) -> None:
    state["history"] = state["history"][1:]


def precision_unknown(state: dict) -> None:
    state["precision"] = "fp7"


def other_epochs(state: dict) -> None:
    state["epochs"] = 9


SHAPES = [
    weights_of_other_shapes,
    weights_missing,
    weights_of_text,
    momentum_of_other_shapes,
    momentum_missing,
    optimizer_of_text,
    history_too_long,
    history_with_a_gap,
    precision_unknown,
    other_epochs,
]


@pytest.mark.parametrize("change", SHAPES, ids=lambda change: change.__name__)
def test_a_state_that_does_not_fit_its_run_is_refused_in_one_line(state, change):
    copy = dict(state, model=dict(state["model"]))
    groups = [dict(group) for group in state["optimizer"]["param_groups"]]
    moments = {key: dict(value) for key, value in state["optimizer"]["state"].items()}
    copy["optimizer"] = {"state": moments, "param_groups": groups}
    change(copy)
    seal(Path("run.state"), copy)
    assert "run.state" in chain.dive(*TEACHER, "--out", "run.pt").complaint
    assert sorted(chain.files_under()) == ["run.state"]


@pytest.mark.parametrize("content", [b"[" * 100_000, b"9" * 5000, b"{}\n" * 3, b"\xff\xfe", b"nan"])
def test_a_history_that_is_no_history_is_left_alone(content):
    Path("run.history.jsonl").write_bytes(content)
    assert "run.history.jsonl is in the way" in chain.dive(*TEACHER, "--out", "run.pt").complaint
    assert Path("run.history.jsonl").read_bytes() == content


def damages(whole: bytes, count: int, seed: int) -> Iterator[bytes]:
    """Copies with one byte changed, cut short, with more at the end, or with a piece moved."""
    generator = random.Random(seed)
    for number in range(count):
        content = bytearray(whole)
        at = generator.randrange(len(content))
        if number % 4 == 0:
            content[at] ^= generator.randrange(1, 256)
        elif number % 4 == 1:
            del content[at:]
        elif number % 4 == 2:
            content += bytes(generator.randrange(256) for _ in range(1 + at % 50))
        else:
            content[:at] = content[at:] + content[:at][: max(0, at - 1)]
        yield bytes(content)


def resumed(state: bytes, damaged: str, content: bytes, beside: dict[str, bytes]) -> tuple | None:
    """What a run resumed with one damaged file ends in: weights and history, None where it is refused."""
    for path in Path().iterdir():
        path.unlink()
    for name, whole in {"run.state": state, **beside}.items():
        Path(name).write_bytes(content if name == damaged else whole)
    outcome = chain.dive(*TEACHER, "--out", "run.pt")
    if outcome.code:
        assert damaged in outcome.complaint and Path(damaged).read_bytes() == content
        return None
    lines = [json.loads(line) for line in Path("run.history.jsonl").read_text().splitlines()]
    assert json.loads(Path("run.json").read_text())["weights_hash"]
    for line in lines:
        del line["seconds"]
    return checkpoint.load(Path("run.pt"))["weights_hash"], lines


def test_a_hundred_damages_beside_a_stopped_run_are_refused_or_end_in_the_same_result(state, digits):
    """40 to the state, 30 to the record that a kill left, 30 to the history."""
    seal(Path("whole.state"), state)
    whole = Path("whole.state").read_bytes()
    Path("whole.state").unlink()
    beside = {
        "run.json": digits.teacher.with_suffix(".json").read_bytes(),
        "run.history.jsonl": "".join(json.dumps(entry) + "\n" for entry in state["history"]).encode(),
    }
    expected = resumed(whole, "", b"", beside)
    assert expected is not None
    refused = {}
    for name, count in (("run.state", 40), ("run.json", 30), ("run.history.jsonl", 30)):
        content = {"run.state": whole, **beside}[name]
        found = [resumed(whole, name, damaged, beside) for damaged in damages(content, count, seed=count)]
        assert all(one in (None, expected) for one in found)
        refused[name] = found.count(None)
    assert refused["run.state"] == 40
    assert refused["run.history.jsonl"] == 0  # it is written anew from the state
