"""The losses and their gradients, against float64 written from the formulas."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dive.method import losses
from dive.method.losses import EXACT_FROM

# What float32 leaves of a float64 result here: logits of size 30 carry errors of 2e-6, τ² times a
# difference of logarithms ten times that.
CLOSE = {"rtol": 1e-5, "atol": 2e-5}
BATCH, CLASSES = 16, 100


def log_softmax(x: np.ndarray) -> np.ndarray:
    shifted = x - x.max(axis=-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True))


def softmax(x: np.ndarray) -> np.ndarray:
    exponentials = np.exp(x - x.max(axis=-1, keepdims=True))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


class Batch:
    """Float32-exact student and teacher logits, labels and class counts, as float64 arrays."""

    def __init__(
        self, seed: int = 0, spread: float = 4.0, batch: int = BATCH, classes: int = CLASSES
    ) -> None:
        rng = np.random.default_rng(seed)
        self.student = (spread * rng.standard_normal((batch, classes))).astype(np.float32).astype(np.float64)
        self.teacher = (spread * rng.standard_normal((batch, classes))).astype(np.float32).astype(np.float64)
        self.labels = rng.integers(0, classes, batch)
        self.counts = np.array([int(500 * 0.01 ** (c / (classes - 1))) for c in range(classes)])

    def bsce(self) -> np.ndarray:
        """-log( n_y e^{s_y} / Σ_c n_c e^{s_c} )"""
        weighted = self.counts * np.exp(self.student - self.student.max(axis=1, keepdims=True))
        return -np.log(weighted[np.arange(len(weighted)), self.labels] / weighted.sum(axis=1))

    def target(self, tau: float, power: float) -> np.ndarray:
        """softmax(z/τ)^p / Σ softmax(z/τ)^p, as the paper writes it."""
        powered = softmax(self.teacher / tau) ** power
        return powered / powered.sum(axis=1, keepdims=True)

    def kl(self, tau: float, power: float, student_tau: float) -> np.ndarray:
        t = self.target(tau, power)
        return (t * (np.log(t) - log_softmax(self.student / student_tau))).sum(axis=1)

    def dive(self, tau: float, power: float, student_tau: float, weight: float) -> np.ndarray:
        return (1 - weight) * self.bsce() + weight * tau**2 * self.kl(tau, power, student_tau)

    def gradient(self, tau: float, power: float, student_tau: float, weight: float) -> np.ndarray:
        """∂L/∂s = (1-w)(softmax(s + log n) - e_y) + w (τ²/τ_s)(softmax(s/τ_s) - t)"""
        one_hot = np.eye(self.student.shape[1])[self.labels]
        labelled = softmax(self.student + np.log(self.counts)) - one_hot
        distilled = softmax(self.student / student_tau) - self.target(tau, power)
        return (1 - weight) * labelled + weight * tau**2 / student_tau * distilled

    def tensors(self) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
        """Student logits that ask for a gradient, labels, teacher logits, log counts; float32."""
        return (
            torch.tensor(self.student, dtype=torch.float32, requires_grad=True),
            torch.tensor(self.labels),
            torch.tensor(self.teacher, dtype=torch.float32),
            torch.tensor(np.log(self.counts), dtype=torch.float32),
        )

    def autograd(self, tau: float, power: float, student_tau: float, weight: float) -> np.ndarray:
        """The gradient of Σ L by torch.autograd in float64, of a loss written out here."""
        s = torch.tensor(self.student, requires_grad=True)
        n, z = torch.tensor(self.counts).double(), torch.tensor(self.teacher)
        probability = n * s.exp() / (n * s.exp()).sum(dim=1, keepdim=True)
        labelled = -probability[torch.arange(len(s)), torch.tensor(self.labels)].log()
        t = (z / tau).softmax(dim=1).pow(power)
        t = t / t.sum(dim=1, keepdim=True)
        distilled = (t * (t.log() - (s / student_tau).softmax(dim=1).log())).sum(dim=1)
        ((1 - weight) * labelled + weight * tau**2 * distilled).sum().backward()
        return s.grad.numpy()


def run_dive(batch: Batch, tau: float, power: float, student_tau: float, weight: float):
    """The loss under test and the gradient of its sum with respect to the student's logits."""
    student, labels, teacher, log_counts = batch.tensors()
    settings = {"tau": tau, "power": power, "student_tau": student_tau, "weight": weight}
    loss = losses.dive(student, labels, teacher, log_counts, **settings)
    loss.sum().backward()
    return loss.detach().numpy(), student.grad.numpy()


SETTINGS = [
    (3.0, 0.5, 3.0, 0.5),
    (1.0, 1.0, 1.0, 0.5),
    (6.0, 1.0, 6.0, 0.5),
    (3.0, 0.5, 6.0, 0.5),
    (3.0, 0.5, 1.0, 0.25),
    (12.0, 0.3, 9.0, 0.9),
    (2.0, 0.5, 2.0, 0.0),
    (2.0, 0.5, 2.0, 1.0),
]


