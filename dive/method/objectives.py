"""Training losses as `torch.nn.Module`s with parameters; `dive.method.losses` has their formulas.

Each is called with logits (B, C), labels (B,) and, for some, further tensors of the batch. It returns the
mean over the batch or, with `reduction="none"`, the loss of each example (B,), in nats.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from torch import nn

from dive.method import losses

REDUCTIONS = ("mean", "none")


class Objective(nn.Module, ABC):
    """The base class of the losses. name: the name of the loss in recipes and records."""

    name: ClassVar[str]

    def __init__(self, reduction: str = "mean") -> None:
        super().__init__()
        if reduction not in REDUCTIONS:
            raise ValueError(f"reduction must be one of {', '.join(REDUCTIONS)}, not {reduction!r}")
        self.reduction = reduction

    @abstractmethod
    def per_example(self, logits: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """The loss of each example: (B,), in nats."""

    def forward(self, logits: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """The mean loss over the batch, a scalar, or with `reduction="none"` that of each example (B,).

        logits: (B, C). labels: (B,) int64.
        """
        each = self.per_example(logits, labels, *more)
        return each if self.reduction == "none" else each.mean()


class LabelObjective(Objective):
    """The base class of the losses that need logits and labels only.

    learns_prior: whether the logits of a network trained with it contain the class prior.
    label_smoothing: the share of each label that is spread evenly over all classes, in [0, 1).
    """

    learns_prior: ClassVar[bool] = False

    def __init__(self, reduction: str = "mean", label_smoothing: float = 0.0) -> None:
        super().__init__(reduction)
        if not 0 <= label_smoothing < 1:
            raise ValueError(f"label_smoothing must be from 0 to below 1, not {label_smoothing!r}")
        self.label_smoothing = label_smoothing

    @classmethod
    def for_counts(cls, class_counts: np.ndarray, label_smoothing: float = 0.0) -> "LabelObjective":
        """The loss for a training set with `class_counts` (C,) images of each class."""
        return cls(label_smoothing=label_smoothing)

    def extra_repr(self) -> str:
        """The parameters that `print` shows."""
        return f"label_smoothing={self.label_smoothing:g}"


class CrossEntropyLoss(LabelObjective):
    """Plain cross-entropy of logits (B, C) against labels (B,), in nats.

    Args:
        reduction: `mean` over the batch, or `none` for the loss of each example.
        label_smoothing: the share of each label that is spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: a parameter is out of range.
    """

    name = "ce"
    learns_prior = True

    def per_example(self, logits: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Cross-entropy of each example, (B,), in nats."""
        return losses.cross_entropy(logits, labels, self.label_smoothing)


