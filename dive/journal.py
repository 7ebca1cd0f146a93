"""The resumable state of a run, and what stands in its way: a finished result, another run's state."""

import json
from pathlib import Path
from typing import Any

from dive import checkpoint, files
from dive.documents import differences
from dive.errors import CheckpointError, OutputError

Record = dict[str, float | int | None]


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
            state = self._load()
            force = state.get("replaces") == files.file_sha256(self._output)
            if not force and self._led_to_the_result(state):
                self.discard()  # its run was killed between its last two moves
        files.refuse_existing(self._output, force)

    def _led_to_the_result(self, state: dict[str, Any]) -> bool:
        """Whether the finished result's history goes on from the state's, which then is of no more use."""
        try:
            finished = [json.loads(line) for line in self.history_path.read_text().splitlines()]
        except (OSError, ValueError):
            return False
        begun = state.get("history")
        return bool(begun) and begun == finished[: len(begun)]

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

    def remove_stale(self) -> None:
        """Remove half files that a killed process left; to be called by the output's only writer."""
        files.remove_stale(self._output, self.state_path, self.history_path, self.record_path)

    def discard(self) -> None:
        """Remove the resumable state; the history stays."""
        self.state_path.unlink(missing_ok=True)
