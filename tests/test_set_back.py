"""A checkpoint that went back in time is refused by the fence, or found at the target."""

from __future__ import annotations

import hashlib
import re
import shutil
import sqlite3
from collections.abc import Callable, Coroutine
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, FenceFile, Mark, Totals, fence_path
from streammig.checkpoint.sqlite import SharedFile
from streammig.cli import resolve
from streammig.cli.run import resume_command
from streammig.errors import MachineFault, UnknownOutcome, Unusable
from streammig.migration import Migration
from streammig.model import BatchState, Kind, Place, Receipt, Record, Tally
from streammig.ratelimit.state import AccountState
from streammig.run import check_totals
from streammig.target import Seen
from streammig.telemetry import Answered
from tests.memory_target import Crash
from tests.problems import raises
from tests.proof_copies import commands_put_back
from tests.proof_copies import put_back as copies_put_back
from tests.shares import share
from tests.test_delivery import Told, arrived, ask, play, played
from tests.test_retry import dead, retry
from tests.world import Keys, World, drained_at, until_sealed

REFUSED = Receipt(Kind.REJECTED, 422, "no")
# Every refused batch is dead as a whole, and any number may be parked.
PLAIN = {"isolation_requests": 0, "isolation_share": 0.0, "most_parked": 100}
Work = Callable[[Migration], Coroutine[Any, Any, bool]]


def content(folder: Path) -> dict[str, bytes]:
    """All files but SQLite's shared memory."""
    found = [path for path in folder.rglob("*") if path.is_file() and not path.name.endswith("-shm")]
    return {str(path.relative_to(folder)): path.read_bytes() for path in found}


def keep(folder: Path) -> None:
    shutil.copy(folder / "run.checkpoint", folder / "copy")


def set_back(folder: Path) -> None:
    for name in ("run.checkpoint-wal", "run.checkpoint-shm"):
        (folder / name).unlink(missing_ok=True)
    shutil.copy(folder / "copy", folder / "run.checkpoint")


def lose_the_state_folder(world: World) -> None:
    shutil.rmtree(world.folder / "state")


def asking(work: Work = Migration.run, **asked: Any) -> Work:
    """A run with options."""

    def called(migration: Migration) -> Coroutine[Any, Any, bool]:
        migration.ask = replace(migration.ask, **asked)
        return work(migration)

    return called


async def refused(world: Told, code: str, work: Work = Migration.run) -> Unusable:
    """What a run says that is refused with this code, and makes no request."""
    made = world.target.requests
    ended = await world.live(work)
    assert isinstance(ended, Unusable)
    assert ended.code == code
    assert world.target.requests == made
    return ended


def seeing(world: Told, answer: Callable[[str, Record], Seen | None]) -> Callable[[], None]:
    """Read-backs get this answer instead, where it is not None; returns what ends that."""
    visible = world.target.visible

    async def asked(of: str, record: Record) -> Seen:
        return answer(of, record) or await visible(of, record)

    world.target.visible = asked  # type: ignore[method-assign, assignment]
    return lambda: setattr(world.target, "visible", visible)


def decide(world: Told) -> None:
    """The operator says of each batch that is undecided what became of it."""
    path = world.folder / "run.checkpoint"
    taken = {hashlib.sha256(body).digest() for _, body in world.target.taken}
    file = Checkpoint.open(path, read_only=True)
    states = (BatchState.PARKED, BatchState.UNKNOWN)
    left = [(row.name, batch) for row in file.stages() for batch in file.batches(row.name, *states)]
    file.close()
    for stage, batch in left:
        ruling = "landed" if batch.digest in taken else "not-landed"
        resolve.decide(path, "streammig resolve", batch.seq, stage, ruling, world.clock.time())


# -- the fence -------------------------------------------------------------------------------------------------------


def test_a_fence_only_rises_and_is_kept_for_each_checkpoint(tmp_path: Path) -> None:
    path = fence_path(tmp_path / "state", "a")
    file = FenceFile(path)
    assert file.mark() is None
    for mark in (Mark(5, 1, Place(0, 90, 2, 4), 3), Mark(4, 0, Place(1, 7)), Mark(6)):
        file.raise_to(mark)
    reached = Mark(6, 1, Place(0, 90, 2, 4), 3)
    for _ in ("while a run has it", "after"):
        again = FenceFile(path, read_only=True)
        assert again.mark() == reached
        again.close()
        file.close()
    assert [(it.name, it.stat().st_mode & 0o777) for it in path.parent.iterdir()] == [("a.fence", 0o600)]


