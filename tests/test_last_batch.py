"""The end of a stage: what shows the fate of an unknown batch where hardly anything comes after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from streammig.errors import UnknownOutcome
from streammig.migration import Migration
from streammig.model import Kind, Receipt
from tests.test_delivery import Told, arrived, play, played, states
from tests.world import Keys

UNKNOWN = Receipt(Kind.UNKNOWN)


def owners(body: bytes) -> list[str]:
    return [each["id"] for each in next(iter(json.loads(body).values()))]


@pytest.mark.parametrize("landed", [False, True])
@pytest.mark.parametrize("stage", ["customers", "transactions"])
def test_i3_the_last_batch_is_split_until_its_parts_show_what_became_of_an_unknown_one(
    tmp_path: Path, stage: str, landed: bool
) -> None:
    number, size = {"customers": (6, 10_000), "transactions": (11, 40_000)}[stage]  # the last but one

    async def story(world: Told, keys: Keys) -> None:
        assert await world.live() is True
        arrived(world, keys)
        bodies = [owners(body) for body in world.scripted.bodies()]
        alone = [at for at, found in enumerate(bodies) if len(found) == 1 and at >= number]
        assert alone == [number, number + 1, number + 2]
        again = [] if landed else [bodies[number - 1]]
        assert bodies[number + 3 : -1] == again
        assert len(bodies[-1]) > 1
        assert states(world, stage).count("parked") == 0

    there = frozenset({number}) if landed else frozenset()
    play(tmp_path, story, {"max_bytes": size}, stage=stage, script={number: UNKNOWN}, landed=there)


@played(script={6: UNKNOWN, 10: UNKNOWN})
async def test_i3_one_that_becomes_unknown_again_is_shown_by_more_parts(world: Told, keys: Keys) -> None:
    assert await world.live() is True
    arrived(world, keys)
    alone = [at for at, body in enumerate(world.scripted.bodies()) if len(owners(body)) == 1]
    assert alone == [6, 7, 8, 10, 11, 12]


@played(script={7: UNKNOWN})
async def test_i3_where_nothing_is_left_to_send_it_is_parked_and_said(world: Told, keys: Keys) -> None:
    assert isinstance(await world.live(), UnknownOutcome)
    assert states(world)[-1] == "parked"
    assert "it is parked for you to decide" in world.said[-1]


@played(script={2: UNKNOWN})
async def test_i3_a_pilot_leaves_it_unknown_and_what_the_full_run_sends_shows_it(world: Told, keys: Keys) -> None:
    def pilot(migration: Migration) -> object:
        migration.ask = migration.ask.__class__(migration.ask.command, first=60, unchecked=True)
        return migration.run()

    assert isinstance(await world.live(pilot), UnknownOutcome)  # type: ignore[arg-type]
    assert states(world) == ["accepted", "unknown"]
    assert world.scripted.requests == 1
    assert await world.live() is True
    arrived(world, keys)
    assert set(states(world)) == {"accepted"}
