"""A checkpoint that went back in time: what the newer history sent is neither sent again nor lost, or refused."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from streammig.aftercare import undecided
from streammig.checkpoint import Books, Checkpoint
from streammig.errors import MachineFault, UnknownOutcome, Unusable
from streammig.migration import Migration
from streammig.migration.crew import check_books
from streammig.ports import Seen
from streammig.records import BatchState, Kind, Receipt, Record, Tally
from streammig.telemetry import Answered, Notice
from tests.memory_target import Crash
from tests.test_delivery import Told, arrived, play
from tests.test_retry import dead, good_email, in_world, repair, retry
from tests.world import World, until_sealed

REFUSED = Receipt(Kind.REJECTED, 422, "no")
# Every refused batch is dead as a whole, and any number may be parked.
PLAIN = {"isolation_requests": 0, "isolation_share": 0.0, "most_parked": 100}


def keep(folder: Path) -> None:
    shutil.copy(folder / "run.checkpoint", folder / "copy")


def set_back(folder: Path) -> None:
    for name in ("run.checkpoint-wal", "run.checkpoint-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(folder / "copy", folder / "run.checkpoint")


def decide(world: Told, *lost: tuple[str, int]) -> None:
    """The operator says of all that is undecided that it landed, but for these."""
    path = world.folder / "run.checkpoint"
    file = Checkpoint.open(path, read_only=True)
    states = (BatchState.PARKED, BatchState.UNKNOWN)
    left = [(row.name, batch.seq) for row in file.stages() for batch in file.batches(row.name, *states)]
    file.close()
    for stage, seq in left:
        undecided.decide(
            path,
            "streammig resolve",
            seq,
            stage,
            "landed" if (stage, seq) not in lost else "not-landed",
            world.clock.time(),
        )


def test_i4_what_was_dead_within_a_batch_that_an_older_copy_learns_of_is_sent_where_its_customer_is_there_now(
    tmp_path: Path,
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        await world.live(until_sealed)
        keep(tmp_path)
        world.scripted.script = {2: REFUSED}
        assert await world.live() is True
        assert dead(world)["events"]["owner-refused"]
        set_back(tmp_path)
        await world.live()
        decide(world, ("customers", 2))
        assert await world.live() is True
        assert not any(dead(world).values())
        arrived(world, keys)

    play(tmp_path, story, PLAIN, last="events")


def test_i1_what_was_sent_stays_sent_though_its_customer_is_refused_now_that_an_older_copy_goes_on(
    tmp_path: Path,
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        await world.live(until_sealed)
        keep(tmp_path)

        def end(stage: str, body: bytes) -> None:
            world.dead = len([0 for _, of, _ in world.scripted.sent if of == "events"]) == 3

        # The second batch is accepted, and lost by the target's queue.
        world.scripted.script = {2: Receipt(Kind.ACCEPTED, 201)}
        world.scripted.before = end
        await world.live()
        world.scripted.before = lambda stage, body: None
        set_back(tmp_path)
        await world.live()
        world.scripted.script = {1 + len(world.scripted.bodies()): REFUSED}
        decide(world, ("customers", 2))
        assert await world.live() is True
        assert dead(world)["customers"] == {"refused-with-its-batch": 43}
        assert all(books.balanced for books in world.books().values())
        world.target.settle()
        assert max(world.target.events.values()) == 1

    play(tmp_path, story, PLAIN, last="events")


@pytest.mark.parametrize("later", [False, True])
def test_i3_a_copy_from_before_a_repaired_retry_is_refused_by_run_and_retry_and_left_as_it_was(
    tmp_path: Path, later: bool
) -> None:
    async def story(world: World, keys: dict[str, set[str]]) -> None:
        world.target.poison = frozenset()
        await world.live() if later else await world.live(until_sealed)
        keep(tmp_path)
        assert await world.live() is True
        fixed = repair(world, good_email)
        assert await world.live(retry(repaired=fixed)) is True
        made = world.target.requests
        set_back(tmp_path)
        before = world.books()
        for work in (Migration.run, retry(repaired=fixed)):
            ended = await world.live(work)
            assert isinstance(ended, Unusable)
            assert "was made of dead letters and sent, later than this copy was made" in ended.what
            assert "Restore the newest copy" in ended.hint
        assert world.books() == before
        assert world.target.requests == made

    in_world(tmp_path, story)


# -- together with the state folder: a backup of the whole machine ---------------------------------------------------


def back_up(folder: Path) -> None:
    for name in ("run.checkpoint", "run.checkpoint-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, folder / name.replace("run", "backup"))
    shutil.copytree(folder / "state", folder / "state.backup")


def restore(folder: Path) -> None:
    for name in ("run.checkpoint", "run.checkpoint-wal", "run.checkpoint-shm"):
        (folder / name).unlink(missing_ok=True)
    for name in ("backup.checkpoint", "backup.checkpoint-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, folder / name.replace("backup", "run"))
    shutil.rmtree(folder / "state")
    shutil.copytree(folder / "state.backup", folder / "state")


def pilot(migration: Migration) -> Coroutine[Any, Any, bool]:
    migration.ask = replace(migration.ask, first=60)
    return migration.run()


def at_request(world: Told, stage: str, number: int) -> None:
    """The machine ends at this request of a stage."""

    def end(of: str, body: bytes) -> None:
        world.dead = of == stage and len([0 for _, each, _ in world.scripted.sent if each == stage]) == number

    world.scripted.before = end


def never(world: Told) -> None:
    world.scripted.before = lambda stage, body: None


@pytest.mark.parametrize("begun", ["crash", "pilot"])
def test_i3_a_machine_that_was_set_back_while_customers_went_sends_nothing(tmp_path: Path, begun: str) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        if begun == "crash":
            at_request(world, "customers", 2)
            assert isinstance(await world.live(), Crash)
            never(world)
        else:
            assert await world.live(pilot) is False
        back_up(tmp_path)
        assert await world.live() is True
        restore(tmp_path)
        made = world.target.requests
        for _ in range(2):  # nor does it help to ask again
            ended = await world.live()
            assert isinstance(ended, UnknownOutcome)
            assert "already, as this run would send them" in ended.what
            assert "--checkpoint-is-current" in ended.hint
        assert world.target.requests == made

    play(tmp_path, story, {"concurrency": 4}, "events")


def test_i3_a_machine_that_was_set_back_while_events_went_sends_nothing_if_transactions_are_there(
    tmp_path: Path,
) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        at_request(world, "events", 3)
        assert isinstance(await world.live(), Crash)
        never(world)
        back_up(tmp_path)
        await world.live()
        decide(world)  # the batch of events that was being sent
        assert await world.live() is True
        restore(tmp_path)
        made = world.target.requests
        ended = await world.live()
        assert isinstance(ended, UnknownOutcome)
        assert "the target holds transactions of record" in ended.what
        assert world.target.requests == made

    play(tmp_path, story, PLAIN, last="transactions")


@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
def test_a_plain_resume_looks_for_a_few_records_and_asks_nobody(tmp_path: Path, stage: str) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        # Those who stood there before, otherwise than they are sent, are no sign of a newer copy.
        world.target.strangers = frozenset(list(keys["customers"])[::2])
        assert await world.live(until_answered(stage, 2)) is False
        looked: list[str] = []
        before: list[int] = []
        visible = world.target.visible

        async def counted(of: str, record: Record) -> Seen:
            looked.append(of)
            return await visible(of, record)

        world.target.visible = counted  # type: ignore[method-assign, assignment]
        world.scripted.before = lambda of, body: before.append(len(looked))
        assert await world.live() is True
        arrived(world, keys)
        coming = looked[: before[0]].count("customers" if stage == "customers" else "transactions")
        assert coming == (5 if stage == "customers" else 2)  # the gate behind the customers looks for more of these

    play(tmp_path, story, last="transactions")


def test_a_resume_in_an_outage_does_not_wait_for_one_look_after_the_other(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(until_answered("customers", 2)) is False
        looked: list[str] = []
        visible, before = world.target.visible, world.scripted.before

        async def dark(of: str, record: Record) -> Seen:
            looked.append(record.owner)
            return Seen.CANT_TELL

        def over(stage: str, body: bytes) -> None:
            world.target.visible = visible  # type: ignore[method-assign]
            world.scripted.before = before

        world.target.visible = dark  # type: ignore[method-assign, assignment]
        world.scripted.before = over
        assert await world.live() is True
        assert len(set(looked)) == 1  # again and again for one, then no more
        assert any("customers can't be looked for at the target now" in it for it in world.said)
        arrived(world, keys)

    play(tmp_path, story)


def test_i3_a_moment_in_which_nothing_can_be_read_does_not_hide_that_the_machine_was_set_back(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(pilot) is False
        back_up(tmp_path)
        assert await world.live() is True
        restore(tmp_path)
        visible = world.target.visible
        missed: list[Record] = []

        async def first_missed(of: str, record: Record) -> Seen:
            if not missed:
                missed.append(record)
                return Seen.CANT_TELL
            return await visible(of, record)

        world.target.visible = first_missed  # type: ignore[method-assign, assignment]
        assert isinstance(await world.live(), UnknownOutcome)

    play(tmp_path, story)


def test_i3_a_first_try_that_found_no_connection_does_not_count_as_a_beginning(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live() is True
        (tmp_path / "run.checkpoint").rename(tmp_path / "other.checkpoint")
        visible = world.target.visible

        async def dark(of: str, record: Record) -> Seen:
            return Seen.CANT_TELL

        world.target.visible = dark  # type: ignore[method-assign, assignment]
        world.scripted.script = dict.fromkeys(range(100), Receipt(Kind.NOT_SENT, None, "no connection"))
        assert await world.live(until_answered("customers", 1)) is False
        world.target.visible, world.scripted.script = visible, {}  # type: ignore[method-assign]
        ended = await world.live()
        assert isinstance(ended, Unusable)
        assert "are at the target already" in ended.what

    play(tmp_path, story)


def test_a_few_customers_who_stood_there_just_as_they_would_be_sent_stop_no_resume(tmp_path: Path) -> None:
    async def story(world: Told, keys: dict[str, set[str]]) -> None:
        assert await world.live(until_answered("customers", 2)) is False
        visible, looked = world.target.visible, count()

        async def some_there(of: str, record: Record) -> Seen:
            return Seen.ALL if next(looked) in (1, 3) else await visible(of, record)

        world.target.visible = some_there  # type: ignore[method-assign, assignment]
        assert await world.live() is True
        arrived(world, keys)

    play(tmp_path, story)


def until_answered(stage: str, number: int) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
    """A run that is drained at this answer of a stage."""

    def work(migration: Migration) -> Coroutine[Any, Any, bool]:
        tell, answers = migration.tell, count(1)

        def hear(notice: Notice) -> None:
            tell(notice)
            if isinstance(notice, Answered) and notice.batch.stage == stage and next(answers) == number:
                migration.drain()

        migration.tell = hear
        return migration.run()

    return work


def test_books_that_do_not_balance_say_which_sides_do_not_agree() -> None:
    none, some = Tally(), Tally(2, 3)
    books = Books(read=some, accepted=some, dead=none, filtered=none, unknown=none, pending=none)
    check_books("events", books)
    with pytest.raises(MachineFault, match=r"read Tally\(records=2.*, but accounted for Tally\(records=0"):
        check_books("events", replace(books, accepted=none))