@pytest.mark.parametrize("kind", [FenceFile, AccountState])
def test_a_crash_in_the_first_commit_of_a_shared_file_leaves_none(tmp_path: Path, kind: type[SharedFile]) -> None:
    made, left = tmp_path / "made", tmp_path / "left"
    made.touch()
    db = sqlite3.connect(made, isolation_level=None)
    for pragma in ("journal_mode = TRUNCATE", "cache_size = 1"):  # so pages are written before the commit
        db.execute(f"PRAGMA {pragma}")
    db.execute("BEGIN IMMEDIATE")
    for number in range(200):
        db.execute(f"CREATE TABLE t{number} (x)")
    for end in ("", "-journal"):
        shutil.copy(f"{made}{end}", f"{left}{end}")
        assert Path(f"{left}{end}").stat().st_size
    db.close()
    assert not kind.is_there(left)
    kind(left).close()
    assert kind.is_there(left)


@pytest.mark.parametrize(
    ("stage", "begin", "covered"),
    [
        (0, Place(9, 9, 9), True),
        (1, Place(0, 89), True),
        (1, Place(0, 90, 1), True),
        (1, Place(0, 90, 2, 99), False),
        (1, Place(1, 0), False),
        (2, Place(), False),
    ],
)
def test_a_mark_covers_what_begins_before_its_place(stage: int, begin: Place, covered: bool) -> None:
    assert Mark(1, 1, Place(0, 90, 2, 4)).covers(stage, begin) is covered


@pytest.mark.parametrize(
    ("since", "concurrency"), [("crash", 1), ("crash", 4), ("run", 1), ("isolation", 4), ("retry", 1)]
)
def test_i3_i8_an_older_copy_is_refused_and_changes_no_file(tmp_path: Path, since: str, concurrency: int) -> None:
    """Whatever was done since: the next requests, all of them, parts of a refused batch, or dead letters."""

    async def story(world: Told, keys: Keys) -> None:
        if since == "retry":
            world.scripted.script = {2: REFUSED}
            assert await world.live() is True
        else:
            await world.live(until_sealed)
        keep(tmp_path)
        if since == "crash":
            at_request(world, "customers", 2)
        elif since == "isolation":
            world.target.poison = frozenset({"c7"})
        ended = await world.live(retry() if since == "retry" else Migration.run)
        assert isinstance(ended, Crash) if since == "crash" else ended is True
        never(world)
        set_back(tmp_path)
        before = content(tmp_path)
        for work in (Migration.run, retry(), asking(current=True)):
            assert "--newest-is-lost" in (await refused(world, "checkpoint-stale", work)).hint
        if since in ("isolation", "retry"):
            await refused(world, "checkpoint-stale-for-good", asking(newest_lost=True))
        assert content(tmp_path) == before

    settings = {"concurrency": concurrency} | (PLAIN if since == "retry" else {})
    play(tmp_path, story, settings, last="events")


@played()
async def test_i8_how_many_requests_are_newer_is_said(world: Told, keys: Keys, tmp_path: Path) -> None:
    await world.live(until_sealed)
    keep(tmp_path)
    assert await world.live() is True
    set_back(tmp_path)
    ended = await refused(world, "checkpoint-stale")
    assert f"{len(world.scripted.sent)} requests newer than this copy" in ended.what


@pytest.mark.parametrize("begun", [False, True])
@played()
async def test_i8_without_a_fence_the_operator_is_asked_once_before_a_record_is_read(
    world: Told, keys: Keys, tmp_path: Path, begun: bool
) -> None:
    if begun:
        at_request(world, "customers", 3)
        assert isinstance(await world.live(), Crash)
        never(world)
    else:
        await world.live(until_sealed)
    keep(tmp_path)
    lose_the_state_folder(world)
    before = content(tmp_path)
    for lost in (False, True):
        ended = await refused(world, "fence-missing", asking(newest_lost=lost))
        assert "--checkpoint-is-current" in ended.hint
        assert not [key for key in content(tmp_path) if key not in before and not key.startswith("state/accounts")]
    await world.live(asking(until_sealed if not begun else until_answered("customers", 2), current=True))
    assert await world.live() is True
    arrived(world, keys)
    set_back(tmp_path)  # the word never passes a newer fence
    await refused(world, "checkpoint-stale", asking(current=True))


