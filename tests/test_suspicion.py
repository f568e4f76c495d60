"""A checkpoint without its account's file: nothing is sent before it is known that an older life did not send it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from streammig.cli.run import resume_command
from streammig.errors import UnknownOutcome, Unusable
from streammig.migration import Migration
from tests.memory_target import Crash
from tests.test_delivery import Told, arrived, ask, play
from tests.world import until_sealed

LOST_VOLUME = "the account's file does not know this checkpoint"


def lose_the_state_folder(world: Told) -> None:
    shutil.rmtree(world.folder / "state")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_i3_a_copy_from_before_the_first_send_is_found_out_though_the_state_folder_is_lost(
    tmp_path: Path, concurrency: int
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(until_sealed) is False
        assert ask(world, "SELECT count(*) FROM attempt") == [(0,)]
        shutil.copy(tmp_path / "run.checkpoint", tmp_path / "copy")
        assert await world.live() is True
        assert not any(LOST_VOLUME in said for said in world.said)
        lose_the_state_folder(world)
        shutil.copy(tmp_path / "copy", tmp_path / "run.checkpoint")
        ended = await world.live()
        assert isinstance(ended, UnknownOutcome)
        assert "the target holds records of batch 1 of customers already" in ended.what
        assert any(LOST_VOLUME in said for said in world.said)
        arrived(world, keys)

    play(tmp_path, story, {"concurrency": concurrency}, "events")


def test_a_current_checkpoint_goes_on_without_its_account_s_file_once_what_comes_first_was_looked_for(
    tmp_path: Path,
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(until_sealed) is False
        lose_the_state_folder(world)
        assert await world.live() is True
        assert any(LOST_VOLUME in said for said in world.said)
        arrived(world, keys)

    play(tmp_path, story, {"concurrency": 4}, "events")


def test_i3_a_new_checkpoint_sends_nothing_where_another_has_sent_the_same_customers(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live() is True
        for name in ("run.checkpoint", "run.checkpoint-wal", "run.checkpoint-shm"):
            (tmp_path / name).unlink(missing_ok=True)
        before = len(world.scripted.sent)
        for _ in range(2):  # nor does it help to ask again
            ended = await world.live()
            assert isinstance(ended, Unusable)
            assert "5 of the first 5 customers of the export are at the target already" in ended.what
            assert "--checkpoint-is-current" in ended.hint
        assert len(world.scripted.sent) == before
        arrived(world, keys)

    play(tmp_path, story, {"concurrency": 4}, "events")


def test_i3_where_what_comes_first_are_events_nothing_is_sent_unless_somebody_knows(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        def end(stage: str, body: bytes) -> None:
            world.dead = stage == "events"

        async def confirmed(migration: Migration) -> bool:
            migration.ask = replace(migration.ask, current=True)
            return await migration.run()

        world.scripted.before = end
        assert isinstance(await world.live(), Crash)
        world.scripted.before = lambda stage, body: None
        lose_the_state_folder(world)
        before = len(world.scripted.sent)
        ended = await world.live()
        assert isinstance(ended, UnknownOutcome)
        assert "the first to be sent, can't be looked for at the target" in ended.what
        assert "--checkpoint-is-current" in ended.hint
        assert len(world.scripted.sent) == before
        assert isinstance(await world.live(confirmed), UnknownOutcome)  # the batch that was being sent is parked
        assert len(world.scripted.sent) > before
        world.target.settle()
        assert max(world.target.events.values()) == 1

    play(tmp_path, story, stage="events")


@pytest.mark.parametrize("pilot", [["--first", "5"], ["--first=5"]])
@pytest.mark.parametrize("doubles", [["--i-accept-doubles", "events"], ["--i-accept-doubles=events"]])
def test_a_confirmation_holds_for_one_call_only(pilot: list[str], doubles: list[str]) -> None:
    given = ["run", *pilot, *doubles, *doubles, "move.toml", "--checkpoint-is-current", "--quiet"]
    assert resume_command(given) == "streammig run move.toml --quiet"
