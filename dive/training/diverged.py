"""The errors for a run that diverged, so that its loss or its logits are not finite."""

from dive.errors import ModelError, TrainingError

_START_OVER = "with --force to start over"


def of_loss(loss: float, epoch: int, step: int) -> TrainingError:
    """The error for the loss of a step (from 0) of an epoch (from 1)."""
    return TrainingError(
        f"the loss is {loss} at epoch {epoch}, step {step + 1}; "
        f"try a smaller optimizer.lr or --precision fp32, {_START_OVER}"
    )


def of_logits(error: ModelError, epoch: int) -> TrainingError:
    """The error for an evaluation after an epoch. error: what the evaluator raised."""
    return TrainingError(f"after epoch {epoch} {error}, {_START_OVER}")
