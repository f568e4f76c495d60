"""A stage that is cut anywhere goes on with the batches as they were sealed, and with counters that are right."""

from __future__ import annotations

import pytest

from streammig.stages import STAGES
from tests.proof_cuts import cut_stages


@pytest.mark.parametrize("stage", STAGES)
def test_i1_i2_i4_a_cut_stage_goes_on_byte_for_byte_and_counts_right(stage: str) -> None:
    cut_stages(stage, range(6)).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_hundreds_of_random_cuts() -> None:
    found = [cut_stages(stage, range(100, 140)) for stage in STAGES]
    for each in found:
        each.must_hold()
    assert sum(each.points for each in found) >= 200
