"""Shot accuracy against counting by hand, and predictions against a plain forward pass."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from dive.data.pictures import HeldPictures
from dive.errors import ModelError
from dive.feeds.images import Images
from dive.models.network import Architecture, Network
from dive.training.evaluation import Accuracy, Evaluator, group_confusion, shot_accuracy
from dive.views.autoaugment import AutoAugmentCutout
from dive.views.crop_flip import CropFlip
from dive.workflows.run import accuracy_of

CPU = torch.device("cpu")
MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)
SHOTS = ("many", "medium", "few")


def pictures(count: int, height: int = 8, width: int = 8) -> np.ndarray:
    """Pictures of noise, (count, height, width, 3) uint8."""
    return np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8)


def evaluator(test: np.ndarray, counts: list[int], space: type = CropFlip) -> Evaluator:
    """Of pictures whose classes go round, in the clean view of a space with augmentation."""
    shown = space(test.shape[1:3], pad=2, flip=True).clean
    labels = np.arange(len(test)) % len(counts)
    return Evaluator(Images(HeldPictures(test), shown, CPU), labels, np.array(counts), CPU)


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


@given(st.integers(1, 12), st.integers(0, 1000))
def test_the_confusion_of_groups_agrees_with_counting_images_one_by_one(classes, seed):
    rng = np.random.default_rng(seed)
    counts = rng.choice([1, 19, 20, 21, 99, 100, 101, 500], classes)
    labels, predictions = (rng.integers(0, classes, 60) for _ in range(2))

    def group(label: int) -> str:
        return "many" if counts[label] > 100 else "few" if counts[label] < 20 else "medium"

    expected = {of: dict.fromkeys(SHOTS, 0) for of in SHOTS}
    for label, prediction in zip(labels.tolist(), predictions.tolist(), strict=True):
        expected[group(label)][group(prediction)] += 1
    found = group_confusion(predictions, labels, counts)
    assert found == expected
    assert all(type(number) is int for row in found.values() for number in row.values())


def test_the_confusion_of_groups_by_hand():
    labels, predictions = np.array([0, 0, 1, 2, 2, 2]), np.array([0, 2, 0, 1, 2, 0])
    assert shot_accuracy(predictions, labels, np.array([101, 50, 3])).group_confusion == {
        "many": {"many": 1, "medium": 0, "few": 1},
        "medium": {"many": 1, "medium": 0, "few": 0},
        "few": {"many": 1, "medium": 1, "few": 1},
    }


@pytest.mark.parametrize("kind", ["teacher", "student"])
def test_records_of_teachers_and_students_have_the_confusion_of_groups_of_their_own_predictions(digits, kind):
    """Predicted again by torch alone, from the weights in the checkpoint."""
    from dive.data.sources.registry import open_source
    from dive.models.registry import build_model

    path: Path = getattr(digits, kind)
    document = torch.load(path, weights_only=True)
    record = json.loads(path.with_suffix(".json").read_text())
    test, given = open_source("digits").test, document["architecture"]["input"]
    body = build_model(document["architecture"]["name"], 10, 1)
    body.load_state_dict(document["model"])
    pixels = np.stack([test.read(position) for position in range(len(test.keys))]).transpose(0, 3, 1, 2) / 255
    with torch.inference_mode():
        logits = body.double().eval()(torch.from_numpy((pixels - given["mean"][0]) / given["std"][0]))
    predicted, counts = logits.argmax(1).tolist(), record["class_counts"]

    def group(label: int) -> str:
        return "many" if counts[label] > 100 else "few" if counts[label] < 20 else "medium"

    expected = {of: dict.fromkeys(SHOTS, 0) for of in SHOTS}
    for label, prediction in zip(test.labels.tolist(), predicted, strict=True):
        expected[group(label)][group(prediction)] += 1
    assert record["group_confusion"] == document["group_confusion"] == expected
    assert accuracy_of(record).group_confusion == expected


def test_a_record_without_the_confusion_of_groups_is_one_of_an_earlier_version():
    figures = dict(many=0.5, medium=None, few=0.25, all=0.4, class_mean=0.375)
    found = accuracy_of({"accuracy": figures, "per_class": [0.5, 0.25]})
    assert found == Accuracy(**figures, per_class=(0.5, 0.25)) and found.group_confusion is None


@pytest.mark.parametrize("space", [CropFlip, AutoAugmentCutout])
def test_predictions_are_those_of_a_plain_forward_pass_on_the_clean_image(space):
    test = pictures(40)
    architecture = Architecture("resnet8", 4, 3, MEAN, STD)
    x = torch.tensor(((test / 255 - np.array(MEAN)) / np.array(STD)).transpose(0, 3, 1, 2))
    exact = architecture.build(seed=2).body.double().eval()
    with torch.inference_mode():
        logits = exact(x)
    top = logits.topk(2).values
    assert (top[:, 0] - top[:, 1]).min() > 1e-4  # no tie that float32 could break otherwise
    found = evaluator(test, [1] * 4, space).predict(architecture.build(seed=2))
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


def corner() -> Network:
    """A network that looks at one pixel."""
    return Network(Corner(), MEAN, STD)


def test_logits_that_are_not_finite_are_no_prediction():
    """argmax would take NaN for the largest."""

    class Sick(torch.nn.Module):
        def forward(self, views: torch.Tensor) -> torch.Tensor:
            logits = torch.zeros(len(views), 3)
            logits[::4, 1] = torch.nan
            logits[1::4, 2] = torch.inf
            return logits

    network = Network(Sick(), MEAN, STD)
    with pytest.raises(ModelError, match="logits of 6 of 11 images are not finite: its training diverged"):
        evaluator(pictures(11), [5, 3, 3])(network)


@pytest.mark.parametrize("count", [1, 255, 256, 257, 1203])
def test_every_image_is_predicted_once_in_its_own_order(count):
    test = pictures(count, height=2, width=3)
    normalised = (test[:, 0, 0] / 255 - np.array(MEAN)) / np.array(STD)
    network = corner()
    assert evaluator(test, [1]).predict(network).tolist() == normalised.argmax(axis=1).tolist()
    assert sum(network.body.batches) == count


def test_predictions_are_made_in_eval_mode_without_gradients_in_fp32():
    network = corner()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        evaluator(pictures(5), [1] * 4).predict(network)
    assert network.body.modes == {(False, False, torch.float32)}


@pytest.mark.parametrize("training", [True, False])
def test_a_network_comes_back_in_the_mode_and_with_the_statistics_it_had(training):
    network = Architecture("resnet8", 4, 3, MEAN, STD).build().train(training)
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    evaluator(pictures(10), [1] * 4).predict(network)
    assert network.training is training and network.body.training is training
    for name, tensor in network.state_dict().items():
        assert torch.equal(tensor, before[name]), name


def test_an_evaluation_is_the_accuracy_of_the_predictions():
    measure = evaluator(pictures(60), [200, 50, 5])
    found = measure(corner())
    predicted = measure.predict(corner())
    assert found.all == np.mean(predicted == measure.labels)
    assert found.few == np.mean(predicted[measure.labels == 2] == 2)
    assert found.group_confusion["few"]["many"] == ((measure.labels == 2) & (predicted == 0)).sum()
    assert 0 < found.all < 1
