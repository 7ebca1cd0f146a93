"""The training loop: one for teacher and student; what differs is the loss it is handed.

Data and randomness lie on the device; a step is one gather, one forward and backward, one fused
update. The order and the views of an epoch are functions of (seed, epoch), so a run that is
stopped and started again ends in the weights of one that never was.
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch

from dive import checkpoint, files
from dive.device import Runtime
from dive.errors import CheckpointError, OutputError, TrainingError
from dive.progress import Bar, Progress
from dive.randomness import epoch_order
from dive.recipe import Recipe, differences
from dive.schedule import learning_rate, steps_per_epoch
from dive.views import ViewedImages

SAVING_SHARE = 0.02  # at most this share of the time goes into resumable state

Loss = Callable[[torch.Tensor, torch.Tensor, torch.Tensor], torch.Tensor]
Record = dict[str, float | int | None]


class ViewDraw(Protocol):
    """Draws a view of every sample for an epoch (see `dive.views`)."""

    def draw(self, seed: int, epoch: int, hashes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """View ids and cache columns, each (N,) int64."""


@dataclass(frozen=True)
class Task:
    """What is trained, on what, with which loss.

    labels: (N,) on the device. hashes: (N,) uint64, the samples' random identities. loss: logits
    (B, C), rows (B,), cache columns (B,) to the loss of each example (B,). identity: plain values
    that must be equal for an unfinished run to be gone on with.
    """

    recipe: Recipe
    identity: dict[str, Any]
    model: torch.nn.Module
    images: ViewedImages
    labels: torch.Tensor
    hashes: np.ndarray
    views: ViewDraw
    loss: Loss

    @property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return steps_per_epoch(len(self.hashes), self.recipe.schedule.batch_size)


@dataclass(frozen=True)
class Evaluation:
    """Test accuracy during training, every `every` epochs; 0 leaves it to the end."""

    accuracy: Callable[[torch.nn.Module], float]
    every: int = 0

    def due(self, epoch: int) -> bool:
        """Whether it is due after epoch `epoch` (from 1)."""
        return self.every > 0 and epoch % self.every == 0


class Journal:
    """The resumable state of a run, beside its output: `NAME.state` and `NAME.history.jsonl`.

    The state remembers which finished result the run is to replace (`--force`), so that it can be gone
    on with while that result is still there; until then the result keeps its history.
    """

    def __init__(self, output: Path) -> None:
        if output.suffix != ".pt":
            raise OutputError(f"--out {output} must end in .pt")
        self._output = output
        self.state_path, self.history_path, self.record_path = (
            output.with_name(output.stem + suffix) for suffix in (".state", ".history.jsonl", ".json")
        )

    def refuse_finished(self, force: bool) -> None:
        """Raise OutputError where a finished result would be replaced that nobody asked to replace."""
        if self._output.exists() and not force and self.state_path.exists():
            force = self._load().get("replaces") == files.file_sha256(self._output)
        files.refuse_existing(self._output, force)

    def read(self, identity: dict[str, Any]) -> dict[str, Any] | None:
        """The unfinished run's state, None where there is none.

        Raises OutputError where it is of another recipe, naming the keys that differ.
        """
        if not self.state_path.exists():
            return None
        state = self._load()
        if different := differences(state.get("identity", {}), identity):
            raise OutputError(
                f"{self.state_path} is an unfinished run of another recipe ({'; '.join(different)}); "
                "go on with that recipe, give another --out, or --force to start anew"
            )
        return state

    def _load(self) -> dict[str, Any]:
        try:
            return checkpoint.load(self.state_path)
        except CheckpointError as error:
            raise OutputError(
                f"the state of an unfinished run is damaged ({error}); --force starts anew"
            ) from error

    def write(self, state: dict[str, Any]) -> None:
        """Replace the state and the history, each whole or not at all."""
        replaces = files.file_sha256(self._output)
        checkpoint.save(self.state_path, {"kind": "state", "replaces": replaces, **state})
        if replaces is None:
            self.write_history(state["history"])

    def write_history(self, history: list[Record]) -> None:
        """Replace the history file: one JSON record a line, one line an epoch."""
        files.write_json_lines(self.history_path, history)

    def discard(self) -> None:
        """Remove the resumable state; the history stays."""
        self.state_path.unlink(missing_ok=True)


def make_optimizer(model: torch.nn.Module, recipe: Recipe) -> torch.optim.SGD:
    """SGD with momentum, weight decay on every parameter, one fused update for all of them."""
    o = recipe.optimizer
    return torch.optim.SGD(
        model.parameters(), lr=o.lr, momentum=o.momentum, weight_decay=o.weight_decay, fused=True
    )


def train(
    task: Task,
    runtime: Runtime,
    journal: Journal,
    state: dict[str, Any] | None,
    progress: Progress,
    evaluation: Evaluation,
) -> list[Record]:
    """Train `task.model` to the recipe's last epoch, from `state` if given; return the history.

    Raises TrainingError at a loss that is not finite.
    """
    recipe, model = task.recipe, task.model
    optimizer = make_optimizer(model, recipe)
    history: list[Record] = []
    if state is not None:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        history = list(state["history"])
    epochs, done = recipe.schedule.epochs, len(history)
    pace = _SavingPace()
    total, before = epochs * task.steps_per_epoch, done * task.steps_per_epoch
    with progress.bar(task.identity["kind"], total, before) as bar:
        for epoch in range(done + 1, epochs + 1):
            last_loss = history[-1]["loss"] if history else math.nan
            record = _run_epoch(task, runtime, optimizer, epoch, last_loss, bar)
            if evaluation.due(epoch):
                record["test_accuracy"] = evaluation.accuracy(model)
            history.append(record)
            if epoch < epochs and pace.due():
                with pace:
                    journal.write(_state(task, runtime, optimizer, history))
    return history


def _state(
    task: Task, runtime: Runtime, optimizer: torch.optim.Optimizer, history: list[Record]
) -> dict[str, Any]:
    return {
        "identity": task.identity,
        "model": task.model.state_dict(),
        "optimizer": optimizer.state_dict(),
        "history": history,
        "precision": runtime.precision,
        "threads": torch.get_num_threads(),
    }


def _run_epoch(
    task: Task,
    runtime: Runtime,
    optimizer: torch.optim.Optimizer,
    epoch: int,
    last_loss: float,
    bar: Bar,
) -> Record:
    """One pass over the samples. Nothing waits for the device before the epoch's end, but on a CPU.

    last_loss: what the bar shows while the loss of the epoch is not known, on a GPU.
    """
    recipe, device, size = task.recipe, runtime.device, task.recipe.schedule.batch_size
    start = time.perf_counter()
    order = epoch_order(recipe.seed, epoch, task.hashes)
    ids, columns = task.views.draw(recipe.seed, epoch, task.hashes)
    plan = torch.from_numpy(np.stack([order, ids[order], columns[order]])).to(device)  # (3, N)
    losses = torch.zeros(task.steps_per_epoch, device=device)
    correct = torch.zeros((), dtype=torch.int64, device=device)
    first_step = (epoch - 1) * task.steps_per_epoch
    rate = 0.0
    task.model.train()
    for step, (rows, view_ids, cache_columns) in enumerate(zip(*(p.split(size) for p in plan), strict=True)):
        rate = learning_rate(first_step + step, task.steps_per_epoch, recipe.optimizer, recipe.schedule)
        for group in optimizer.param_groups:
            group["lr"] = rate
        with runtime.autocast():
            logits = task.model(task.images.batch(rows, view_ids))
        loss = task.loss(logits, rows, cache_columns).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses[step] = loss.detach()
        correct += (logits.detach().argmax(dim=1) == task.labels[rows]).sum()
        if device.type == "cpu":
            _require_finite(losses[: step + 1], epoch)
            last_loss = losses[step].item()
        bar.advance(1, f"epoch {epoch} · loss {last_loss:.3f} · lr {rate:.3g}")
    _require_finite(losses, epoch)
    sizes = torch.full_like(losses, size)
    sizes[-1] = len(task.hashes) - size * (task.steps_per_epoch - 1)
    return {
        "epoch": epoch,
        "loss": float((losses * sizes).sum() / len(task.hashes)),
        "lr": rate,
        "seconds": round(time.perf_counter() - start, 3),
        "train_accuracy": int(correct) / len(task.hashes),
    }


def _require_finite(losses: torch.Tensor, epoch: int) -> None:
    """Raise TrainingError naming the first step of the epoch whose loss is not finite."""
    if not math.isfinite(losses.sum().item()):
        step = int((~torch.isfinite(losses)).int().argmax()) + 1
        raise TrainingError(
            f"the loss is {losses[step - 1].item()} at epoch {epoch}, step {step}; "
            "try a smaller optimizer.lr or --precision fp32, with --force to start anew"
        )


class _SavingPace:
    """Saves often, but spends no more than SAVING_SHARE of the time on it."""

    def __init__(self) -> None:
        self._cost, self._last = 0.0, time.monotonic()

    def due(self) -> bool:
        return time.monotonic() - self._last >= self._cost / SAVING_SHARE

    def __enter__(self) -> None:
        self._last = time.monotonic()

    def __exit__(self, *_: object) -> None:
        now = time.monotonic()
        self._cost, self._last = now - self._last, now
