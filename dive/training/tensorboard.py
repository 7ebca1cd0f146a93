"""Event files for TensorBoard, an optional dependency: scalars per epoch, recipe and hyperparameters."""

import contextlib
import importlib
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from dive.errors import DiveError, OutputError
from dive.printable import printable
from dive.training.loop import Run
from dive.training.saved_state import EpochRecord
from dive.training.spec import RunSpec
from dive.world import this_world

# The values in the record of an epoch, and their tags in TensorBoard.
TAGS = {
    "loss": "loss",
    "lr": "lr",
    "seconds": "seconds",
    "train_accuracy": "accuracy/train",
    "val_accuracy": "accuracy/val",
    "test_accuracy": "accuracy/test",
    "image_wait": "image_wait",
}


def require_tensorboard() -> None:
    """Raise DiveError, with the pip command, if TensorBoard cannot be imported."""
    try:
        importlib.import_module("torch.utils.tensorboard")
    except ImportError as error:
        raise DiveError(
            f"--tensorboard needs tensorboard, which cannot be imported ({error}); "
            "pip install 'dive-longtail[tensorboard]'"
        ) from error


@contextlib.contextmanager
def logged(runs: Sequence[Run], folder: Path | None) -> Iterator[None]:
    """Within it, each run writes its history to <folder>/<recipe>/<name of its checkpoint>/.

    Nothing is written if `folder` is None, and only the first of several processes writes. Raises OutputError
    if a folder cannot be written to.
    """
    with contextlib.ExitStack() as logs:
        if folder is not None and this_world().first:
            for run in runs:
                place = folder / run.spec.recipe["name"] / run.spec.out.stem
                log = TensorBoard(place, run.spec, run.history)
                logs.callback(log.close)
                run.listeners.append(log)
        yield


class TensorBoard:
    """Writes the history of a run into a folder of event files, as a listener of the run.

    A run that is resumed or started over writes its whole history again, after a mark (`purge_step`) at which
    readers discard what came before. No epoch is then there twice, and none is missing if the run began
    without TensorBoard.
    """

    def __init__(self, folder: Path, spec: RunSpec, begun: Sequence[EpochRecord]) -> None:
        from torch.utils.tensorboard import SummaryWriter
        from torch.utils.tensorboard.summary import hparams

        self._written: set[tuple[int, str]] = set()
        self._writer: Any  # torch declares that its file_writer is None
        try:
            self._writer = SummaryWriter(str(folder), purge_step=0)
        except OSError as error:
            raise OutputError(f"--tensorboard: cannot write to {folder}: {error.strerror}") from error
        recipe = json.dumps(spec.recipe, indent=2, ensure_ascii=False).splitlines()
        # Markdown shows lines that are indented by four spaces unchanged.
        self._writer.add_text("recipe", "\n".join(f"    {printable(line)}" for line in recipe), 0)
        parameters = {"loss": spec.facts["loss"], **_parameters(spec.recipe)}
        for summary in hparams(parameters, {TAGS["test_accuracy"]: 0.0}):
            self._writer.file_writer.add_summary(summary, 0)
        at = time.time() - sum(epoch.seconds for epoch in begun)
        for epoch in begun:
            at += epoch.seconds
            self._write(epoch, at)

    def __call__(self, history: Sequence[EpochRecord]) -> None:
        """Write the values of the last epoch of a history that are not written yet."""
        self._write(history[-1], time.time())
        self._writer.flush()

    def _write(self, epoch: EpochRecord, at: float) -> None:
        """Write the scalars of an epoch that are not written yet. at: their time, in seconds since 1970."""
        values = epoch.as_dict()
        for key, tag in TAGS.items():
            if key in values and (epoch.epoch, key) not in self._written:
                self._written.add((epoch.epoch, key))
                self._writer.add_scalar(tag, values[key], epoch.epoch, at)

    def close(self) -> None:
        """Flush and close the file."""
        self._writer.close()


def _parameters(recipe: Mapping[str, Any], prefix: str = "") -> dict[str, bool | int | float | str]:
    """The keys of a recipe with a single value, dotted, for TensorBoard's comparison of runs."""
    found: dict[str, bool | int | float | str] = {}
    for key, value in recipe.items():
        if isinstance(value, Mapping):
            found |= _parameters(value, f"{prefix}{key}.")
        elif isinstance(value, bool | int | float):
            found[prefix + key] = value
        elif isinstance(value, str):
            found[prefix + key] = printable(value)
    return found
