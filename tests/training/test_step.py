"""Steps against a loop written out plainly in torch: optimisers, groups, clipping, parts of a batch.

The loop is eager float32 with torch's own unfused optimisers. Shared with dive are the initial weights, the
plan of an epoch and the pixels of its views.
"""

import copy
import json
import math
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import chain
import numpy as np
import pytest
import torch
from torch import nn
from torch.nn import functional as F

from dive.data.pictures import HeldPictures
from dive.errors import ModelError
from dive.feeds.images import Images, ResidentImages, StreamedImages
from dive.method.objectives import OF_LABELS, BalancedSoftmaxLoss, LabelObjective
from dive.models.network import Architecture, Network
from dive.randomness import key_hashes
from dive.recipe.recipe import AdamW, Optimizer, Schedule, Sgd
from dive.training import loop
from dive.training.device import Runtime
from dive.training.draws import network_draws
from dive.training.spec import RunSpec
from dive.training.step import Inputs, Step
from dive.views.crop_flip import CropFlip
from dive.views.draw import FreeViews

CPU = torch.device("cpu")
N, SIZE, CLASSES, SIDE = 40, 16, 5, 8  # batches of 16, 16 and 8 images
COUNTS = np.array([20, 9, 5, 4, 2])
RATES = [0.05, 0.02, 0.01]
EPOCHS = 3
# What float32 leaves of some steps that add in another order; learning rates are rounded to float32.
CLOSE = {"rtol": 2e-5, "atol": 2e-6}


def smooth_network(last: nn.Module | None = None) -> nn.Module:
    """A network without batch norm, and without kinks that magnify rounding."""
    torch.manual_seed(3)
    end = last or nn.Linear(8 * 4, CLASSES)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.Tanh(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), end)


def normed_network() -> nn.Module:
    """A network with batch norm."""
    torch.manual_seed(3)
    conv = nn.Conv2d(3, 8, 3, bias=False)
    norm, pool = nn.BatchNorm2d(8), nn.AdaptiveAvgPool2d(2)
    return nn.Sequential(conv, norm, nn.Tanh(), pool, nn.Flatten(), nn.Linear(32, CLASSES))


