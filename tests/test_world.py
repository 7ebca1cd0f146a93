"""Which of several processes this one is."""

import pytest

from dive.errors import DiveError
from dive.world import World

TORCHRUN = {
    "RANK": "5",
    "WORLD_SIZE": "8",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "MASTER_ADDR": "127.0.0.1",
    "MASTER_PORT": "29500",
}


def test_a_process_knows_its_place_from_what_torchrun_sets():
    world = World.of(TORCHRUN)
    assert (world.rank, world.size, world.local_rank, world.local_size) == (5, 8, 1, 4)
    assert not world.first and World.of(TORCHRUN | {"RANK": "0", "LOCAL_RANK": "0"}).first


@pytest.mark.parametrize("lacking", TORCHRUN)
def test_a_process_without_one_of_the_variables_is_alone(lacking):
    rest = {name: value for name, value in TORCHRUN.items() if name != lacking}
    assert World.of(rest) == World() and World().first


@pytest.mark.parametrize(
    "wrong",
    [{"RANK": "8"}, {"RANK": "-1"}, {"WORLD_SIZE": "many"}, {"LOCAL_RANK": "4"}, {"LOCAL_WORLD_SIZE": "9"}],
)
def test_a_place_that_cannot_be_is_refused(wrong):
    with pytest.raises(DiveError, match="start dive with torchrun"):
        World.of(TORCHRUN | wrong)
