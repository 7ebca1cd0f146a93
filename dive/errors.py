"""The errors dive raises on purpose.

Each message is one line for a person: what is wrong, where, and what to do next. The command
line prints it and exits with `exit_code`; nothing else in the package prints or exits.
"""

from collections.abc import Sequence


class DiveError(Exception):
    """Something the user can mend. Base of all errors dive raises on purpose."""

    exit_code = 1

    @property
    def messages(self) -> tuple[str, ...]:
        """What to tell, one line each."""
        return (str(self),)


class SeveralErrors(DiveError):
    """Several things went wrong in one command, each told on a line of its own."""

    def __init__(self, errors: Sequence[DiveError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)

    @property
    def messages(self) -> tuple[str, ...]:
        """What to tell, one line each."""
        return tuple(message for error in self.errors for message in error.messages)


def raise_any(errors: Sequence[DiveError]) -> None:
    """Raise the error, or SeveralErrors where there are several; nothing where there is none."""
    if len(errors) > 1:
        raise SeveralErrors(errors)
    if errors:
        raise errors[0]


class RecipeError(DiveError):
    """A recipe has unknown keys, wrong types or values out of range."""

    exit_code = 2


class OptionError(DiveError):
    """An option has a value that it does not take, is missing, or does not go with the others."""

    exit_code = 2


class DataError(DiveError):
    """A data set is missing, incomplete or corrupt."""


class ModelError(DiveError):
    """There is no such network, it cannot be built or take its views, or weights do not fit it."""


class CheckpointError(DiveError):
    """A checkpoint is missing, corrupt or of another model or data set."""


class CacheError(DiveError):
    """A logit cache is missing, incomplete, corrupt or of another data set or view space."""


class OutputError(DiveError):
    """A result exists already, is being written by another process, or cannot be written."""


class BusyError(OutputError):
    """Another process is writing the result."""


class PeerError(DiveError):
    """Another process of the command failed, which tells why, or is gone."""


class TrainingError(DiveError):
    """Training cannot go on, for example because the loss is not finite."""