class BalancedSoftmaxLoss(LabelObjective):
    """Balanced softmax (BSCE; Ren et al. 2020): cross-entropy of `logits + log n` against labels, in nats.

    It is called with logits (B, C) and labels (B,). n are the class counts. They are for training only: a
    prediction is the argmax of the raw logits.

    Args:
        class_counts: (C,) the training images of each class, at least one each.
        reduction: `mean` over the batch, or `none` for the loss of each example.
        label_smoothing: the share of each label that is spread evenly over all classes, in [0, 1).

    Raises:
        ValueError: a class has no image, or a parameter is out of range.

    Example:
        >>> import dive, torch
        >>> loss = dive.BalancedSoftmaxLoss([900, 90, 10])
        >>> round(loss(torch.zeros(1, 3), torch.tensor([2])).item(), 3)  # log(1000 / 10)
        4.605
    """

    name = "bsce"
    log_counts: torch.Tensor

    def __init__(
        self,
        class_counts: "Sequence[int] | np.ndarray | torch.Tensor",
        reduction: str = "mean",
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__(reduction, label_smoothing)
        self.register_buffer("log_counts", _log_counts(class_counts), persistent=False)

    @classmethod
    def for_counts(cls, class_counts: np.ndarray, label_smoothing: float = 0.0) -> "BalancedSoftmaxLoss":
        """The loss for a training set with `class_counts` (C,) images of each class."""
        return cls(class_counts, label_smoothing=label_smoothing)

    def per_example(self, logits: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """Balanced softmax of each example, (B,), in nats."""
        return losses.balanced_softmax(logits, labels, self.log_counts, self.label_smoothing)


class DiVELoss(Objective):
    """DiVE's student loss (He, Wu, Wei 2021), in nats: (1-w)·BSCE(s, y) + w·τ²·KL(t ‖ softmax(s/τ)).

    It is called with the student's logits s (B, C), labels y (B,) and the teacher's logits z (B, C). BSCE is
    `BalancedSoftmaxLoss`. The target t is softmax(z/τ) raised to the power p and normalised again. The class
    counts do not enter the KL term.

    Args:
        class_counts: (C,) the training images of each class, at least one each.
        tau: temperature τ, above 0.
        power: power normalisation p of the target, in (0, 1].
        weight: weight w of the KL term, in [0, 1].
        student_tau: temperature of the student's softmax in the KL term; `tau` if None. The factor τ² is that
            of `tau` in either case.
        reduction: `mean` over the batch, or `none` for the loss of each example.

    Raises:
        ValueError: a class has no image, or a parameter is out of range.

    Example:
        >>> import dive, torch
        >>> loss = dive.DiVELoss([900, 90, 10], tau=3, power=0.5, weight=0.5)
        >>> student, teacher = torch.zeros(4, 3), torch.randn(4, 3)
        >>> loss(student, torch.tensor([0, 0, 1, 2]), teacher).shape
        torch.Size([])
    """

    name = "dive"
    log_counts: torch.Tensor

    def __init__(
        self,
        class_counts: "Sequence[int] | np.ndarray | torch.Tensor",
        tau: float = 3.0,
        power: float = 0.5,
        weight: float = 0.5,
        student_tau: float | None = None,
        reduction: str = "mean",
    ) -> None:
        super().__init__(reduction)
        own = tau if student_tau is None else student_tau
        for name, value in (("tau", tau), ("student_tau", own)):
            if not 0 < value < np.inf:
                raise ValueError(f"{name} must be above 0 and finite, not {value!r}")
        if not 0 < power <= 1:
            raise ValueError(f"power must be above 0 and at most 1, not {power!r}")
        if not 0 <= weight <= 1:
            raise ValueError(f"weight must be from 0 to 1, not {weight!r}")
        self.tau, self.power, self.weight, self.student_tau = tau, power, weight, own
        self.register_buffer("log_counts", _log_counts(class_counts), persistent=False)

    def per_example(self, logits: torch.Tensor, labels: torch.Tensor, *more: torch.Tensor) -> torch.Tensor:
        """DiVE's loss of each example, (B,), in nats. more: the teacher's logits (B, C)."""
        (teacher_logits,) = more
        return losses.dive(
            logits,
            labels,
            teacher_logits,
            self.log_counts,
            tau=self.tau,
            power=self.power,
            student_tau=self.student_tau,
            weight=self.weight,
        )

    def extra_repr(self) -> str:
        """The parameters that `print` shows."""
        names = ("tau", "power", "weight", "student_tau")
        return ", ".join(f"{name}={getattr(self, name):g}" for name in names)


# Objectives of a teacher, by the name that a recipe gives them.
OF_LABELS: dict[str, type[LabelObjective]] = {
    one.name: one for one in (BalancedSoftmaxLoss, CrossEntropyLoss)
}


def _log_counts(class_counts: Any) -> torch.Tensor:
    """The logarithms of class counts (C,), float32."""
    of_device = isinstance(class_counts, torch.Tensor)
    counts = np.asarray(class_counts.cpu() if of_device else class_counts)
    if counts.ndim != 1 or not len(counts) or not ((counts > 0) & (counts < np.inf)).all():
        raise ValueError(f"class_counts must be one positive number a class, not {class_counts!r}")
    return torch.from_numpy(np.log(counts)).float()
