"""The scene that `make bench` measures in: an epoch of the training loop from each place of the logits."""

from pathlib import Path

import pytest
import torch

from benchmarks.scene import Scene
from benchmarks.stepping import Epochs
from dive.training.device import Runtime

CPU = torch.device("cpu")


@pytest.mark.parametrize("source", [None, "cache", "streamed", "online", "features-int8"])
def test_an_epoch_is_trained_from_every_source_of_logits(tmp_path: Path, source: str | None) -> None:
    epochs = Epochs(Scene(tmp_path, CPU, share=200).student(source), Runtime(CPU, "fp32"))
    before = [parameter.clone() for parameter in epochs.run.network.parameters()]
    epochs()
    (record,) = epochs.run.history
    assert record.epoch == 1 and 0 < record.loss < 100 and record.image_wait is None
    after = list(epochs.run.network.parameters())
    assert not any(torch.equal(one, other) for one, other in zip(before, after, strict=True))
