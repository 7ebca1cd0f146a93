"""Shot accuracy against counting by hand, and predictions against a plain forward pass."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dive.data.longtail import Samples
from dive.models.registry import build_model
from dive.recipe.recipe import Data
from dive.training.evaluation import evaluate, predict, shot_accuracy

CPU = torch.device("cpu")
DATA = Data()


def samples(count: int, classes: int = 4, height: int = 8, width: int = 8) -> Samples:
    rng = np.random.default_rng(0)
    return Samples(
        keys=[f"{i:05d}" for i in range(count)],
        labels=np.arange(count) % classes,
        images=rng.integers(0, 256, (count, height, width, 3), dtype=np.uint8),
        classes=tuple("abcdefgh"[:classes]),
    )


def test_accuracy_by_hand():
    labels = np.array([0, 0, 0, 0, 1, 1, 2, 2, 3, 3])
    predictions = np.array([0, 0, 0, 1, 1, 0, 0, 2, 3, 3])
    found = shot_accuracy(predictions, labels, np.array([101, 100, 20, 19]))
    assert found.per_class == (0.75, 0.5, 0.5, 1.0)
    assert (found.many, found.medium, found.few) == (0.75, 0.5, 1.0)
    assert found.all == 0.7
    assert found.class_mean == 0.6875


def test_a_shot_group_without_a_class_has_no_accuracy():
    found = shot_accuracy(np.array([0, 1]), np.array([0, 1]), np.array([500, 50]))
    assert (found.many, found.medium, found.few) == (1.0, 1.0, None)
    assert found.as_dict() == {"many": 1.0, "medium": 1.0, "few": None, "all": 1.0, "class_mean": 1.0}


@given(st.integers(1, 8), st.integers(0, 1000))
def test_accuracy_agrees_with_counting(classes, seed):
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(classes), rng.integers(0, classes, 40)])
    predictions = np.where(rng.random(len(labels)) < 0.5, labels, rng.integers(0, classes, len(labels)))
    counts = rng.choice([1, 19, 20, 21, 99, 100, 101, 500], classes)
    right: dict[int, list[bool]] = {}
    for prediction, label in zip(predictions.tolist(), labels.tolist(), strict=True):
        right.setdefault(label, []).append(prediction == label)
    per_class = [sum(right[c]) / len(right[c]) for c in range(classes)]
    found = shot_accuracy(predictions, labels, counts)
    assert found.per_class == tuple(per_class)
    assert found.all == pytest.approx(
        np.mean([p == y for p, y in zip(predictions, labels, strict=True)]), abs=1e-12
    )
    assert found.class_mean == pytest.approx(sum(per_class) / classes, abs=1e-12)
    for name, belongs in (
        ("many", counts > 100),
        ("medium", (counts <= 100) & (counts >= 20)),
        ("few", counts < 20),
    ):
        members = [per_class[c] for c in range(classes) if belongs[c]]
        expected = pytest.approx(sum(members) / len(members), abs=1e-12) if members else None
        assert getattr(found, name) == expected


def test_predictions_are_those_of_a_plain_forward_pass_on_the_clean_image():
    model = build_model("resnet8", 4, seed=2)
    test = samples(40)
    pixels = (test.images / 255 - np.array(DATA.mean)) / np.array(DATA.std)
    x = torch.tensor(pixels.transpose(0, 3, 1, 2))
    exact = build_model("resnet8", 4, seed=2).double().eval()
    with torch.inference_mode():
        logits = exact(x)
    top = logits.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4  # no tie that float32 could break otherwise
    found = predict(model, test, DATA, CPU)
    assert found.dtype == np.int64
    assert found.tolist() == logits.argmax(dim=1).tolist()
    assert len(set(found.tolist())) > 1


class Corner(torch.nn.Module):
    """Answers with the pixel in the upper left corner: which colour is the strongest."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: list[int] = []
        self.modes: set[tuple] = set()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.batches.append(len(x))
        self.modes.add((self.training, torch.is_grad_enabled(), (x[:2, :, 0] @ x[:2, :, 0].mT).dtype))
        return x[:, :, 0, 0]


@pytest.mark.parametrize("count", [1, 499, 500, 501, 1203])
def test_every_image_is_predicted_once_in_its_own_order(count):
    test = samples(count, classes=1, height=2, width=3)
    normalised = (test.images[:, 0, 0] / 255 - np.array(DATA.mean)) / np.array(DATA.std)
    model = Corner()
    assert predict(model, test, DATA, CPU).tolist() == normalised.argmax(axis=1).tolist()
    assert sum(model.batches) == count


def test_predictions_are_made_in_eval_mode_without_gradients_in_fp32():
    model = Corner()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        predict(model, samples(5), DATA, CPU)
    assert model.modes == {(False, False, torch.float32)}


@pytest.mark.parametrize("training", [True, False])
def test_a_model_comes_back_in_the_mode_and_with_the_statistics_it_had(training):
    model = build_model("resnet8", 4).train(training)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    predict(model, samples(10), DATA, CPU)
    assert model.training is training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_evaluation_is_the_accuracy_of_the_predictions():
    test, counts = samples(60, classes=3), np.array([200, 50, 5])
    found = evaluate(Corner(), test, counts, DATA, CPU)
    predicted = predict(Corner(), test, DATA, CPU)
    assert found.all == np.mean(predicted == test.labels)
    assert found.few == np.mean(predicted[test.labels == 2] == 2)
    assert 0 < found.all < 1
