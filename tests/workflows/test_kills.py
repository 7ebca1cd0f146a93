"""Kills at random moments, forty on the digits and three on photographs; `make torture` does more."""

import multiprocessing
from pathlib import Path

import chain
import pytest
import torture

from dive.cache.reader import LogitCache


@pytest.mark.slow
def test_nothing_is_lost_or_half_written_whenever_a_command_is_killed(digits, tmp_path):
    target = torture.of_digits(digits)
    report = torture.torture(target, tmp_path, kills=40, seed=0)
    assert report.faults == []
    assert sum(report.kills.values()) >= 40
    assert all(report.kills[name] >= 3 for name in target.commands)


@pytest.mark.slow
def test_nothing_is_lost_and_no_worker_left_where_photographs_are_read_on_demand(tmp_path):
    report = torture.torture(torture.of_photographs(tmp_path), tmp_path, kills=3, seed=0)
    assert report.faults == []
    assert sum(report.kills.values()) == sum(report.kills_by_workers.values()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("spot", ["os:fsync", "os:replace"])
def test_a_plot_that_is_killed_while_it_is_written_leaves_no_half_figure(digits, spot):
    words = ("tune-tau", "--cache", digits.cache, "--plot", "p.png")
    assert chain.struck(spot, 1, *words).code == -9
    assert not Path("p.png").exists()
    chain.succeed(*words)
    assert Path("p.png").read_bytes()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_a_killed_eval_leaves_everything_as_it_was(digits):
    words = ("eval", digits.teacher, "--config", chain.CONFIG)
    before = chain.files_under(digits.folder)
    assert chain.struck("dive.models.resnet:CifarResNet.forward", 1, *words).code == -9
    assert chain.files_under(digits.folder) == before and chain.files_under() == {}
    chain.succeed(*words)


def hash_of(path: Path) -> str:
    """Read a cache to its last row."""
    cache = LogitCache(path)
    cache.whole()
    return cache.hash


def test_many_processes_read_one_cache_at_once(digits):
    context = multiprocessing.get_context("forkserver")
    with context.Pool(6) as pool:
        assert set(pool.map(hash_of, [digits.cache] * 24, chunksize=1)) == {hash_of(digits.cache)}
