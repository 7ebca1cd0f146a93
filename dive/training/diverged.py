"""What a run that diverged is told to be, and what to do: its loss or its logits are not finite."""

from dive.errors import ModelError, TrainingError

_START_OVER = "with --force to start over"


def of_loss(loss: float, epoch: int, step: int) -> TrainingError:
    """Of the loss of a step, counted from 0, of an epoch."""
    return TrainingError(
        f"the loss is {loss} at epoch {epoch}, step {step + 1}; "
        f"try a smaller optimizer.lr or --precision fp32, {_START_OVER}"
    )


def of_logits(error: ModelError, epoch: int) -> TrainingError:
    """Of what an evaluation said after an epoch."""
    return TrainingError(f"after epoch {epoch} {error}, {_START_OVER}")