@played()
async def test_i8_a_new_checkpoint_has_a_fence_before_it_has_its_name(world: Told, keys: Keys, tmp_path: Path) -> None:
    for step in range(1, 40):
        await world.live(crash_at=step)
        if (tmp_path / "run.checkpoint").exists():
            break
        shutil.rmtree(tmp_path / "state", ignore_errors=True)
    ((run_id,),) = ask(world, "SELECT id FROM run")
    assert (tmp_path / "state" / f"{run_id}.fence").stat().st_size


# -- the newest copy is lost -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("copied", "landed", "concurrency"),
    [
        ("sealed", True, 1), ("sealed", False, 4), ("customers", True, 4), ("customers", False, 1),
        ("transactions", True, 1), ("transactions", False, 4),
    ],
)  # fmt: skip
def test_i3_i4_an_older_copy_goes_on_where_the_newest_is_lost(
    tmp_path: Path, copied: str, landed: bool, concurrency: int
) -> None:
    """The lost run ended at some request of transactions, which landed or not; nothing comes twice or is missing."""

    async def story(world: Told, keys: Keys) -> None:
        await world.live(until_sealed if copied == "sealed" else until_answered(copied, 2))
        keep(tmp_path)
        at_request(world, "transactions", 9)
        assert isinstance(await world.live(), Crash)
        if landed:
            body = next(body for _, stage, body in reversed(world.scripted.sent) if stage == "transactions")
            world.target._take("transactions", body)
        never(world)
        set_back(tmp_path)
        await refused(world, "checkpoint-stale")
        ended = await world.live(asking(newest_lost=True))
        for _ in range(2):  # what can't be told in one run is told, or parked, in the next ones
            if ended is not True:
                decide(world)
                ended = await world.live()
        assert ended is True
        world.target.settle()
        for stage in ("customers", "transactions"):
            assert set(getattr(world.target, stage)) == keys[stage], stage
            assert max(getattr(world.target, stage).values()) == 1, stage
        assert all(totals.balanced for totals in world.totals().values())

    play(tmp_path, story, PLAIN | {"concurrency": concurrency, "events": {}}, last="transactions")


@pytest.mark.parametrize("step", [1, 3, 4, 5, 6, 20])
@played()
async def test_a_crash_right_after_the_word_that_the_newest_is_lost_asks_for_no_other_word(
    world: Told, keys: Keys, tmp_path: Path, step: int
) -> None:
    """The bodies that the lost run had settled are made again from the export, also by a later call."""

    await world.live(until_sealed)
    keep(tmp_path)
    at_request(world, "customers", 5)
    assert isinstance(await world.live(), Crash)
    never(world)
    set_back(tmp_path)
    assert isinstance(await world.live(asking(newest_lost=True), crash_at=step), Crash)
    ended = await world.live()
    if isinstance(ended, Unusable):
        assert ended.code == "checkpoint-stale"  # the word had not been noted yet
        ended = await world.live(asking(newest_lost=True))
    assert ended is True
    arrived(world, keys)


@pytest.mark.parametrize("place", [30_000, 38_000, 46_000])
@pytest.mark.parametrize("concurrency", [1, 2, 4])
def test_i4_batches_that_a_lost_copy_did_not_deliver_are_sent_or_parked_and_end_no_run_in_waiting(
    tmp_path: Path, concurrency: int, place: int
) -> None:
    """More of them than workers, and so few later ones that not all of them can be told."""

    async def story(world: Told, keys: Keys) -> None:
        await world.live(until_sealed)
        ((run_id, tick),) = ask(world, "SELECT id, tick FROM run")
        fence = FenceFile(fence_path(tmp_path / "state", run_id))  # as if requests had come so far, and been lost
        fence.raise_to(Mark(tick + 20, 0, Place(0, place)))
        fence.close()
        ended = await world.live(asking(newest_lost=True))
        if isinstance(ended, UnknownOutcome):
            decide(world)
            ended = await world.live()
        assert ended is True
        arrived(world, keys)

    play(tmp_path, story, PLAIN | {"concurrency": concurrency})


