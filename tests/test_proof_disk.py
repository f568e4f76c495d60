"""Where a disk is full or fails, nothing is sent on the strength of what it did not take, and the run can go on."""

from __future__ import annotations

import pytest

from tests.proof_disk import failing_disks, writes_of


def test_i2_nothing_leaves_after_a_write_that_failed() -> None:
    found = failing_disks(1, range(1, 60, 12))
    found.must_hold()
    assert found.refusals > found.points // 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_write_of_a_run_may_fail() -> None:
    for seed in (2, 4):
        failing_disks(seed, range(1, writes_of(seed) + 1)).must_hold()
