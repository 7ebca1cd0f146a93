"""Objectives as modules: against the functions, against float64 from the formulas, and what they refuse."""

import copy
import re

import numpy as np
import pytest
import torch
from test_losses import CLOSE, Batch, log_softmax

from dive.method import losses
from dive.method.objectives import OF_LABELS, BalancedSoftmaxLoss, CrossEntropyLoss, DiVELoss

SETTINGS = [  # τ, p, w, the student's τ
    (3.0, 0.5, 0.5, None),
    (6.0, 1.0, 0.3, None),
    (2.0, 0.25, 0.7, 5.0),
    (0.5, 1.0, 1.0, 2.0),
    (3.0, 0.5, 0.0, None),
]


@pytest.fixture
def batch() -> Batch:
    """Student and teacher logits of a hundred classes, 500 to 5 images in each."""
    return Batch()


def tensors(batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Student logits, labels and teacher logits."""
    student, teacher = (torch.from_numpy(z).float() for z in (batch.student, batch.teacher))
    return student, torch.from_numpy(batch.labels), teacher


def log_counts(batch: Batch) -> torch.Tensor:
    return torch.from_numpy(np.log(batch.counts)).float()


def cross_entropy(batch: Batch) -> np.ndarray:
    """-log softmax(s)_y"""
    return -log_softmax(batch.student)[np.arange(len(batch.labels)), batch.labels]


@pytest.mark.parametrize(("tau", "power", "weight", "student_tau"), SETTINGS)
def test_dives_loss_is_the_function_to_the_bit_and_the_formula_in_float64(
    batch, tau, power, weight, student_tau
):
    own = tau if student_tau is None else student_tau
    given = {"tau": tau, "power": power, "weight": weight, "student_tau": student_tau}
    student, labels, teacher = tensors(batch)
    found = DiVELoss(batch.counts, **given, reduction="none")(student, labels, teacher)
    settings = {"tau": tau, "power": power, "student_tau": own, "weight": weight}
    assert torch.equal(found, losses.dive(student, labels, teacher, log_counts(batch), **settings))
    expected = batch.dive(tau, power, own, weight)
    np.testing.assert_allclose(found.numpy(), expected, **CLOSE)
    mean = DiVELoss(batch.counts, **given)(student, labels, teacher)
    assert mean.shape == () and mean.item() == pytest.approx(expected.mean(), rel=1e-5)


def test_dives_loss_is_the_papers_where_nothing_else_is_said(batch):
    student, labels, teacher = tensors(batch)
    found = DiVELoss(batch.counts)(student, labels, teacher)
    assert found.item() == pytest.approx(batch.dive(3, 0.5, 3, 0.5).mean(), rel=1e-5)


def test_the_gradient_of_dives_loss_is_that_of_the_formula(batch):
    student, labels, teacher = tensors(batch)
    student.requires_grad_()
    DiVELoss(batch.counts, 2.0, 0.25, 0.7, 5.0)(student, labels, teacher).backward()
    expected = batch.gradient(2.0, 0.25, 5.0, 0.7) / len(batch.labels)
    np.testing.assert_allclose(student.grad.numpy(), expected, rtol=1e-5, atol=1e-6)


def test_balanced_softmax_is_the_function_to_the_bit_and_the_formula_in_float64(batch):
    student, labels, _ = tensors(batch)
    found = BalancedSoftmaxLoss(batch.counts, reduction="none")(student, labels)
    assert torch.equal(found, losses.balanced_softmax(student, labels, log_counts(batch)))
    np.testing.assert_allclose(found.numpy(), batch.bsce(), **CLOSE)
    mean = BalancedSoftmaxLoss(batch.counts)(student, labels)
    assert mean.shape == () and mean.item() == pytest.approx(batch.bsce().mean(), rel=1e-5)


def test_cross_entropy_is_the_function_to_the_bit_and_the_formula_in_float64(batch):
    student, labels, _ = tensors(batch)
    found = CrossEntropyLoss(reduction="none")(student, labels)
    assert torch.equal(found, losses.cross_entropy(student, labels))
    np.testing.assert_allclose(found.numpy(), cross_entropy(batch), **CLOSE)
    mean = CrossEntropyLoss()(student, labels)
    assert mean.shape == () and mean.item() == pytest.approx(cross_entropy(batch).mean(), rel=1e-5)


def test_a_recipes_losses_are_found_by_name_for_class_counts(batch):
    student, labels, _ = tensors(batch)
    found = {name: one.for_counts(batch.counts)(student, labels).item() for name, one in OF_LABELS.items()}
    expected = {"bsce": batch.bsce().mean(), "ce": cross_entropy(batch).mean()}
    assert found == pytest.approx(expected, rel=1e-5)
    assert all(one.name == name for name, one in OF_LABELS.items()) and DiVELoss.name == "dive"


def test_a_recipes_losses_smooth_labels(batch):
    student, labels, _ = tensors(batch)
    smoothed = 0.75 * np.eye(len(batch.counts))[batch.labels] + 0.25 / len(batch.counts)
    for name, prior in (("bsce", np.log(batch.counts)), ("ce", 0.0)):
        found = OF_LABELS[name].for_counts(batch.counts, 0.25)(student, labels)
        expected = -(smoothed * log_softmax(batch.student + prior)).sum(axis=1).mean()
        assert found.item() == pytest.approx(expected, rel=1e-5)
        plain = OF_LABELS[name].for_counts(batch.counts)(student, labels)
        assert torch.equal(plain, OF_LABELS[name].for_counts(batch.counts, 0.0)(student, labels))
        assert not torch.equal(plain, found)


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan")])
def test_a_smoothing_out_of_its_range_is_refused(value):
    for made in (
        lambda: CrossEntropyLoss(label_smoothing=value),
        lambda: BalancedSoftmaxLoss([2, 1], label_smoothing=value),
    ):
        with pytest.raises(ValueError, match=f"label_smoothing must be from 0 to below 1, not {value!r}"):
            made()


@pytest.mark.parametrize(
    "counts",
    [[900, 90, 10], (900, 90, 10), np.array([900, 90, 10]), torch.tensor([900, 90, 10])],
    ids=["list", "tuple", "array", "tensor"],
)
@pytest.mark.parametrize("objective", [BalancedSoftmaxLoss, DiVELoss])
def test_class_counts_come_in_any_form(objective, counts):
    expected = torch.tensor([900.0, 90.0, 10.0], dtype=torch.float64).log().float()
    torch.testing.assert_close(objective(counts).log_counts, expected, rtol=0, atol=1e-7)


class OfGpu(torch.Tensor):
    """A tensor that NumPy cannot read where it lies, as it cannot those of a GPU."""

    def cpu(self) -> torch.Tensor:
        return self.as_subclass(torch.Tensor)

    def __array__(self, *_: object, **__: object) -> np.ndarray:
        raise TypeError("can't convert cuda:0 device type tensor to numpy")


@pytest.mark.parametrize("objective", [BalancedSoftmaxLoss, DiVELoss])
def test_class_counts_may_lie_on_a_gpu(objective):
    counts = torch.tensor([900, 90, 10])
    assert torch.equal(objective(counts.as_subclass(OfGpu)).log_counts, objective(counts).log_counts)


@pytest.mark.parametrize("counts", [[3, 0, 1], [3, -1, 1], [[3, 2], [1, 1]], 5, [], [1, float("inf")]])
@pytest.mark.parametrize("objective", [BalancedSoftmaxLoss, DiVELoss])
def test_counts_that_are_not_one_positive_number_a_class_are_refused(objective, counts):
    with pytest.raises(ValueError, match="class_counts must be one positive number a class, not "):
        objective(counts)


NAN, INFINITY = float("nan"), float("inf")
WRONG = {
    "tau": (0, -1, NAN, INFINITY),
    "power": (0, -0.5, 1.0001, 2, NAN),
    "weight": (-0.1, 1.1, NAN),
    "student_tau": (0, -3, NAN, INFINITY),
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in WRONG for value in WRONG[name]])
def test_a_parameter_out_of_its_range_is_refused_by_its_name(name, value):
    with pytest.raises(ValueError, match=rf"^{name} must be .*{re.escape(repr(value))}$"):
        DiVELoss([3, 2, 1], **{name: value})


@pytest.mark.parametrize(("name", "value"), [("power", 1), ("weight", 0), ("weight", 1), ("tau", 1e-3)])
def test_the_ends_of_a_range_are_in_it(batch, name, value):
    student, labels, teacher = tensors(batch)
    assert DiVELoss(batch.counts, **{name: value})(student, labels, teacher).isfinite()


@pytest.mark.parametrize("reduction", ["sum", "", None])
def test_another_reduction_is_refused_naming_those_there_are(reduction):
    for made in (
        lambda: CrossEntropyLoss(reduction),
        lambda: BalancedSoftmaxLoss([2, 1], reduction),
        lambda: DiVELoss([2, 1], reduction=reduction),
    ):
        with pytest.raises(ValueError, match=f"reduction must be one of mean, none, not {reduction!r}"):
            made()


def test_an_objective_moves_and_is_copied_as_modules_are_and_adds_nothing_to_a_state(batch):
    student, labels, teacher = tensors(batch)
    objective = DiVELoss(batch.counts, tau=2, power=0.5, weight=0.25)
    expected = objective(student, labels, teacher)
    assert torch.equal(copy.deepcopy(objective)(student, labels, teacher), expected)
    assert objective.state_dict() == {} and list(objective.parameters()) == []
    assert BalancedSoftmaxLoss(batch.counts).state_dict() == {}
    assert objective.to("meta").log_counts.device.type == "meta"


def test_an_objective_shows_its_parameters():
    shown = repr(DiVELoss([2, 1], tau=3, power=0.5, weight=0.25))
    assert shown == "DiVELoss(tau=3, power=0.5, weight=0.25, student_tau=3)"
    assert repr(CrossEntropyLoss(label_smoothing=0.1)) == "CrossEntropyLoss(label_smoothing=0.1)"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_logits_of_low_precision_are_computed_with_in_float32(batch, dtype):
    student, labels, teacher = tensors(batch)
    for objective, more in (
        (DiVELoss(batch.counts), (teacher,)),
        (BalancedSoftmaxLoss(batch.counts), ()),
        (CrossEntropyLoss(), ()),
    ):
        low = objective(student.to(dtype), labels, *(z.to(dtype) for z in more))
        as_stored = objective(student.to(dtype).float(), labels, *(z.to(dtype).float() for z in more))
        assert low.dtype == torch.float32 and torch.equal(low, as_stored)