@played(PLAIN, last="events")
async def test_i3_events_that_a_lost_copy_may_have_sent_are_parked(world: Told, keys: Keys, tmp_path: Path) -> None:
    assert await world.live(until_answered("events", 1)) is False
    keep(tmp_path)
    at_request(world, "events", 3)
    assert isinstance(await world.live(), Crash)
    never(world)
    set_back(tmp_path)
    assert isinstance(await world.live(asking(newest_lost=True)), UnknownOutcome)
    assert ask(world, "SELECT count(*) FROM batch WHERE stage = 'events' AND state = 'parked'") == [(2,)]
    decide(world)
    assert await world.live() is True
    world.target.settle()
    assert max(world.target.events.values()) == 1


@played()
async def test_i4_a_batch_that_a_lost_pilot_had_cut_otherwise_is_told_by_each_owner(
    world: Told, keys: Keys, tmp_path: Path
) -> None:
    """The pilot's customers landed, the others of the same batch did not: they are dead letters, for a retry."""

    assert isinstance(await world.live(crash_at=20), Crash)
    assert ask(world, "SELECT count(*) FROM batch") == [(0,)]
    keep(tmp_path)
    assert await world.live(asking(first=20)) is False
    at_request(world, "customers", 2)
    assert isinstance(await world.live(), Crash)
    never(world)
    set_back(tmp_path)
    assert await world.live(asking(newest_lost=True)) is True
    there = len([key for key in keys["customers"] if int(key[1:]) < 20])
    assert dead(world)["customers"] == {"accepted-in-part": 43 - there}
    assert await world.live(retry()) is True
    arrived(world, keys)


def test_i3_i4_older_copies_put_back_at_any_moment_double_and_lose_nothing() -> None:
    found = copies_put_back(8, seed=1)
    found.must_hold()
    assert found.refusals
    assert found.unknowns


def test_i3_i4_the_command_doubles_and_loses_nothing_after_kills_and_older_copies() -> None:
    commands_put_back(1, seed=1).must_hold()


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("part", range(6))
def test_six_thousand_histories_of_copies_put_back(part: int) -> None:
    copies_put_back(share(980), seed=10_000 * (1 + part)).must_hold()
    found = commands_put_back(share(20), seed=10_000 * (1 + part))
    found.must_hold()
    assert found.refusals


@pytest.mark.parametrize("pilot", [["--first", "5"], ["--first=5"]])
@pytest.mark.parametrize("doubles", [["--i-accept-doubles", "events"], ["--i-accept-doubles=events"]])
def test_a_confirmation_holds_for_one_call_only(pilot: list[str], doubles: list[str]) -> None:
    words = ["--checkpoint-is-current", "--newest-is-lost"]
    given = ["run", *pilot, *doubles, *doubles, "move.toml", *words, "--quiet"]
    assert resume_command(given) == "streammig run move.toml --quiet"


# -- together with the state folder: a backup of the whole machine ---------------------------------------------------


