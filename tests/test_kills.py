"""Forty kills at random moments; `make torture` does two hundred."""

import pytest
import torture


@pytest.mark.slow
def test_nothing_is_lost_or_half_written_whenever_a_command_is_killed(digits, tmp_path):
    report = torture.torture(digits, tmp_path, kills=40, seed=0)
    assert report.faults == []
    assert sum(report.kills.values()) >= 40
    assert all(report.kills[name] >= 5 for name in ("teacher", "student", "export-logits"))
