"""Two commands at once: one checkpoint is held by one of them, one account's limits hold for both together."""

from __future__ import annotations

import pytest

from tests.proof_races import on_one_account, on_one_checkpoint
from tests.shares import share


def test_i3_of_two_runs_on_one_checkpoint_one_works_and_the_other_exits_with_11() -> None:
    found = on_one_checkpoint(3, seed=1)
    found.must_hold()
    assert found.refusals


@pytest.mark.slow
def test_i7_two_runs_on_one_account_keep_its_limits_together() -> None:
    on_one_account(3, seed=1).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_races() -> None:
    found = on_one_checkpoint(share(100), seed=2)
    found.must_hold()
    assert found.refusals > found.points // 2
    on_one_account(share(100), seed=2).must_hold()