def back_up(folder: Path) -> None:
    for name in ("run.checkpoint", "run.checkpoint-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, folder / name.replace("run", "backup"))
    for name in ("state", "run.checkpoint.outbox"):
        shutil.copytree(folder / name, folder / f"{name}.backup")


def restore(folder: Path) -> None:
    for name in ("run.checkpoint", "run.checkpoint-wal", "run.checkpoint-shm"):
        (folder / name).unlink(missing_ok=True)
    for name in ("backup.checkpoint", "backup.checkpoint-wal"):
        if (folder / name).exists():
            shutil.copy(folder / name, folder / name.replace("backup", "run"))
    for name in ("state", "run.checkpoint.outbox"):
        shutil.rmtree(folder / name, ignore_errors=True)
        shutil.copytree(folder / f"{name}.backup", folder / name)


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
@played({"concurrency": 4}, "events")
async def test_i3_a_machine_that_was_set_back_while_customers_went_sends_nothing(
    world: Told, keys: Keys, tmp_path: Path, begun: str
) -> None:
    if begun == "crash":
        at_request(world, "customers", 2)
        assert isinstance(await world.live(), Crash)
        never(world)
    else:
        assert await world.live(pilot) is False
    back_up(tmp_path)
    assert await world.live() is True
    restore(tmp_path)
    for _ in range(2):  # nor does it help to ask again
        found = await refused(world, "checkpoint-behind-target")
        assert "--checkpoint-is-current" in found.hint
        assert re.search(r"record \d+ of \S*customers\S*", found.what)


@played(PLAIN, last="transactions")
async def test_i3_a_machine_that_was_set_back_while_events_went_sends_nothing_if_transactions_are_there(
    world: Told, keys: Keys, tmp_path: Path
) -> None:
    at_request(world, "events", 3)
    assert isinstance(await world.live(), Crash)
    never(world)
    back_up(tmp_path)
    await world.live()
    decide(world)  # the batch of events that was being sent
    assert await world.live() is True
    restore(tmp_path)
    await refused(world, "checkpoint-behind-target")


@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
@played(last="transactions")
async def test_a_plain_resume_looks_for_a_few_records_and_asks_nobody(world: Told, keys: Keys, stage: str) -> None:
    # Those who stood there before, otherwise than they are sent, are no sign of a newer copy.
    world.target.strangers = frozenset(list(keys["customers"])[::2])
    assert await world.live(until_answered(stage, 2)) is False
    looked: list[str] = []
    before: list[int] = []
    seeing(world, lambda of, record: looked.append(of))
    world.scripted.before = lambda of, body: before.append(len(looked))
    assert await world.live() is True
    arrived(world, keys)
    coming = looked[: before[0]].count("customers" if stage == "customers" else "transactions")
    assert coming == (5 if stage == "customers" else 2)  # the barrier behind the customers looks for more of these


@played()
async def test_a_resume_in_an_outage_does_not_wait_for_one_look_after_the_other(world: Told, keys: Keys) -> None:
    assert await world.live(until_answered("customers", 2)) is False
    looked: list[str] = []

    def dark(of: str, record: Record) -> Seen:
        looked.append(record.owner)
        return Seen.CANT_TELL

    over = seeing(world, dark)
    world.scripted.before = lambda stage, body: over()
    assert await world.live() is True
    assert len(set(looked)) == 1  # again and again for one, then no more
    assert any("customers can't be looked for at the target now" in it for it in world.said)
    arrived(world, keys)


@played()
async def test_i3_a_moment_in_which_nothing_can_be_read_does_not_hide_that_the_machine_was_set_back(
    world: Told, keys: Keys, tmp_path: Path
) -> None:
    assert await world.live(pilot) is False
    back_up(tmp_path)
    assert await world.live() is True
    restore(tmp_path)
    looked = count()
    seeing(world, lambda of, record: None if next(looked) else Seen.CANT_TELL)
    await refused(world, "checkpoint-behind-target")


@played()
async def test_i3_a_first_try_that_found_no_connection_does_not_count_as_a_beginning(
    world: Told, keys: Keys, tmp_path: Path
) -> None:
    assert await world.live() is True
    (tmp_path / "run.checkpoint").rename(tmp_path / "other.checkpoint")
    lose_the_state_folder(world)  # it knows who was given the export
    over = seeing(world, lambda of, record: Seen.CANT_TELL)
    world.scripted.script = dict.fromkeys(range(100), Receipt(Kind.NOT_SENT, None, "no connection"))
    assert await world.live(until_answered("customers", 1)) is False
    over()
    world.scripted.script = {}
    await refused(world, "checkpoint-behind-target")


@played()
async def test_a_few_customers_who_stood_there_just_as_they_would_be_sent_stop_no_resume(
    world: Told, keys: Keys
) -> None:
    assert await world.live(until_answered("customers", 2)) is False
    looked = count()
    seeing(world, lambda of, record: Seen.ALL if next(looked) in (1, 3) else None)
    assert await world.live() is True
    arrived(world, keys)


def until_answered(stage: str, number: int) -> Callable[[Migration], Coroutine[Any, Any, bool]]:
    """A run that is drained at this answer of a stage."""
    answers = count(1)
    return drained_at(lambda it: isinstance(it, Answered) and it.batch.stage == stage and next(answers) == number)


def test_totals_that_do_not_add_up_say_which_sides_do_not_agree() -> None:
    none, some = Tally(), Tally(2, 3)
    totals = Totals(read=some, accepted=some, dead=none, filtered=none, unknown=none, pending=none)
    check_totals("events", totals)
    with raises(MachineFault, "totals-unbalanced"):
        check_totals("events", replace(totals, accepted=none))


@played({"concurrency": 4}, "events")
async def test_i3_the_word_for_a_lost_state_folder_does_not_pass_the_look_at_the_target(
    world: Told, keys: Keys, tmp_path: Path
) -> None:
    assert await world.live(pilot) is False
    back_up(tmp_path)
    assert await world.live() is True
    restore(tmp_path)
    lose_the_state_folder(world)
    await refused(world, "checkpoint-behind-target", asking(current=True))
