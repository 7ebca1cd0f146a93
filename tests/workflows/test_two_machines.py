"""Training and export by torchrun on two machines, which are network namespaces of this one.

They meet on the second; process 0 is on the one whose name comes first, whichever that is.
"""

from pathlib import Path

import chain
import machines
import pytest
import ranks
import torch

from dive.models import checkpoint

pytestmark = pytest.mark.slow
NETWORK = {"GLOO_SOCKET_IFNAME": machines.CABLE}


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    with machines.two_machines(tmp_path_factory.mktemp("hosts")) as pair:
        yield pair


def weights(path: Path) -> dict[str, torch.Tensor]:
    return checkpoint.load_finished(path)["model"]


def test_a_student_trained_across_two_machines_is_that_of_two_processes_on_one(both, digits):
    words = ("student", *chain.DIGITS, "--epochs", 2, "--cache", digits.cache)
    each = [(*words, "--out", f"{machine.name}/student.pt") for machine in both]
    ended = machines.torchrun(both, both[1], each, NETWORK)
    assert [outcome.code for outcome in ended] == [0, 0], ended
    assert "student" in ended[0].out and ended[1].out == ""
    assert not list(Path("beta").glob("*"))  # results are on the machine of process 0
    assert [outcome.code for outcome in ranks.forked(2, *words, "--out", "one.pt")] == [0, 0]
    across, on_one = weights(Path("alpha/student.pt")), weights(Path("one.pt"))
    assert across.keys() == on_one.keys()
    assert all(torch.equal(across[name], on_one[name]) for name in on_one)


def test_an_export_across_two_machines_that_share_a_folder_is_that_of_one_process(both, digits):
    words = ("export-logits", *chain.DIGITS, "--teacher", digits.teacher, "--set", "views.pad=3")
    ended = machines.torchrun(both, both[1], [(*words, "--out", "cache.h5")] * 2)
    assert [outcome.code for outcome in ended] == [0, 0], ended
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        chain.succeed(*words, "--out", "one.h5")
    finally:
        torch.set_num_threads(before)
    assert Path("cache.h5").read_bytes() == Path("one.h5").read_bytes()
    assert not list(Path().glob("*.shard*"))
