"""The losses, per example; callers reduce them.

Formulas from He, Wu, Wei, "Distilling virtual examples for long-tailed recognition" (ICCV 2021),
and Ren et al., "Balanced meta-softmax" (NeurIPS 2020). They are computed in float32 for any precision of
the network; the KL term is computed in float64 at temperatures from `EXACT_FROM` on.
"""

import torch
from torch.nn import functional as F

# The KL is of the order of 1/τ² but a difference of logarithms of the order of 1: float32 has no digits left.
EXACT_FROM = 1000.0


def cross_entropy(logits: torch.Tensor, labels: torch.Tensor, label_smoothing: float = 0.0) -> torch.Tensor:
    """Cross-entropy of logits (B, C) against labels (B,): (B,), in nats.

    label_smoothing: the share ε of each label that is spread evenly over all classes, in [0, 1): the target
    is (1-ε)·e_y + ε/C (Szegedy et al. 2016).
    """
    return F.cross_entropy(logits.float(), labels, reduction="none", label_smoothing=label_smoothing)


def balanced_softmax(
    logits: torch.Tensor, labels: torch.Tensor, log_counts: torch.Tensor, label_smoothing: float = 0.0
) -> torch.Tensor:
    """Balanced softmax (BSCE): cross-entropy of `logits + log n` against labels: (B,), in nats.

    log_counts: (C,), the logarithm of each class's training images. The prior is for training only; a
    prediction is the argmax of the raw logits. label_smoothing: as in `cross_entropy`.
    """
    adjusted = logits.float() + log_counts
    return F.cross_entropy(adjusted, labels, reduction="none", label_smoothing=label_smoothing)


def virtual_example_log_target(
    teacher_logits: torch.Tensor, tau: float, power: float, dtype: torch.dtype = torch.float32
) -> torch.Tensor:
    """Log of DiVE's target: softmax(z/τ), to the power p, normalised again: (B, C), computed in `dtype`.

    That is softmax(p·z/τ): taking the power scales the logarithms, and normalising again removes
    the constant.
    """
    return F.log_softmax(teacher_logits.to(dtype) * (power / tau), dim=-1)


def kl_divergence(log_target: torch.Tensor, logits: torch.Tensor, tau: float) -> torch.Tensor:
    """KL(t ‖ softmax(s/τ)) summed over classes: (B,), in nats, without a prior on the student's logits.

    It is computed in the dtype of the target.
    """
    log_student = F.log_softmax(logits.to(log_target.dtype) / tau, dim=-1)
    return (log_target.exp() * (log_target - log_student)).sum(dim=-1)


def dive(
    logits: torch.Tensor,
    labels: torch.Tensor,
    teacher_logits: torch.Tensor,
    log_counts: torch.Tensor,
    *,
    tau: float,
    power: float,
    student_tau: float,
    weight: float,
) -> torch.Tensor:
    """The student's loss: (1-w)·BSCE(s, y) + w·τ²·KL(t ‖ softmax(s/τ_student)): (B,), in nats.

    τ in the factor τ² (Hinton et al. 2015) is the teacher's, also if the student's differs, so that the scale
    of the term does not change when only the student's temperature is varied.
    """
    labelled = balanced_softmax(logits, labels, log_counts)
    dtype = torch.float64 if max(tau, student_tau) >= EXACT_FROM else torch.float32
    target = virtual_example_log_target(teacher_logits, tau, power, dtype)
    distilled = weight * tau**2 * kl_divergence(target, logits, student_tau)
    return (1 - weight) * labelled + distilled.float()