def test_cross_entropy_is_minus_the_log_probability_of_the_label():
    batch = Batch()
    student, labels, *_ = batch.tensors()
    expected = -log_softmax(batch.student)[np.arange(BATCH), batch.labels]
    found = losses.cross_entropy(student, labels)
    assert found.shape == (BATCH,)
    np.testing.assert_allclose(found.detach(), expected, **CLOSE)


def test_balanced_softmax_weighs_each_class_by_its_images():
    batch = Batch()
    student, labels, _, log_counts = batch.tensors()
    loss = losses.balanced_softmax(student, labels, log_counts)
    assert loss.shape == (BATCH,)
    np.testing.assert_allclose(loss.detach(), batch.bsce(), **CLOSE)
    loss.sum().backward()
    expected = softmax(batch.student + np.log(batch.counts)) - np.eye(CLASSES)[batch.labels]
    np.testing.assert_allclose(student.grad, expected, **CLOSE)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.9])
def test_smoothed_labels_are_the_formula_in_float64(smoothing):
    """-Σ_c q_c log p_c of q = (1-ε)·e_y + ε/C, whose gradient is p - q."""
    batch = Batch()
    target = (1 - smoothing) * np.eye(CLASSES)[batch.labels] + smoothing / CLASSES
    for prior in (np.zeros(CLASSES), np.log(batch.counts)):
        student, labels, _, log_counts = batch.tensors()
        if prior.any():
            loss = losses.balanced_softmax(student, labels, log_counts, smoothing)
        else:
            loss = losses.cross_entropy(student, labels, smoothing)
        expected = -(target * log_softmax(batch.student + prior)).sum(axis=1)
        np.testing.assert_allclose(loss.detach(), expected, **CLOSE)
        loss.sum().backward()
        np.testing.assert_allclose(student.grad, softmax(batch.student + prior) - target, **CLOSE)


def test_balanced_softmax_by_hand():
    logits, counts = torch.tensor([[math.log(2.0), math.log(3.0)]]), torch.tensor([3.0, 1.0])
    loss = losses.balanced_softmax(logits, torch.tensor([1]), counts.log())
    assert math.isclose(loss.item(), math.log((3 * 2 + 1 * 3) / 3), rel_tol=1e-6)


def test_balanced_softmax_of_equal_classes_is_cross_entropy():
    student, labels, *_ = Batch().tensors()
    equal = torch.full((CLASSES,), math.log(64.0))
    balanced = losses.balanced_softmax(student, labels, equal).detach()
    np.testing.assert_allclose(balanced, losses.cross_entropy(student, labels).detach(), **CLOSE)


@pytest.mark.parametrize(("tau", "power"), [(1, 1), (3, 0.5), (6, 1), (20, 0.5), (0.5, 1), (3, 0.1)])
def test_the_target_is_the_powered_and_renormalised_softmax(tau, power):
    batch = Batch()
    target = losses.virtual_example_log_target(batch.tensors()[2], tau, power).exp()
    np.testing.assert_allclose(target, batch.target(tau, power), **CLOSE)
    np.testing.assert_allclose(target.double().sum(dim=1), 1, rtol=1e-5)


@given(st.floats(0.3, 30), st.floats(0.05, 1), st.integers(0, 50))
def test_the_powered_softmax_is_the_softmax_at_the_ratio_of_power_and_temperature(tau, power, seed):
    batch = Batch(seed, batch=2, classes=10)
    identity = softmax(power * batch.teacher / tau)
    np.testing.assert_allclose(batch.target(tau, power), identity, rtol=1e-10)
    target = losses.virtual_example_log_target(batch.tensors()[2], tau, power).exp()
    np.testing.assert_allclose(target, identity, **CLOSE)


def test_half_the_power_doubles_the_temperature():
    teacher = Batch().tensors()[2]
    halved = losses.virtual_example_log_target(teacher, 3, 0.5)
    torch.testing.assert_close(halved, losses.virtual_example_log_target(teacher, 6, 1), rtol=0, atol=0)


def test_the_target_does_not_move_when_a_constant_is_added_to_the_teachers_logits():
    teacher = Batch().tensors()[2]
    moved = losses.virtual_example_log_target(teacher + 8, 3, 0.5)
    np.testing.assert_allclose(moved, losses.virtual_example_log_target(teacher, 3, 0.5), **CLOSE)


