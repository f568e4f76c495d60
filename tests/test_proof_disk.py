"""Where a disk is full or fails, nothing is sent on the strength of what it did not take, and the run can go on."""

from __future__ import annotations

from random import Random

import pytest

from tests.proof_disk import failing_disks, writes_of
from tests.shares import share


def test_i2_nothing_leaves_after_a_write_that_failed() -> None:
    found = failing_disks(1, range(1, 60, 20))
    found.must_hold()
    assert found.refusals > found.points // 2


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_write_of_a_run_may_fail() -> None:
    for seed in (2, 4):
        writes = writes_of(seed)
        failing_disks(seed, sorted(Random(seed).sample(range(1, writes + 1), share(writes)))).must_hold()