class Run:
    """A network in training by dive's steps, and the same written out plainly."""

    def __init__(
        self,
        body: nn.Module,
        optimizer: Optimizer,
        accumulate: int = 1,
        objective: LabelObjective | None = None,
        n: int = N,
    ) -> None:
        rng = np.random.default_rng(0)
        pixels = rng.integers(0, 256, (n, SIDE, SIDE, 3), dtype=np.uint8)
        space = CropFlip((SIDE, SIDE), pad=1, flip=True)
        self.labels = torch.from_numpy(rng.integers(0, CLASSES, n))
        self.images, self.pixels, self.space = ResidentImages(pixels, space, CPU), pixels, space
        self.reference = copy.deepcopy(body).train()
        self.network = Network(body, (0.5,) * 3, (0.25,) * 3)
        schedule = Schedule(batch_size=SIZE, accumulate=accumulate)
        self.spec = RunSpec(
            kind="teacher",
            out=Path("t.pt"),
            seed=0,
            architecture=Architecture("my:network", CLASSES, 3, (0.5,) * 3, (0.25,) * 3),
            optimizer=optimizer,
            schedule=schedule,
            precision="fp32",
            objective=objective or BalancedSoftmaxLoss(COUNTS),
            images=Images(HeldPictures(pixels), space, CPU),
            labels=self.labels,
            hashes=key_hashes([f"class/{i}.png" for i in range(n)]),
            views=FreeViews(space),
            recipe={},
            identity={},
            facts={},
        )
        self.step = self.begun()
        self.losses: list[torch.Tensor] = []

    def begun(self, images: object = None) -> Step:
        """A step of the run, before its first."""
        inputs = Inputs(images or self.images, self.labels)
        return Step(self.spec, self.network, inputs, Runtime(CPU, "fp32"))

    def plan(self, epoch: int) -> np.ndarray:
        """Order, views and columns of an epoch."""
        order = np.random.default_rng(epoch).permutation(len(self.labels))
        ids, columns = self.spec.views.draw(0, epoch, self.spec.hashes)
        return np.stack([order, ids[order], columns[order]])

    def go(self, epochs: int = EPOCHS, step: Step | None = None) -> "Run":
        """Train by dive's steps."""
        step = step or self.step
        for epoch in range(1, epochs + 1):
            step.begin(self.plan(epoch), RATES)
            for _ in range(self.spec.steps_per_epoch):
                step.advance()
            self.losses.append(step.losses.clone())
        return self

    def plainly(
        self,
        optimizer: torch.optim.Optimizer,
        factors: tuple[float, ...] = (1.0,),
        parts: Callable[[int], list[int]] = lambda batch: [batch],
        loss_of: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] | None = None,
        clip: float | None = None,
    ) -> list[float]:
        """Train the reference in a loop of its own; the loss of each step.

        parts: the sizes of the parts of a batch of so many. loss_of: of each example, balanced softmax if not
        given. clip: the largest norm of gradients.
        """
        prior = torch.from_numpy(COUNTS).float().log()
        loss_of = loss_of or (lambda logits, y: F.cross_entropy(logits + prior, y, reduction="none"))
        told = []
        for epoch in range(1, EPOCHS + 1):
            rows, ids, columns = map(torch.from_numpy, self.plan(epoch))
            for at, start in enumerate(range(0, len(rows), SIZE)):
                end = min(start + SIZE, len(rows))
                optimizer.zero_grad()
                total = 0.0
                first = start
                for size in parts(end - start):
                    part = slice(first, first + size)
                    first += size
                    views = self.images.batch(rows[part], ids[part], columns[part])
                    logits = self.reference((views.float() / 255 - 0.5) / 0.25)
                    loss = loss_of(logits, self.labels[rows[part]]).sum() / (end - start)
                    loss.backward()
                    total += loss.item()
                assert first == end
                if clip is not None:
                    nn.utils.clip_grad_norm_(self.reference.parameters(), clip, foreach=False)
                for group, factor in zip(optimizer.param_groups, factors, strict=True):
                    group["lr"] = RATES[at] * factor
                optimizer.step()
                told.append(total)
        return told

    def assert_same(self, told: list[float]) -> None:
        """dive's weights, statistics and losses are the reference's."""
        found, expected = self.network.body.state_dict(), self.reference.state_dict()
        assert found.keys() == expected.keys()
        for name, tensor in expected.items():
            torch.testing.assert_close(found[name], tensor, **CLOSE, msg=lambda said, name=name: name + said)
        torch.testing.assert_close(torch.cat(self.losses), torch.tensor(told), **CLOSE)


