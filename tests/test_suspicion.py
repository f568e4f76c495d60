"""A checkpoint without its account's file: nothing is sent before it is known that an older life did not send it."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from streammig.cli.run import resume_command
from streammig.errors import UnknownOutcome, Unusable
from streammig.migration import Choice, Migration
from streammig.records import Kind, Receipt
from tests.memory_target import Crash
from tests.test_delivery import Told, arrived, ask, play
from tests.test_retry import retry
from tests.world import until_sealed

LOST_VOLUME = "the account's file does not know this checkpoint"


def lose_the_state_folder(world: Told) -> None:
    shutil.rmtree(world.folder / "state")


def copy_of(world: Told) -> Path:
    """The checkpoint as it is now, put aside; no run is on, so it is one file."""
    return Path(shutil.copy(world.folder / "run.checkpoint", world.folder / "copy"))


def go_back_to(world: Told, copy: Path) -> None:
    for end in ("-wal", "-shm"):
        (world.folder / f"run.checkpoint{end}").unlink(missing_ok=True)
    shutil.copy(copy, world.folder / "run.checkpoint")


async def confirmed(migration: Migration) -> bool:
    migration.ask = replace(migration.ask, current=True)
    return await migration.run()


def nothing_twice(world: Told) -> None:
    world.target.settle()
    for held in (world.target.customers, world.target.events, world.target.transactions):
        assert not [key for key, count in held.items() if count > 1]


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


def test_a_current_checkpoint_goes_on_without_its_account_s_file_as_far_as_its_batches_can_be_looked_for(
    tmp_path: Path,
) -> None:
    """That customers are not there does not prove that events never went: those of a pilot may have."""

    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(until_sealed) is False
        lose_the_state_folder(world)
        for _ in range(2):  # nor does it help to ask again
            ended = await world.live()
            assert isinstance(ended, UnknownOutcome)
            assert "batch 1 of events can't be looked for at the target" in ended.what
            assert any(LOST_VOLUME in said for said in world.said)
            assert {stage for _, stage, _ in world.scripted.sent} == {"customers"}
        assert await world.live(confirmed) is True
        arrived(world, keys)

    play(tmp_path, story, {"concurrency": 4}, "events")


def test_the_word_that_the_checkpoint_is_current_is_given_once(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        def end(stage: str, body: bytes) -> None:
            world.dead = stage == "events"

        assert await world.live(until_sealed) is False
        lose_the_state_folder(world)
        world.scripted.before = end
        assert isinstance(await world.live(confirmed), Crash)
        world.scripted.before = lambda stage, body: None
        before = len(world.said)
        assert isinstance(await world.live(), UnknownOutcome)  # the batch that was being sent is parked
        assert not any(LOST_VOLUME in said for said in world.said[before:])
        nothing_twice(world)

    play(tmp_path, story, stage="events")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_i3_the_doubt_outlasts_a_first_send(tmp_path: Path, concurrency: int) -> None:
    """The first batch was refused in the history that the copy does not know, so it is not there; it may go."""

    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        await world.live(until_sealed)
        copy = copy_of(world)
        world.scripted.script = {1: Receipt(Kind.REJECTED, 422, "no")}
        assert await world.live() is True
        lose_the_state_folder(world)
        go_back_to(world, copy)
        for _ in range(3):
            ended = await world.live()
            assert isinstance(ended, UnknownOutcome)
            assert "of customers already, though by this checkpoint they were never sent" in ended.what
        nothing_twice(world)

    settings = {"isolation_requests": 0, "isolation_share": 0.0, "concurrency": concurrency}
    play(tmp_path, story, settings, "events", stage="customers")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_i3_what_was_sent_just_before_the_state_folder_was_lost_is_given_time_to_appear(
    tmp_path: Path, concurrency: int
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        def end(stage: str, body: bytes) -> None:
            world.dead = len(world.scripted.sent) > 4

        await world.live(until_sealed)
        copy = copy_of(world)
        world.scripted.weather.queue = (40.0, 50.0)
        world.scripted.before = end
        assert isinstance(await world.live(), Crash)
        world.scripted.before = lambda stage, body: None
        lose_the_state_folder(world)
        go_back_to(world, copy)
        for _ in range(2):
            assert isinstance(await world.live(), UnknownOutcome)
        nothing_twice(world)

    play(tmp_path, story, {"concurrency": concurrency}, "events")


def test_i3_dead_customers_that_are_not_there_do_not_let_events_go_that_another_retry_has_sent(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        world.target.poison = frozenset({"c7"})
        world.scripted.script = {2: Receipt(Kind.REJECTED, 422, "oops")}
        assert await world.live() is True
        copy = copy_of(world)
        assert await world.live(retry(Choice(stages=frozenset({"events"})))) is True
        lose_the_state_folder(world)
        go_back_to(world, copy)
        world.target.poison = frozenset()
        assert isinstance(await world.live(retry()), UnknownOutcome)
        assert world.target.customers["c7"]
        nothing_twice(world)

    play(tmp_path, story, stage="events")


def test_i3_a_copy_that_is_older_than_the_one_a_new_account_s_file_met_first_is_refused(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        await world.live(until_sealed)
        copy = copy_of(world)
        assert await world.live() is True
        lose_the_state_folder(world)
        assert await world.live(confirmed) is True
        go_back_to(world, copy)
        before = len(world.scripted.sent)
        ended = await world.live()
        assert isinstance(ended, Unusable)
        assert "an older copy of itself that can't be brought up to date" in ended.what
        assert len(world.scripted.sent) == before

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

        world.scripted.before = end
        assert isinstance(await world.live(), Crash)
        world.scripted.before = lambda stage, body: None
        lose_the_state_folder(world)
        before = len(world.scripted.sent)
        ended = await world.live()
        assert isinstance(ended, UnknownOutcome)
        assert "of events can't be looked for at the target" in ended.what
        assert "--checkpoint-is-current" in ended.hint
        assert len(world.scripted.sent) == before
        assert isinstance(await world.live(confirmed), UnknownOutcome)  # the batch that was being sent is parked
        assert len(world.scripted.sent) > before
        nothing_twice(world)

    play(tmp_path, story, stage="events")


@pytest.mark.parametrize("pilot", [["--first", "5"], ["--first=5"]])
@pytest.mark.parametrize("doubles", [["--i-accept-doubles", "events"], ["--i-accept-doubles=events"]])
def test_a_confirmation_holds_for_one_call_only(pilot: list[str], doubles: list[str]) -> None:
    given = ["run", *pilot, *doubles, *doubles, "move.toml", "--checkpoint-is-current", "--quiet"]
    assert resume_command(given) == "streammig run move.toml --quiet"
