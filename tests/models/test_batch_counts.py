"""Batch norm's count of batches kept on the host, against torch's own."""

import copy

import pytest
import torch
from torch import nn

from dive.models.batch_counts import BatchCounts
from dive.models.registry import build_model


class Odd(nn.Module):
    """A norm gone through twice in a pass, one never, one that averages cumulatively, one without counts."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.BatchNorm1d(3), nn.BatchNorm1d(3)
        self.cumulative = nn.BatchNorm1d(3, momentum=None)
        self.bare = nn.BatchNorm1d(3, track_running_stats=False)
        self.other = nn.InstanceNorm1d(3, track_running_stats=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.bare(self.cumulative(self.twice(self.twice(x))))
        return y + self.other(y[:, :, None].expand(-1, -1, 2)).mean(2)


def batches(*shape: int) -> torch.Tensor:
    return torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))


MODELS = {
    "a ResNet": (lambda: build_model("resnet8", 4), batches(4, 3, 8, 8)),
    "an odd one": (Odd, batches(6, 3)),
}


@pytest.fixture(params=list(MODELS))
def pair(request):
    """A model, its copy with counts on the host, those counts, and batches for both."""
    make, data = MODELS[request.param]
    torch.manual_seed(0)
    plain = make().train()
    plain(data[0])
    model = copy.deepcopy(plain)
    return plain, model, BatchCounts(model), data


def same(one: nn.Module, other: nn.Module) -> None:
    a, b = one.state_dict(), other.state_dict()
    assert list(a) == list(b)
    for name in a:
        assert a[name].dtype == b[name].dtype and torch.equal(a[name], b[name]), name


def test_a_state_dict_is_torchs_own_key_by_key_in_training_and_evaluation(pair):
    plain, model, _, data = pair
    same(plain, model)
    for batch in data[1:3]:
        assert torch.equal(plain(batch), model(batch))
        same(plain, model)
    assert torch.equal(plain.eval()(data[0]), model.eval()(data[0]))
    same(plain, model)
    plain.train()(data[3]), model.train()(data[3])
    same(plain, model)


def test_no_tensor_counts_the_batches_of_a_norm_with_a_momentum(pair):
    _, model, _, _ = pair
    norms = [one for one in model.modules() if isinstance(one, nn.BatchNorm1d | nn.BatchNorm2d)]
    tracking = [norm for norm in norms if norm.track_running_stats]
    assert len(tracking) > 1
    assert all((norm.num_batches_tracked is None) == (norm.momentum is not None) for norm in tracking)


def test_a_state_dict_is_taken_up_and_training_goes_on_from_it(pair):
    plain, model, _, data = pair
    plain(data[1])
    model.load_state_dict(plain.state_dict())
    same(plain, model)
    model.load_state_dict(dict(plain.state_dict()))  # plain values, as a checkpoint's are
    plain(data[2]), model(data[2])
    same(plain, model)


def test_a_state_dict_goes_into_a_model_of_torchs_own(pair):
    plain, model, _, data = pair
    model(data[1])
    plain.load_state_dict(model.state_dict())
    same(plain, model)


def test_a_state_dict_that_lacks_a_count_or_has_a_key_too_many_is_refused_as_torch_does():
    model = build_model("resnet8", 4)
    BatchCounts(model)
    lacking, more = model.state_dict(), model.state_dict()
    del lacking["bn.num_batches_tracked"]
    more["bn.another"] = torch.zeros(1)
    for state, name in ((lacking, "bn.num_batches_tracked"), (more, "bn.another")):
        with pytest.raises(RuntimeError, match=name):
            model.load_state_dict(state)
        with pytest.raises(RuntimeError, match=name):
            build_model("resnet8", 4).load_state_dict(state)


def test_passes_without_python_are_added_and_an_earlier_value_is_restored(pair):
    plain, model, counts, data = pair
    before = counts.values()
    model(data[1])
    grown = counts.since(before)
    counts.restore(before)
    assert counts.values() == before
    for batch in data[1:4]:
        plain(batch)
        counts.add(grown)
    a, b = plain.state_dict(), model.state_dict()
    tracked = [name for name in a if name.endswith("num_batches_tracked") and "cumulative" not in name]
    assert len(tracked) > 1 and all(torch.equal(a[name], b[name]) for name in tracked)


@pytest.mark.parametrize("kind", [nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d])
def test_every_kind_of_batch_norm_is_taken_over(kind):
    norm = kind(3)
    BatchCounts(norm)
    assert norm.num_batches_tracked is None and norm.state_dict()["num_batches_tracked"] == 0


class Counting(nn.BatchNorm2d):
    """A batch norm whose own pass counts, as many a library's."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.num_batches_tracked += 1
        return x * self.num_batches_tracked


@pytest.mark.parametrize("kind", [nn.SyncBatchNorm, Counting])
def test_a_batch_norm_with_a_pass_of_its_own_counts_by_itself(kind):
    norm = kind(3).train()
    assert BatchCounts(norm).values() == {}
    for _ in range(2):
        norm(torch.randn(4, 3, 2, 2, generator=torch.Generator().manual_seed(0)))
    assert norm.state_dict()["num_batches_tracked"] == 2
