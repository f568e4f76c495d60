"""A checkpoint that went back in time: what the newer history sent is neither sent again nor lost, or refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from streammig.aftercare import undecided
from streammig.checkpoint import Books, Checkpoint
from streammig.errors import MachineFault, Unusable
from streammig.migration import Migration
from streammig.migration.crew import check_books
from streammig.records import BatchState, Kind, Receipt, Tally
from tests.test_delivery import Told, arrived, play
from tests.test_retry import dead, good_email, in_world, repair, retry
from tests.world import World, until_sealed

REFUSED = Receipt(Kind.REFUSED, 422, "no")
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
        undecided.decide(path, "streammig resolve", seq, stage, (stage, seq) not in lost, world.clock.time())


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


def test_books_that_do_not_balance_say_which_sides_do_not_agree() -> None:
    none, some = Tally(), Tally(2, 3)
    books = Books(read=none, ahead=some, accepted=some, dead=none, filtered=none, unknown=none, pending=none)
    check_books("events", books, whole=False)
    with pytest.raises(MachineFault, match=r"all of it is read, Tally\(records=0.* batches hold Tally\(records=2"):
        check_books("events", books, whole=True)
    with pytest.raises(MachineFault, match=r"read Tally\(records=2.*ahead of the rest, but accounted for Tally"):
        check_books("events", replace(books, accepted=none), whole=False)
