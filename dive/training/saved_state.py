"""The resumable state of a run, and the checks for files in its way: results, and states of other runs."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from dive import files, outputs
from dive import structure as s
from dive.errors import CheckpointError, OutputError, RecipeError
from dive.models import checkpoint
from dive.recipe.documents import differences
from dive.recipe.earlier import upgraded
from dive.recipe.reading import build
from dive.recipe.records import EPOCH, OF_SOME_EPOCHS, WORLDS, fault_of
from dive.versions import versions

_STATE: dict[str, s.Check] = {
    "kind": s.one_of("state"),
    "replaces": s.or_none(s.text),
    "identity/kind": s.one_of("teacher", "student"),
    "identity/loss": s.text,
    "identity/data_fingerprint": s.text,
    "identity/recipe/name": s.text,
    "identity/recipe/data": s.mapping,
    "history": s.list_of(s.record_of(EPOCH, OF_SOME_EPOCHS)),
    "epochs": s.whole(1),
    "precision": s.one_of("fp32", "tf32", "bf16"),
    "threads": s.whole(1, 2**15),
    "versions": s.mapping,
}


def _is_history(path: Path) -> bool:
    try:
        entries = files.read_json_lines(path)
    except (OSError, ValueError):
        return False
    return not any(s.fault_of(entry, EPOCH, OF_SOME_EPOCHS) for entry in entries)


def _is_record(path: Path) -> bool:
    try:
        document = files.read_json(path)
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and not fault_of(upgraded(document))


HISTORY = outputs.Kind("the history of a run", _is_history)
_ANY_HISTORY = outputs.Kind(HISTORY.name, lambda _: True)
RECORD = outputs.Kind("the record of a run", _is_record)
STATE = outputs.Kind("the state of a run", checkpoint.is_own)


@dataclass(frozen=True)
class EpochRecord:
    """The record of an epoch.

    epoch: from 1. loss: the mean over the samples, in nats. lr: that of the last step. seconds: from the
    beginning of the epoch to the end of its last step, without evaluation and saving. train_accuracy: on the
    augmented views, during training. test_accuracy, val_accuracy: None if the epoch was not evaluated on that
    set. image_wait: seconds that the device waited for images, None if they are not streamed.
    """

    epoch: int
    loss: float
    lr: float
    seconds: float
    train_accuracy: float
    test_accuracy: float | None = None
    val_accuracy: float | None = None
    image_wait: float | None = None

    def as_dict(self) -> dict[str, Any]:
        """The record as plain values, without those that are None."""
        return {key: value for key, value in asdict(self).items() if value is not None}


_OF_AN_EPOCH = {field.name for field in fields(EpochRecord)}
ALONE = {"worlds": [[1, 1]]}  # of a state that has no worlds: one process from epoch 1
Listener = Callable[[Sequence[EpochRecord]], None]  # called with the history of a run so far


@dataclass(frozen=True)
class SavedState:
    """The state of a run after its last saved epoch.

    identity: that of the run (see `RunSpec`). model, optimizer: their state dicts. history: the record of
    each epoch done. epochs: the number of epochs of the whole run. precision, threads: those that it ran
    with. worlds: pairs of an epoch and the number of processes from that epoch on. versions: those of dive
    and of the libraries that it ran with.
    """

    identity: dict[str, Any]
    model: dict[str, Any]
    optimizer: dict[str, Any]
    history: list[EpochRecord]
    epochs: int
    precision: str
    threads: int
    worlds: list[list[int]]
    versions: dict[str, str] = field(default_factory=versions)

    def document(self) -> dict[str, Any]:
        """The state as the mapping that its file contains."""
        return {**vars(self), "history": [epoch.as_dict() for epoch in self.history]}

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> "SavedState":
        """The state from a document in which `fault_of_state` finds no fault."""
        given = {f.name: {**ALONE, **document}[f.name] for f in fields(cls)}
        return cls(**given | {"history": [EpochRecord(**epoch) for epoch in document["history"]]})


class Journal:
    """The resumable state of a run, beside its output: `NAME.state` and `NAME.history.jsonl`.

    The state contains the hash of the finished result that the run will replace (`--force`), so that the
    run can be resumed while that result still exists. The history file stays that of the result until the
    run is finished. Of the files beside the output, only those that dive wrote are ever replaced.
    """

    def __init__(self, output: Path) -> None:
        outputs.require_suffix(output, (".pt",))
        self._output = output
        self.state_path, self.history_path, self.record_path = (
            output.with_name(output.stem + suffix) for suffix in (".state", ".history.jsonl", ".json")
        )

    def refuse_finished(self, force: bool, inputs: Iterable[Path] = ()) -> None:
        """Raise OutputError if a finished result would be replaced without `force`.

        Raise it also if the output, or a file that the run writes beside it, was not written by dive or is
        one of `inputs`, which the run reads.
        """
        inputs = tuple(inputs)
        self._refuse_inputs(inputs)
        outputs.refuse_foreign(self.state_path, STATE)
        if self._output.exists() and not force and self.state_path.exists():
            force = self.replaces_result()
            if not force and self._led_to_the_result(self._load()):
                self.discard()  # its run was killed before it could remove it
        outputs.refuse_existing(self._output, force, checkpoint.KIND)
        outputs.refuse_foreign(self.record_path, RECORD)
        # A history beside the state of a run belongs to that run, which rewrites it even if it is damaged.
        outputs.refuse_foreign(self.history_path, _ANY_HISTORY if self.state_path.exists() else HISTORY)

    def replaces_result(self) -> bool:
        """Whether there is a state, written when the output was as it is now: the same file, or none."""
        return self.state_path.exists() and self._load()["replaces"] == files.file_sha256(self._output)

    def _refuse_inputs(self, inputs: tuple[Path, ...]) -> None:
        for path in (self._output, self.state_path, self.record_path, self.history_path):
            for one in inputs:
                if path.exists() and one.exists() and path.samefile(one):
                    raise OutputError(
                        f"--out {self._output} would replace {one}, which the run reads; give another --out"
                    )

    def _led_to_the_result(self, state: dict[str, Any]) -> bool:
        """Whether the finished result came from this state, so that the state is of no more use.

        It did if the history of the result begins with that of the state. A state without an epoch
        (`announce`) is of no more use once the output is not the file that its run was to replace.
        """
        if not state["history"]:
            return bool(state["replaces"] != files.file_sha256(self._output))
        try:
            finished = files.read_json_lines(self.history_path)
        except (OSError, ValueError):
            return False
        begun = state["history"]
        return bool(begun == finished[: len(begun)])

    def read(self, identity: dict[str, Any]) -> SavedState | None:
        """The state of the stopped run; None if there is none, or if it has no epoch (`announce`).

        Raises OutputError if its identity is another one, naming the keys that differ.
        """
        if not self.state_path.exists():
            return None
        state = self._load()
        if different := differences(state["identity"], identity):
            if not state["history"]:
                raise OutputError(
                    f"{self._output} is to be replaced by another run ({'; '.join(different)}), begun with "
                    f"--force; finish that run, remove {self.state_path} to keep the present result, or give "
                    "--force to replace it by this run"
                )
            raise OutputError(
                f"{self.state_path} is an unfinished run of another recipe ({'; '.join(different)}); "
                "resume it with that recipe, give another --out, or --force to start over"
            )
        return SavedState.of(state) if state["history"] else None

    def _load(self) -> dict[str, Any]:
        try:
            state = checkpoint.load(self.state_path)
        except CheckpointError as error:
            raise OutputError(
                f"the unfinished run cannot be resumed: {error}; --force starts over"
            ) from error
        if fault := fault_of_state(state):
            raise OutputError(
                f"{self.state_path} is sealed but not the state of a run as dive writes it: {fault}; "
                "--force starts over"
            )
        return state

    def write(self, state: SavedState) -> None:
        """Replace the state and, unless it is that of a result, the history; each whole or not at all."""
        replaces = files.file_sha256(self._output)
        checkpoint.save(self.state_path, {"kind": "state", "replaces": replaces, **state.document()})
        if replaces is None:
            self.write_history(state.history)

    def announce(self, identity: dict[str, Any], epochs: int) -> None:
        """Before a run begins, record in a state that it will replace the present result, if there is one.

        If a command that was begun with --force is resumed, this shows which results are still to be
        replaced. epochs: the number of epochs of the whole run.
        """
        if self._output.exists():  # precision, threads and worlds are placeholders that are never read
            self.write(SavedState(identity, {}, {}, [], epochs, "fp32", threads=1, worlds=[[1, 1]]))

    def withdraw(self) -> None:
        """Remove what `announce` wrote, if the run has failed before an epoch of it was saved."""
        if self.state_path.exists() and not self._load()["history"]:
            self.discard()

    def write_history(self, history: list[EpochRecord]) -> None:
        """Replace the history file: JSON Lines, one epoch per line."""
        files.write_json_lines(self.history_path, [epoch.as_dict() for epoch in history])

    def write_result(
        self, history: list[EpochRecord], record: Mapping[str, Any], weights: Mapping[str, Any]
    ) -> None:
        """Replace history, record and checkpoint, or none if the disk is full; then remove the state."""
        lines = b"".join(files.json_text(epoch.as_dict()) for epoch in history)
        files.write_together(
            (
                (self.history_path, lines),
                (self.record_path, files.json_text(record, indent=2)),
                (self._output, checkpoint.sealed({**record, "model": weights})),
            )
        )
        self.discard()

    def remove_stale(self) -> None:
        """Remove temporary files of a killed process; only the process with the lock may call it."""
        files.remove_stale(self._output, self.state_path, self.history_path, self.record_path)

    def tidy(self) -> None:
        """Remove what a killed run left beside its finished result: temporary files and the state.

        The state stays if it is damaged, or if the result did not come from it.
        """
        self.remove_stale()
        with suppress(OutputError):
            if self.state_path.exists() and self._led_to_the_result(self._load()):
                self.discard()

    def discard(self) -> None:
        """Remove the resumable state; the history stays."""
        self.state_path.unlink(missing_ok=True)


def worlds_with(worlds: Sequence[Sequence[int]], epoch: int, size: int) -> list[list[int]]:
    """The `worlds` of a run that `size` processes continue from `epoch` on.

    Each entry is an epoch and the number of processes from that epoch on.

    >>> worlds_with([[1, 4]], 31, 2), worlds_with([[1, 4]], 31, 4), worlds_with([[1, 4], [31, 2]], 31, 1)
    ([[1, 4], [31, 2]], [[1, 4]], [[1, 4], [31, 1]])
    """
    before = [list(entry) for entry in worlds if entry[0] < epoch]
    return before if before and before[-1][1] == size else [*before, [epoch, size]]


def fault_of_state(state: dict[str, Any]) -> str:
    """The first fault of a state's document in a few words, or an empty string if it has none."""
    plain = {key: value for key, value in state.items() if key not in ("model", "optimizer")}
    if fault := s.fault_of(plain, _STATE, {"worlds": WORLDS}):
        return fault
    try:
        build(state["identity"]["recipe"], where="its recipe")
    except RecipeError as error:
        return str(error)
    if more := sorted({key for entry in state["history"] for key in entry.keys() - _OF_AN_EPOCH}):
        return f"its history has {', '.join(more)}, which this version of dive does not know"
    epochs = [entry["epoch"] for entry in state["history"]]
    if epochs != list(range(1, len(epochs) + 1)) or len(epochs) > state["epochs"]:
        return "its history has gaps or is too long"
    for key in ("model", "optimizer"):
        if not isinstance(state.get(key), dict):
            return f"it has no {key}"
    return ""
