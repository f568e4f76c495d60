"""Whatever the target does with a request, nothing is there twice and the totals say what is there."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.proof_bad_days import FAULTS, bad_days, hour_of_502
from tests.shares import share


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [*FAULTS, "all"])
def test_five_hundred_requests_into_each_kind_of_bad_day(name: str) -> None:
    bad_days(name, share(500), 1).must_hold()


@pytest.mark.parametrize("seed", range(2))
def test_an_hour_of_nothing_but_502_leaves_no_more_unknown_than_was_in_flight(tmp_path: Path, seed: int) -> None:
    hour_of_502(tmp_path, seed)