def sgd(parameters: object, **more: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(parameters, lr=1, momentum=0.9, weight_decay=0.01, foreach=False, **more)


def adamw(parameters: object) -> torch.optim.Optimizer:
    return torch.optim.AdamW(
        parameters, lr=1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.3, foreach=False, fused=False
    )


MADE = {
    "sgd": (Sgd(weight_decay=0.01), sgd),
    "adamw": (AdamW(weight_decay=0.3, betas=(0.8, 0.95), eps=1e-3), adamw),
}


@pytest.fixture(params=MADE)
def kind(request) -> tuple[Optimizer, Callable]:
    """A recipe's optimiser and torch's of the same settings."""
    return MADE[request.param]


def test_an_optimiser_takes_the_steps_of_torchs(kind):
    wanted, made = kind
    run = Run(smooth_network(), wanted).go()
    run.assert_same(run.plainly(made(run.reference.parameters())))


def test_adamw_takes_the_defaults_of_torch_but_for_the_decay():
    run = Run(smooth_network(), AdamW()).go()
    optimizer = torch.optim.AdamW(run.reference.parameters(), lr=1, weight_decay=0.05, foreach=False)
    run.assert_same(run.plainly(optimizer))


def test_the_body_learns_at_its_factor_and_the_last_layer_at_the_whole_rate(kind):
    wanted, made = kind
    run = Run(smooth_network(), replace(wanted, body_factor=0.1)).go()
    conv, linear = run.reference[0], run.reference[4]
    groups = [{"params": list(conv.parameters())}, {"params": list(linear.parameters())}]
    run.assert_same(run.plainly(made(groups), factors=(0.1, 1.0)))


def test_a_factor_of_zero_leaves_the_body_as_it_was():
    run = Run(smooth_network(), AdamW(body_factor=0.0))
    before = copy.deepcopy(run.network.body.state_dict())
    after = run.go().network.body.state_dict()
    same = [name for name in before if torch.equal(before[name], after[name])]
    assert same == ["0.weight", "0.bias"]


def test_a_body_that_is_one_linear_layer_is_all_head():
    run = Run(nn.Sequential(nn.Flatten(), nn.Linear(192, CLASSES)), Sgd(weight_decay=0.01, body_factor=0.1))
    assert len(run.step.optimizer.param_groups) == 1
    run.go().assert_same(run.plainly(sgd(run.reference.parameters())))


def test_a_network_without_a_last_linear_layer_has_no_body_factor():
    body = smooth_network(nn.Sequential(nn.Linear(32, CLASSES), nn.Tanh()))
    Run(body, Sgd())
    with pytest.raises(ModelError, match=r"^my:network does not end in a linear layer.*body_factor"):
        Run(body, Sgd(body_factor=0.5))


def test_a_factor_of_one_is_one_group(kind):
    assert len(Run(smooth_network(), kind[0]).step.optimizer.param_groups) == 1


@pytest.mark.parametrize("accumulate", [1, 3])
def test_gradients_are_clipped_to_a_norm_over_all_parameters(kind, accumulate):
    wanted, made = kind
    run = Run(smooth_network(), replace(wanted, clip_norm=0.05), accumulate).go()
    run.assert_same(run.plainly(made(run.reference.parameters()), clip=0.05))
    other = Run(smooth_network(), wanted).go()
    assert not torch.allclose(run.network.body[4].weight, other.network.body[4].weight, rtol=1e-2)


def test_a_norm_that_gradients_do_not_reach_changes_nothing(kind):
    wanted, made = kind
    run = Run(smooth_network(), replace(wanted, clip_norm=1e6)).go()
    run.assert_same(run.plainly(made(run.reference.parameters())))


@pytest.mark.parametrize("name", OF_LABELS)
def test_smoothed_labels_train_as_torchs_cross_entropy_smooths_them(name):
    run = Run(smooth_network(), Sgd(weight_decay=0.01), objective=OF_LABELS[name].for_counts(COUNTS, 0.2))
    prior = torch.from_numpy(np.log(COUNTS)).float() if name == "bsce" else torch.zeros(CLASSES)

    def loss_of(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(logits + prior, labels, reduction="none", label_smoothing=0.2)

    run.go().assert_same(run.plainly(sgd(run.reference.parameters()), loss_of=loss_of))


def by_hand(accumulate: int) -> Callable[[int], list[int]]:
    """Sizes of parts as NumPy divides an array."""
    return lambda batch: [len(p) for p in np.array_split(np.arange(batch), min(accumulate, batch))]


@pytest.mark.parametrize("accumulate", [2, 3, 5, 16])
def test_parts_of_a_batch_without_batch_norm_are_the_whole_batch(accumulate):
    """To float32's rounding: after nine steps the largest difference measured is 4.5e-8, by one thread."""
    whole = Run(smooth_network(), Sgd()).go()
    parts = Run(smooth_network(), Sgd(), accumulate).go()
    assert torch.equal(parts.step.correct, whole.step.correct)
    for one, other in zip(whole.losses, parts.losses, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-6)
    after = parts.network.body.state_dict()
    for name, tensor in whole.network.body.state_dict().items():
        torch.testing.assert_close(after[name], tensor, rtol=0, atol=5e-7)


@pytest.mark.parametrize("accumulate", [3, 5])
@pytest.mark.parametrize("n", [40, 33])  # a last batch of eight, and of one, which is its only part
def test_batch_norm_sees_the_parts_as_a_loop_over_them_does(kind, accumulate, n):
    wanted, made = kind
    run = Run(normed_network(), wanted, accumulate, n=n).go()
    run.assert_same(run.plainly(made(run.reference.parameters()), parts=by_hand(accumulate)))
    statistics = run.reference[1]
    assert int(statistics.num_batches_tracked) == EPOCHS * sum(
        len(by_hand(accumulate)(batch)) for batch in (SIZE, SIZE, n - 2 * SIZE)
    )


def test_streamed_parts_are_resident_parts():
    one, other = (Run(normed_network(), AdamW(), 3) for _ in range(2))
    largest = one.spec.largest_share()
    assert largest == 6
    streamed = StreamedImages(HeldPictures(one.pixels), one.space, largest, CPU, workers=0)
    one.go(step=one.begun(streamed))
    other.go()
    for name, tensor in other.network.body.state_dict().items():
        assert torch.equal(one.network.body.state_dict()[name], tensor), name
    assert torch.equal(torch.cat(one.losses), torch.cat(other.losses))


class Masks(nn.Module):
    """Dropout that keeps what it let through."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        if self.training:
            self.seen.append(F.dropout(torch.ones(4, 50), 0.5))
        return features


def test_the_parts_of_a_step_draw_masks_of_their_own_and_the_same_ones_again():
    masks = Masks()
    body = nn.Sequential(nn.Flatten(), masks, nn.Linear(192, CLASSES))
    run = Run(body, Sgd(), 3)
    run.step.begin(run.plan(1), RATES)
    for _ in range(2):
        with network_draws(CPU, 0, 1, 0):
            run.step.advance()
    first, again = masks.seen[:3], masks.seen[3:]
    assert not any(torch.equal(first[i], first[j]) for i, j in ((0, 1), (0, 2), (1, 2)))
    assert all(torch.equal(one, other) for one, other in zip(first, again, strict=True))


def finished(name: str) -> tuple[str, list[dict]]:
    """Hash of the weights of a finished run, and its history without the times."""
    record = json.loads(Path(f"{name}.json").read_text())
    lines = Path(f"{name}.history.jsonl").read_text().splitlines()
    history = [{k: v for k, v in json.loads(line).items() if k != "seconds"} for line in lines]
    return record["weights_hash"], history


SETTINGS = (
    *("--set", "optimizer.kind=adamw"),
    *("--set", "optimizer.clip_norm=1"),
    *("--set", "schedule.accumulate=3"),
    *("--set", "teacher.label_smoothing=0.1"),
)


def test_a_run_of_adamw_in_parts_that_was_stopped_ends_in_the_same_bits(monkeypatch):
    monkeypatch.setattr(loop, "SAVING_SHARE", math.inf)
    arguments = ("teacher", *chain.DIGITS, "--epochs", 3, *SETTINGS)
    chain.succeed(*arguments, "--out", "whole.pt")
    with chain.stopped_at(13 + 5):
        assert chain.dive(*arguments, "--out", "run.pt").code == 130
    saved = torch.load("run.state", weights_only=True)["optimizer"]["state"]
    assert {float(state["step"]) for state in saved.values()} == {13.0}  # one update a batch
    for change in ("optimizer.clip_norm=2", "schedule.accumulate=4", "teacher.label_smoothing=0.2"):
        complaint = chain.dive(*arguments, "--set", change, "--out", "run.pt").complaint
        assert f"recipe.{change.partition('=')[0]}: " in complaint
    chain.succeed(*arguments, "--out", "run.pt")
    assert finished("run") == finished("whole")
    chain.succeed("teacher", *chain.DIGITS, "--epochs", 3, *SETTINGS[:-2], "--out", "other.pt")
    assert finished("other")[0] != finished("whole")[0]


@pytest.mark.parametrize("fault", ["exp_avg_sq missing", "step of another type", "momentum"])
def test_a_state_of_adamw_that_does_not_fit_is_refused(fault):
    run, other = Run(smooth_network(), AdamW()), Run(smooth_network(), AdamW())
    model, saved = run.go().network.body.state_dict(), run.step.optimizer.state_dict()
    states = {place: dict(state) for place, state in saved["state"].items()}
    if fault == "exp_avg_sq missing":
        del states[0]["exp_avg_sq"]
    elif fault == "step of another type":
        states[0]["step"] = states[0]["step"].double()
    else:
        states = Run(smooth_network(), Sgd()).step.optimizer.state_dict()["state"]
    before = copy.deepcopy(other.network.body.state_dict())
    with pytest.raises(ValueError, match="its optimiser's state is that of another network"):
        other.step.load_state(model, saved | {"state": states})
    assert all(torch.equal(before[name], tensor) for name, tensor in other.network.body.state_dict().items())
    other.step.load_state(model, saved)
    restored = other.step.optimizer.state_dict()["state"]
    assert all(
        torch.equal(restored[place][key], saved["state"][place][key])
        for place in (0, 3)
        for key in restored[0]
    )
