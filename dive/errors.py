"""The exceptions that dive raises.

Each message is one line for the user: what is wrong, where, and what to do next. The command line prints it
and exits with `exit_code`; the library neither prints an error nor exits.
"""

from collections.abc import Sequence


class DiveError(Exception):
    """An error that the user can resolve; the base class of the exceptions that dive raises.

    Its subclasses are in `dive.errors`.

    exit_code: the exit status of a command that ends with this error: 2 for a bad recipe or option, else 1.
    """

    exit_code = 1

    @property
    def messages(self) -> tuple[str, ...]:
        """The messages to print, one line each; more than one only for `SeveralErrors`."""
        return (str(self),)


class SeveralErrors(DiveError):
    """Several errors of one command. errors: the exceptions, in order."""

    def __init__(self, errors: Sequence[DiveError]) -> None:
        super().__init__("; ".join(map(str, errors)))
        self.errors = tuple(errors)

    @property
    def messages(self) -> tuple[str, ...]:
        """The messages of all errors, one line each."""
        return tuple(message for error in self.errors for message in error.messages)


def raise_any(errors: Sequence[DiveError]) -> None:
    """Raise the error, or SeveralErrors if there are several; return if there is none."""
    if len(errors) > 1:
        raise SeveralErrors(errors)
    if errors:
        raise errors[0]


class RecipeError(DiveError):
    """A recipe has unknown keys, wrong types or values out of range."""

    exit_code = 2


class OptionError(DiveError):
    """An option is missing, has an invalid value, or contradicts another option."""

    exit_code = 2


class DataError(DiveError):
    """A data set is missing, incomplete or corrupt."""


class ModelError(DiveError):
    """A network is unknown, cannot be built, does not accept its views, or does not fit its weights."""


class CheckpointError(DiveError):
    """A checkpoint is missing, corrupt, or of another model or data set."""


class CacheError(DiveError):
    """A logit cache is missing, incomplete, corrupt, or of another data set or view space."""


class OutputError(DiveError):
    """An output exists already, is being written by another process, or cannot be written."""


class BusyError(OutputError):
    """Another process is writing the output."""


class PeerError(DiveError):
    """Another process of the same command failed and reports the cause, or no longer exists."""


class TrainingError(DiveError):
    """Training cannot continue, for example because the loss is not finite."""
