"""A process that is killed before, within or after any write of either file loses nothing and doubles nothing."""

from __future__ import annotations

import pytest

from tests.proof_kills import killed_at_writes
from tests.proof_lives import Lives
from tests.proof_report import scratch, shortest
from tests.proof_writes import Fate
from tests.shares import share


def test_i1_i2_i3_i4_a_process_killed_at_its_writes_neither_loses_nor_doubles() -> None:
    killed_at_writes(16, seed=1).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_two_thousand_kills_at_writes() -> None:
    killed_at_writes(share(2000), seed=1000).must_hold()


def test_every_way_to_be_killed_at_a_write_ends_the_process() -> None:
    for how in ("before", "within", "after", "later"):
        with scratch() as folder:
            lives = Lives(folder, 3, 10)
            ended = lives.live(Fate(how, 9))
            assert ended.word == "killed"
            assert ended.writes == 9 or how == "later"


def test_the_target_outlives_the_process_and_would_show_what_comes_twice() -> None:
    with scratch() as folder:
        lives = Lives(folder, 3, 10)
        assert lives.live().word == "whole"
        assert not lives.wrong_at_target()
        lives.taken.append(lives.taken[0])
        assert any("came 2 times" in said for said in lives.wrong_at_target())
        del lives.taken[:2]
        assert any("the target has taken" in said for said in lives.wrong_at_target())


def test_the_shortest_script_has_only_the_steps_that_matter() -> None:
    assert shortest((1, 2, 3, 4, 5), lambda script: {2, 5} <= set(script)) == (2, 5)