@pytest.mark.parametrize(("tau", "power", "student_tau", "weight"), SETTINGS)
def test_the_kl_is_summed_over_classes_and_takes_the_students_raw_logits(tau, power, student_tau, weight):
    batch = Batch()
    student, _, teacher, _ = batch.tensors()
    target = losses.virtual_example_log_target(teacher, tau, power)
    found = losses.kl_divergence(target, student, student_tau)
    assert found.shape == (BATCH,)
    np.testing.assert_allclose(found.detach(), batch.kl(tau, power, student_tau), **CLOSE)


def test_the_kl_of_a_distribution_from_itself_is_nothing():
    teacher = Batch().tensors()[2]
    target = losses.virtual_example_log_target(teacher, 3, 0.5)
    found = losses.kl_divergence(target, teacher, 6.0)
    np.testing.assert_allclose(found, 0, atol=1e-6)


def test_the_kl_is_no_cross_entropy():
    batch = Batch()
    entropy = -(batch.target(3, 0.5) * np.log(batch.target(3, 0.5))).sum(axis=1)
    student, _, teacher, _ = batch.tensors()
    target = losses.virtual_example_log_target(teacher, 3, 0.5)
    found = losses.kl_divergence(target, student, 3.0).detach().numpy()
    cross_entropy = -(batch.target(3, 0.5) * log_softmax(batch.student / 3)).sum(axis=1)
    np.testing.assert_allclose(found + entropy, cross_entropy, **CLOSE)


@pytest.mark.parametrize(("tau", "power", "student_tau", "weight"), SETTINGS)
def test_the_dive_loss_agrees_with_float64(tau, power, student_tau, weight):
    batch = Batch()
    loss, _ = run_dive(batch, tau, power, student_tau, weight)
    assert loss.shape == (BATCH,)
    # τ² multiplies the error of the KL as it multiplies the KL.
    np.testing.assert_allclose(
        loss, batch.dive(tau, power, student_tau, weight), rtol=1e-5, atol=2e-6 * tau**2
    )


@pytest.mark.parametrize(("tau", "power", "student_tau", "weight"), SETTINGS)
def test_the_gradient_of_the_dive_loss_agrees_with_float64(tau, power, student_tau, weight):
    batch = Batch()
    _, gradient = run_dive(batch, tau, power, student_tau, weight)
    analytic = batch.gradient(tau, power, student_tau, weight)
    np.testing.assert_allclose(
        analytic, batch.autograd(tau, power, student_tau, weight), rtol=1e-8, atol=1e-12
    )
    np.testing.assert_allclose(gradient, analytic, rtol=1e-5, atol=1e-6 * tau**2)


def of_small(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """KL(softmax(a) ‖ softmax(b)) of logits near 0 in float64: log C, which cancels, is left out."""
    a, b = (x - x.mean(axis=1, keepdims=True) for x in (a, b))
    sums = [np.log1p(np.expm1(x).mean(axis=1, keepdims=True)) for x in (a, b)]
    return (softmax(a) * (a - b - sums[0] + sums[1])).sum(axis=1)


@pytest.mark.parametrize("power", [1.0, 0.5, 1e-6])
@pytest.mark.parametrize("tau", [1e3, 1e4, 1e5, 1e6])
def test_at_large_temperatures_the_loss_keeps_its_digits(tau, power):
    batch = Batch()
    for weight in (0.5, 1.0):
        loss, gradient = run_dive(batch, tau, power, tau, weight)
        kl = of_small(batch.teacher * (power / tau), batch.student / tau)
        expected = (1 - weight) * batch.bsce() + weight * tau**2 * kl
        np.testing.assert_allclose(loss, expected, rtol=max(1e-5, 3e-16 * tau**2))
        np.testing.assert_allclose(gradient, batch.gradient(tau, power, tau, weight), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("tau", "student_tau"), [(1e6, 3.0), (3.0, 1e6), (1e5, 1e-3)])
def test_where_one_temperature_is_large_the_loss_agrees_with_float64(tau, student_tau):
    batch = Batch()
    loss, gradient = run_dive(batch, tau, 0.5, student_tau, 0.5)
    target, logs = batch.target(tau, 0.5), log_softmax(batch.student / student_tau)
    kl = (target * (np.log(target) - logs)).sum(axis=1)
    np.testing.assert_allclose(loss, 0.5 * batch.bsce() + 0.5 * tau**2 * kl, rtol=1e-6)
    np.testing.assert_allclose(gradient, batch.gradient(tau, 0.5, student_tau, 0.5), rtol=1e-5, atol=1e-6)


def test_at_ordinary_temperatures_the_loss_is_that_of_float32_to_the_bit():
    batch = Batch()
    student, labels, teacher, log_counts = batch.tensors()
    for tau in (0.5, 3.0, 0.99 * EXACT_FROM):
        t = torch.log_softmax(teacher * (0.5 / tau), dim=-1)
        kl = (t.exp() * (t - torch.log_softmax(student / tau, dim=-1))).sum(dim=-1)
        expected = 0.5 * losses.balanced_softmax(student, labels, log_counts) + 0.5 * tau**2 * kl
        loss, gradient = run_dive(batch, tau, 0.5, tau, 0.5)
        np.testing.assert_array_equal(loss, expected.detach())
        np.testing.assert_array_equal(gradient, torch.autograd.grad(expected.sum(), student)[0])


def test_the_gradient_agrees_with_finite_differences_of_the_float64_loss():
    batch = Batch(batch=2, classes=5)
    _, gradient = run_dive(batch, 3, 0.5, 3, 0.5)
    step = 1e-6
    for row, column in np.ndindex(2, 5):
        values = []
        for sign in (1, -1):
            moved = Batch(batch=2, classes=5)
            moved.student[row, column] += sign * step
            values.append(moved.dive(3, 0.5, 3, 0.5).sum())
        difference = (values[0] - values[1]) / (2 * step)
        assert math.isclose(gradient[row, column], difference, rel_tol=1e-4, abs_tol=1e-6)


def test_a_weight_of_zero_is_balanced_softmax_and_of_one_is_the_kl_alone():
    batch = Batch()
    np.testing.assert_allclose(run_dive(batch, 3, 0.5, 3, 0)[0], batch.bsce(), **CLOSE)
    np.testing.assert_allclose(run_dive(batch, 3, 0.5, 3, 1)[0], 9 * batch.kl(3, 0.5, 3), **CLOSE)


def test_the_same_target_at_another_temperature_is_another_loss():
    batch = Batch()
    np.testing.assert_allclose(batch.target(3, 0.5), batch.target(6, 1), rtol=1e-12)
    assert abs(run_dive(batch, 3, 0.5, 3, 0.5)[0] - run_dive(batch, 6, 1, 6, 0.5)[0]).min() > 0.1


def test_the_factor_stays_the_teachers_when_the_students_temperature_moves():
    batch = Batch()
    labelled = 0.5 * batch.bsce()
    for student_tau in (1.0, 6.0, 12.0):
        distilled = run_dive(batch, 3, 0.5, student_tau, 0.5)[0] - labelled
        np.testing.assert_allclose(distilled / (0.5 * batch.kl(3, 0.5, student_tau)), 9, rtol=1e-4)


def test_an_examples_loss_does_not_depend_on_its_batch():
    student, labels, teacher, log_counts = (t.detach() for t in Batch().tensors())
    settings = {"tau": 3.0, "power": 0.5, "student_tau": 3.0, "weight": 0.5}
    together = losses.dive(student, labels, teacher, log_counts, **settings)
    for i in (0, 7, BATCH - 1):
        alone = losses.dive(student[i : i + 1], labels[i : i + 1], teacher[i : i + 1], log_counts, **settings)
        torch.testing.assert_close(alone[0], together[i], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_logits_of_low_precision_are_computed_with_in_float32(dtype):
    student, labels, teacher, log_counts = (t.detach() for t in Batch().tensors())
    settings = {"tau": 3.0, "power": 0.5, "student_tau": 3.0, "weight": 0.5}
    student, teacher = student.to(dtype), teacher.to(dtype)
    low = losses.dive(student, labels, teacher, log_counts, **settings)
    high = losses.dive(student.float(), labels, teacher.float(), log_counts, **settings)
    assert low.dtype == torch.float32
    assert torch.equal(low, high)
    assert losses.cross_entropy(student, labels).dtype == torch.float32
    assert torch.equal(
        losses.virtual_example_log_target(teacher, 3, 0.5),
        losses.virtual_example_log_target(teacher.float(), 3, 0.5),
    )


@pytest.mark.parametrize("tau", [3.0, EXACT_FROM])
def test_every_loss_is_of_float32_also_where_logits_are_of_float64_or_tau_is_large(tau):
    student, labels, teacher, log_counts = (t.detach() for t in Batch().tensors())
    settings = {"tau": tau, "power": 0.5, "student_tau": 3.0, "weight": 0.5}
    for of_logits in (
        lambda s, z: losses.cross_entropy(s, labels),
        lambda s, z: losses.balanced_softmax(s, labels, log_counts),
        lambda s, z: losses.virtual_example_log_target(z, tau, 0.5),
        lambda s, z: losses.dive(s, labels, z, log_counts, **settings),
    ):
        expected = of_logits(student, teacher)
        assert expected.dtype == torch.float32
        torch.testing.assert_close(of_logits(student.double(), teacher.double()), expected, rtol=0, atol=0)


def test_sure_logits_leave_loss_and_gradient_finite():
    batch = Batch(spread=1.0)
    batch.student, batch.teacher = batch.student * 1e4, -batch.teacher * 1e4
    loss, gradient = run_dive(batch, 1, 1, 1, 0.5)
    assert np.isfinite(loss).all() and np.isfinite(gradient).all()
