"""What becomes of a batch, receipt by receipt: a scripted target under virtual time, everything else as it is."""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import itertools
import json
import sqlite3
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import pytest

from streammig.checkpoint import Checkpoint, CheckpointWriter
from streammig.cli import resolve
from streammig.cli.exit import Ended, exit_code
from streammig.dead_letters.replay import Choice
from streammig.delivery.backoff import Backoff
from streammig.delivery.sender import Sender
from streammig.errors import SAMPLES_MISSING, Problem, SamplesMissing, TargetStop, UnknownOutcome, Unusable
from streammig.migration import Migration
from streammig.model import Kind, Receipt, Record
from streammig.report.document import document
from streammig.stages import STAGES
from streammig.target import Seen
from streammig.telemetry import Answered, Notice, Waiting
from tests.memory_target import MemoryTarget, Weather
from tests.problems import raises
from tests.virtual import EPOCH, VirtualClock, run_virtual, teller
from tests.world import SETTLE_TIME, Keys, World, drained_at, write_export

MANY = 300  # some 6 batches of customers of 10 KB


@dataclass
class Scripted(MemoryTarget):
    """Answers the requests of one stage as the script says, by their number from 1, and the rest as a good target.

    An answer is a receipt; `landed` are the numbers whose work is done all the same.
    """

    stage: str = "customers"
    script: dict[int, Receipt] = field(default_factory=dict)
    landed: frozenset[int] = frozenset()
    share: float = 1.0  # of the entries of what landed by the script
    forbidden: frozenset[str] = frozenset()  # a batch with one of these owners is answered with 403
    before: Callable[[str, bytes], None] = lambda stage, body: None
    sent: list[tuple[float, str, bytes]] = field(default_factory=list)

    async def _send(self, stage: str, body: bytes, began: Callable[[], None]) -> Receipt:
        number = 1 + sum(1 for _, of, _ in self.sent if of == self.stage)
        self.sent.append((self.clock.time(), stage, body))
        answer = self.script.get(number) if stage == self.stage else None
        self.before(stage, body)
        if stage == self.stage and any(b'"id": "%b"' % owner.encode() in body for owner in self.forbidden):
            answer = Receipt(Kind.REJECTED, 403, "forbidden", stop_after=1)
        if answer is None:
            return await super()._send(stage, body, began)
        if answer.kind is not Kind.NOT_SENT:
            began()
        await asyncio.sleep(0.1)
        if number in self.landed:
            entries = json.loads(body)["customers"]
            kept = entries[: round(len(entries) * self.share)]
            if kept:
                self._take(stage, json.dumps({"customers": kept}).encode())
        return answer

    def bodies(self) -> list[bytes]:
        return [body for _, stage, body in self.sent if stage == self.stage]

    def times(self) -> list[float]:
        return [at for at, stage, _ in self.sent if stage == self.stage]


@dataclass
class Told(World):
    """A world that keeps what it was told."""

    notices: list[Notice] = field(default_factory=list)

    def _hear(self, notice: Notice) -> None:
        self.notices.append(notice)
        super()._hear(notice)

    @property
    def scripted(self) -> Scripted:
        assert isinstance(self.target, Scripted)
        return self.target


Story = Callable[[Told, Keys], Awaitable[None]]


def play(
    tmp_path: Path, story: Story, settings: dict[str, Any] | None = None, last: str = "",
    kind: type[Scripted] = Scripted, **target: Any,
) -> None:  # fmt: skip
    """Notify a story in a world with a scripted target; one request at a time and no limits unless it says so. It ends
    with the `last` stage, by default the one that is scripted."""

    async def main() -> None:
        clock = VirtualClock()
        scripted = kind(clock, Random(2), Weather(), **target)
        world = Told(tmp_path, scripted, clock, Random(1))
        stages = STAGES[: 1 + STAGES.index(last or scripted.stage)]
        without: dict[str, Any] = {name: {"files": []} for name in STAGES if name not in stages}
        world.settings = {"max_bytes": 10_000, "limits": "off", "concurrency": 1} | without | (settings or {})
        keys = write_export(tmp_path, MANY, Random(4))
        await story(world, {name: keys[name] for name in stages})

    run_virtual(main())


played = teller(play, 2)


def arrived(world: World, keys: Keys, but: dict[str, set[str]] | None = None) -> None:
    """All is there once, but for these."""
    world.target.settle()
    for stage, wanted in keys.items():
        held = getattr(world.target, stage)
        assert not [key for key, count in held.items() if count > 1], f"{stage}: came twice"
        assert set(held) == wanted - (but or {}).get(stage, set()), stage
    assert all(totals.balanced for totals in world.totals().values())


def ask(world: World, sql: str) -> list[tuple[Any, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{world.folder}/run.checkpoint?mode=ro", uri=True)) as db:
        return [tuple(row) for row in db.execute(sql)]


def states(world: World, stage: str = "customers") -> list[str]:
    return [row[0] for row in ask(world, f"SELECT state FROM batch WHERE stage = '{stage}' ORDER BY seq")]


# -- before the first byte -------------------------------------------------------------------------------------------


@played({"limits": "1/5s"}, "events", script={2: Receipt(Kind.THROTTLED, 429), 4: Receipt(Kind.NOT_SENT)})
async def test_i2_batch_attempt_and_fence_are_durable_before_the_first_byte_leaves(world: Told, keys: Keys) -> None:
    seen: list[tuple[str, int]] = []

    def look(stage: str, body: bytes) -> None:
        digest = hashlib.sha256(body).hexdigest()
        found = ask(world, f"SELECT seq, state, attempts, size FROM batch WHERE hex(digest) = upper('{digest}')")
        ((seq, state, attempts, size),) = [row for row in found if row]
        assert (state, size) == ("sending", len(body))
        assert (world.folder / "run.checkpoint.outbox" / f"{stage}-{seq}").read_bytes()[:size] == body
        made = ask(world, f"SELECT number, kind FROM attempt WHERE stage = '{stage}' AND seq = {seq}")
        assert made[-1] == (attempts, None)
        ((run_id, tick),) = ask(world, "SELECT id, tick FROM run")
        with contextlib.closing(sqlite3.connect(world.folder / "state" / f"{run_id}.fence")) as db:
            assert db.execute("SELECT tick FROM fence").fetchall() == [(tick,)]
        seen.append((stage, seq))

    world.scripted.before = look
    assert await world.live() is True
    arrived(world, keys)
    assert len(seen) > 10
    assert len(set(seen)) == len(seen) - 2


@played()
async def test_i2_a_yes_is_durable_before_the_next_request_leaves_and_before_it_is_told_and_shares_its_commit(
    world: Told, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    told, shared = list[int](), 0
    hear, commit = Told._hear, CheckpointWriter._commit

    def hear_and_look(world: Told, notice: Notice) -> None:
        if isinstance(notice, Answered):
            told.append(notice.batch.seq)
            assert states(world)[notice.batch.seq - 1] == "accepted"
        hear(world, notice)

    def counted(writer: CheckpointWriter, changes: Any) -> Any:
        nonlocal shared
        shared += sum(Sender._send.__qualname__ in change.__qualname__ for change in changes) > 1
        return commit(writer, changes)

    def look(stage: str, body: bytes) -> None:
        number = len(world.scripted.sent)
        assert states(world)[:number] == ["accepted"] * (number - 1) + ["sending"]

    monkeypatch.setattr(Told, "_hear", hear_and_look)
    monkeypatch.setattr(CheckpointWriter, "_commit", counted)
    world.scripted.before = look
    assert await world.live() is True
    arrived(world, keys)
    assert told == [*range(1, len(told) + 1)]
    assert shared == len(told) - 1 > 4


# -- receipts that let the same batch be sent again ------------------------------------------------------------------


DATE = "Tue, 14 Nov 2023 22:13:20 GMT"


@played(script={1: Receipt(Kind.ACCEPTED, 201, date=DATE, latency=0.3)}, landed=frozenset({1}))
async def test_an_accepted_batch_keeps_the_answer_s_time(world: Told, keys: Keys) -> None:
    assert await world.live() is True
    arrived(world, keys)
    kept = ask(world, "SELECT kind, status, latency, date FROM attempt WHERE stage = 'customers' AND seq = 1")
    assert kept == [("accepted", 201, 0.3, DATE)]


@played(script=dict.fromkeys(range(1, 41), Receipt(Kind.NOT_SENT, message="the host's name is not known")))
async def test_without_a_connection_the_same_batch_waits_with_full_jitter_and_without_end(
    world: Told, keys: Keys
) -> None:
    assert await world.live() is True
    arrived(world, keys)
    bodies, times = world.scripted.bodies(), world.scripted.times()
    assert bodies[:41] == bodies[:1] * 41
    waits = [later - earlier for earlier, later in itertools.pairwise(times[:41])]
    assert max(waits) < 61
    assert sum(waits[10:]) > 300
    assert waits[0] < 1.5
    assert states(world)[0] == "accepted"
    told = [notice for notice in world.notices if isinstance(notice, Waiting) and "no connection" in notice.reason]
    assert len(told) == 40
    assert "the host's name is not known" in told[0].reason


def test_delays_grow_to_their_maximum_and_never_beyond() -> None:
    rng = Random(1)
    backoff = Backoff(1.0, 60.0)
    for attempt in (1, 2, 5, 7, 60, 5000):
        delays = [backoff.delay(attempt, rng) for _ in range(200)]
        ceiling = min(60.0, 2.0 ** (attempt - 1)) if attempt < 60 else 60.0
        assert 0 <= min(delays) < ceiling * 0.1
        assert ceiling * 0.9 < max(delays) <= ceiling


@pytest.mark.parametrize(("retry_after", "least", "most"), [(30.0, 30, 45), (None, 60, 80), (86_400.0, 86_400, 86_500)])
@played({"limits": "1/1s", "concurrency": 4})
async def test_a_429_makes_the_whole_account_wait(
    world: Told, keys: Keys, retry_after: float | None, least: float, most: float
) -> None:
    world.scripted.script = {2: Receipt(Kind.THROTTLED, 429, retry_after=retry_after)}
    assert await world.live() is True
    arrived(world, keys)
    times, bodies = world.scripted.times(), world.scripted.bodies()
    others = [at for at in times if times[1] < at]
    assert least <= others[0] - times[1] <= most
    assert bodies[1] in bodies[2:6]


@played({"concurrency": 4}, script={2: Receipt(Kind.REJECTED, 403, stop_after=1)})
async def test_an_answer_that_no_record_explains_stops_after_what_is_under_way(world: Told, keys: Keys) -> None:
    ended = await world.live()
    assert isinstance(ended, TargetStop)
    assert ended.code == "target-refuses"
    assert "sending" not in states(world)
    assert len(world.scripted.sent) < 10
    assert await world.live() is True
    arrived(world, keys)


@pytest.mark.parametrize("landed", [True, False])
@pytest.mark.parametrize("gap", [False, True])
@played({"concurrency": 2})
async def test_i3_odd_answers_are_unknown_and_read_back_and_two_in_a_row_stop(
    world: Told, keys: Keys, landed: bool, gap: bool
) -> None:
    """Once they put a batch back that had landed, and the same command doubled it."""
    numbers = frozenset({1, 3} if gap else {1, 2})
    world.scripted.script = dict.fromkeys(numbers, Receipt(Kind.UNKNOWN, 409, stop_after=2))
    world.scripted.landed = numbers if landed else frozenset()
    ended = await world.live()
    if gap:
        assert ended is True
    else:
        assert isinstance(ended, TargetStop)
        assert [state for state in states(world) if state == "unknown"]
        assert await world.live() is True
    arrived(world, keys)


@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_i4_a_yes_that_speaks_of_a_part_is_read_back_whole_and_what_is_missing_is_dead(
    tmp_path: Path, stage: str, share: float
) -> None:
    """Once it was booked as accepted: 1,000 units lost, and exit 0."""

    async def story(world: Told, keys: Keys) -> None:
        ended = await world.live()
        world.target.settle()
        held, wanted = set(getattr(world.target, stage)), keys[stage]
        letters = dead(world, stage)
        assert all(totals.balanced for totals in world.totals().values())
        assert max(getattr(world.target, stage).values()) == 1
        if stage == "events":
            assert isinstance(ended, UnknownOutcome)
            assert states(world, stage)[1] == "parked"
        elif share == 0.5:
            assert ended is True
            assert {code for code, _ in letters} == {"accepted-in-part"}
            assert states(world, stage)[1] == "split"
            assert sum(totals.dead.units for totals in world.totals().values()) == len(wanted - held) > 0
        else:
            assert ended is True
            assert not letters
            assert held == wanted

    says_no = Receipt(Kind.UNKNOWN, 200, "saved 9", code="says-no", in_part=True)
    play(tmp_path, story, stage=stage, script={2: says_no}, landed=frozenset({2}), share=share)


@pytest.mark.parametrize("after", [1.0, SETTLE_TIME + 1.0, 2 * SETTLE_TIME + 3.4])
@played(
    script={1: Receipt(Kind.UNKNOWN, 200, "saved 9", code="says-no", in_part=True)}, landed=frozenset({1}), share=0.5
)
async def test_a_drain_ends_the_reading_back_of_every_owner(world: Told, keys: Keys, after: float) -> None:
    assert await stopped(world, after, "drain") is False
    assert world.clock.time() - EPOCH < after + 1
    assert states(world)[0] == "unknown"
    assert await world.live() is True
    world.target.settle()
    assert set(world.target.customers.values()) == {1}
    assert world.totals()["customers"].dead.units == len(keys["customers"] - set(world.target.customers)) > 0


@pytest.mark.parametrize("ruling", ["reject", "set-aside"])
@played({"concurrency": 1}, forbidden=frozenset({"c70"}))
async def test_a_batch_that_stops_the_run_for_its_records_is_rejected_by_the_operator(
    world: Told, keys: Keys, ruling: str
) -> None:
    """A firewall that takes a customer's name for an attack answers 403 to its batch, at every run."""

    path = world.folder / "run.checkpoint"
    ended = await world.live()
    assert isinstance(ended, TargetStop)
    assert f"streammig resolve {path} 2 --stage customers --reject" in ended.hint
    assert states(world)[:2] == ["accepted", "sealed"]
    assert isinstance(await world.live(), TargetStop)
    resolve.decide(path, "streammig resolve", 2, None, ruling, world.clock.time())
    assert await world.live() is True
    gone = {ordinal for _, ordinal in dead(world, "customers")}
    assert {code for code, _ in dead(world, "customers")} == {"refused" if ruling == "reject" else "set-aside"}
    assert len(gone) == 1 if ruling == "reject" else len(gone) > 10
    arrived(world, keys, {"customers": {f"c{ordinal - 1}" for ordinal in gone}})


@played({"concurrency": 1}, forbidden=frozenset({"c0"}))
async def test_the_first_batch_of_a_stage_is_not_rejected_for_a_403(world: Told, keys: Keys) -> None:
    ended = await world.live()
    assert isinstance(ended, TargetStop)
    assert "--reject" not in ended.hint
    with raises(Unusable, "nothing-accepted"):
        resolve.decide(world.folder / "run.checkpoint", "streammig resolve", 1, None, "reject", 1.0)


@played(
    script={
        1: Receipt(Kind.ACCEPTED, 200, unjudged=("message",)),
        2: Receipt(Kind.ACCEPTED, 200, unjudged=("message",)),
    },
    landed=frozenset({1, 2}),
)
async def test_fields_of_a_yes_that_nobody_judges_are_told_once(world: Told, keys: Keys) -> None:
    assert await world.live() is True
    assert len([said for said in world.said if "message" in said and "accepted_if" in said]) == 1


# -- too large, refused ----------------------------------------------------------------------------------------------


@dataclass
class Choosy(Scripted):
    """Refuses, or finds too large, whatever holds one of these customers in these stages."""

    bad: frozenset[str] = frozenset()
    of: tuple[str, ...] = ("customers", "events", "transactions")
    answer: Kind = Kind.REJECTED

    async def _send(self, stage: str, body: bytes, began: Callable[[], None]) -> Receipt:
        if stage in self.of and any(b'"id": "%b"' % owner.encode() in body for owner in self.bad):
            self.sent.append((self.clock.time(), stage, body))
            self.before(stage, body)
            began()
            await asyncio.sleep(0.1)
            return Receipt(self.answer, 413 if self.answer is Kind.TOO_LARGE else 422, "invalid customer entry")
        return await super()._send(stage, body, began)


def dead(world: World, stage: str) -> list[tuple[str, int]]:
    """The dead letters of a stage by code, with the ordinal of the record."""
    with contextlib.closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return [(letter.code, letter.position.ordinal) for _, letter in file.dead_letters(stage)]


def theirs(keys: Keys, bad: set[str]) -> dict[str, set[str]]:
    """What must be missing where these customers are."""
    return {
        "customers": keys["customers"] & bad,
        "events": {key for key in keys["events"] if "c" + key[1:].split("-")[0] in bad},
        "transactions": {key for key in keys["transactions"] if "c" + key[1:].split("-")[0] in bad},
    }


BAD = frozenset({"c7", "c8", "c31"})
BAD_ONES = frozenset({"c3", "c60", "c110", "c160", "c210", "c260"})


@played(kind=Choosy, bad=BAD_ONES, of=("customers",))
async def test_rejected_batches_are_searched_before_the_stage_ends_where_they_fill_the_outbox(
    world: Told, keys: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("streammig.stage.REJECTED_BYTES", 15_000)  # more than one batch
    monkeypatch.setattr("streammig.stage.QUEUE_BYTES", 1)
    most = 0

    def look(stage: str, body: bytes) -> None:
        nonlocal most
        sql = "SELECT coalesce(sum(size), 0) FROM batch WHERE state = 'rejected' AND parent IS NULL"
        most = max(most, ask(world, sql)[0][0])

    world.scripted.before = look
    assert await world.live() is True
    assert 15_000 < most < 45_000  # with the queue, and what a worker holds
    assert {code for code, _ in dead(world, "customers")} == {"refused"}
    gone = {f"c{ordinal - 1}" for _, ordinal in dead(world, "customers")}
    assert gone == BAD_ONES & keys["customers"]
    arrived(world, keys, {"customers": gone})


@played(last="transactions", kind=Choosy, bad=BAD, answer=Kind.TOO_LARGE, of=("customers",))
async def test_a_batch_that_is_too_large_is_split_down_to_a_single_customer(world: Told, keys: Keys) -> None:
    assert keys["customers"] >= BAD
    assert await world.live() is True
    arrived(world, keys, theirs(keys, set(BAD)))
    assert dead(world, "customers") == [("too-large-for-target", number) for number in (8, 9, 32)]
    assert {code for code, _ in dead(world, "transactions")} == {"owner-refused"}
    assert "split" in states(world)
    parents = ask(world, "SELECT count(*) FROM batch WHERE parent IS NOT NULL AND stage = 'customers'")
    assert parents[0][0] >= 6


# -- unknown ---------------------------------------------------------------------------------------------------------

LOST = Receipt(Kind.UNKNOWN, None, "the connection was closed without an answer")


@pytest.mark.parametrize("concurrency", [1, 2, 4])
@played()
async def test_i3_unknown_batches_that_did_not_land_are_sent_again_only_when_that_is_proven(
    world: Told, keys: Keys, concurrency: int
) -> None:
    """All requests in flight are lost at once, so that only one more can show that they did not land."""
    world.settings["concurrency"] = concurrency
    world.scripted.script = dict.fromkeys(range(1, concurrency + 1), LOST)
    assert await world.live() is True
    arrived(world, keys)
    times, bodies = world.scripted.times(), world.scripted.bodies()
    for body in bodies[:concurrency]:
        first, again = (at for at, same in zip(times, bodies, strict=True) if same == body)
        # Two looks a settle time apart, behind a settle time for the queue; far from the hour of giving up.
        assert 2 * 60 <= again - first < 500
    assert world.target.most_under_way <= concurrency


@played(script={2: LOST}, strangers=frozenset(f"c{number}" for number in range(MANY)))
async def test_i4_customers_that_stood_at_the_target_otherwise_do_not_let_a_lost_batch_pass_for_landed(
    world: Told, keys: Keys
) -> None:
    assert isinstance(await world.live(), UnknownOutcome)
    assert states(world)[1] == "parked"
    assert any("which may have been there before" in said for said in world.said)
    bodies = world.scripted.bodies()
    assert bodies.count(bodies[1]) == 1
    assert world.totals()["customers"].unknown.records > 0


@pytest.mark.parametrize("there", [[0], [0, 1, 2, -1]])
@played(script={2: LOST})
async def test_i4_a_few_records_that_are_there_decide_nothing_about_the_others(
    world: Told, keys: Keys, there: list[int]
) -> None:
    def meanwhile(stage: str, body: bytes) -> None:
        if len(world.scripted.sent) == 2:
            ids = [each["id"] for each in json.loads(body)["customers"]]
            world.target.customers.update(ids[at] for at in there)

    world.scripted.before = meanwhile
    assert isinstance(await world.live(), UnknownOutcome)
    assert states(world)[1] == "parked"
    assert any("can be read back, which proves neither" in said for said in world.said), world.said


@played(script={2: LOST}, landed=frozenset({2}), drops=frozenset(f"c{number}" for number in range(0, MANY, 3)))
async def test_what_a_queue_dropped_some_of_has_landed_all_the_same(world: Told, keys: Keys) -> None:
    assert await world.live() is True
    assert any("part of it can be read back, so it landed" in said for said in world.said), world.said
    bodies = world.scripted.bodies()
    assert bodies.count(bodies[1]) == 1


def test_the_last_batch_of_a_stage_with_nothing_behind_it_is_parked_and_ends_with_4(tmp_path: Path) -> None:
    async def story(world: Told, keys: Keys) -> None:
        ended = await world.live()
        assert isinstance(ended, UnknownOutcome)
        assert ended.exit_code == 4
        assert states(world, "transactions")[-1] == "parked"
        assert not any(state in ("sealed", "sending", "unknown") for state in states(world, "transactions"))
        again = await world.live()
        assert isinstance(again, UnknownOutcome)
        bodies = world.scripted.bodies()
        assert bodies.count(bodies[-1]) == 1

    async def count(world: Told, keys: Keys) -> None:
        assert await world.live() is True
        numbers.append(len(world.scripted.bodies()))

    numbers: list[int] = []
    (tmp_path / "count").mkdir()
    play(tmp_path / "count", count, stage="transactions")
    play(tmp_path, story, stage="transactions", script={numbers[0]: LOST})


@played(stage="events", script={1: LOST}, landed=frozenset({1}))
async def test_an_unknown_batch_of_events_is_parked_and_never_sent_again(world: Told, keys: Keys) -> None:
    ended = await world.live()
    assert isinstance(ended, UnknownOutcome)
    assert ended.code == "outcome-unknown"
    bodies = world.scripted.bodies()
    assert bodies.count(bodies[0]) == 1
    assert states(world, "events")[0] == "parked"
    assert set(states(world, "events")[1:]) == {"accepted"}


@played(stage="events", script=dict.fromkeys(range(1, 20), LOST))
async def test_more_than_three_parked_batches_stop_the_run_at_once(world: Told, keys: Keys) -> None:
    ended = await world.live()
    assert isinstance(ended, UnknownOutcome)
    assert ended.code == "too-many-parked"
    assert "1, 2, 3, 4" in ended.what
    sent = len(world.scripted.bodies())
    assert sent <= 5
    assert "sealed" in states(world, "events")
    again = await world.live()
    assert isinstance(again, UnknownOutcome)
    assert again.code == "too-many-parked"
    assert len(world.scripted.bodies()) == sent


@played(script={2: LOST}, landed=frozenset({2}))
async def test_after_an_unknown_nothing_is_sent_until_a_read_succeeds(world: Told, keys: Keys) -> None:
    back = world.clock.time() + 500

    async def reachable() -> bool:
        await asyncio.sleep(0.05)
        return world.clock.time() > back

    world.target.reachable = reachable  # type: ignore[method-assign]
    assert await world.live() is True
    arrived(world, keys)
    times = world.scripted.times()
    assert [at for at in times[2:] if at < back] == []
    assert any(isinstance(it, Waiting) and "does not answer a read yet" in it.reason for it in world.notices)


@pytest.mark.parametrize("landed", [True, False])
@played(last="transactions", script={2: LOST})
async def test_i4_what_belongs_to_customers_of_a_parked_batch_waits_as_dead_letters_until_that_is_decided(
    world: Told, keys: Keys, landed: bool
) -> None:
    world.settings["customers"] = {"files": [str(world.folder / "customers.json")], "unknown": "park"}
    world.scripted.landed = frozenset({2} if landed else ())
    ended = await world.live()
    assert isinstance(ended, UnknownOutcome)
    assert ended.code == "outcome-unknown"
    assert states(world)[1] == "parked"
    owners = {each["id"] for each in json.loads(world.scripted.bodies()[1])["customers"]}
    mine = theirs(keys, owners)
    for stage in ("events", "transactions"):
        assert set(states(world, stage)) == {"accepted"}
        assert set(getattr(world.target, stage)) == keys[stage] - mine[stage]
        assert {code for code, _ in dead(world, stage)} == {"owner-undecided"}
    assert world.target.dropped == {}
    ruling = "landed" if landed else "not-landed"
    resolve.decide(world.folder / "run.checkpoint", "streammig resolve", 2, "customers", ruling, EPOCH)
    assert await world.live() is True
    assert await world.live(lambda migration: migration.retry(Choice())) is True
    arrived(world, keys)
    assert world.target.dropped == {}


# -- ending early ----------------------------------------------------------------------------------------------------


async def stopped(world: Told, at: float, how: str) -> bool | Problem:
    migration = world.migration()
    asyncio.get_running_loop().call_later(at, lambda: getattr(migration, how)())
    try:
        return await asyncio.ensure_future(migration.run())
    except Problem as problem:
        return problem


@played({"concurrency": 2})
async def test_a_drain_waits_for_what_is_under_way_and_sends_nothing_more(world: Told, keys: Keys) -> None:
    world.target.weather.latency = (20.0, 20.0)
    assert await stopped(world, 30, "drain") is False
    assert "sending" not in states(world)
    assert world.totals()["customers"].accepted.units > 0
    assert len(world.scripted.sent) <= 4
    world.target.weather.latency = (0.1, 0.2)
    assert await world.live() is True
    arrived(world, keys)


@pytest.mark.parametrize(("how", "drain_time"), [("drain", 5.0), ("abort", 150.0)])
@played({"concurrency": 2})
async def test_what_is_cut_off_is_unknown_at_the_next_run_and_decided_then(
    world: Told, keys: Keys, how: str, drain_time: float
) -> None:
    world.settings["drain_time"] = drain_time
    world.target.weather.latency = (100.0, 100.0)
    began = world.clock.time()
    assert await stopped(world, 30, how) is False
    assert world.clock.time() - began < 40
    assert states(world).count("sending") == 2
    world.target.weather.latency = (0.1, 0.2)
    assert await world.live() is True
    assert any("the outcome is unknown for batch 1 of customers, 2 of customers" in it for it in world.said)
    arrived(world, keys)


@played(
    {"limits": "1/5s"},
    "events",
    script={2: Receipt(Kind.THROTTLED, 429, retry_after=100.0), 5: LOST, 7: Receipt(Kind.NOT_SENT)},
    landed=frozenset({5}),
)
async def test_a_drain_in_each_kind_of_waiting_ends_at_once_and_goes_on_later(world: Told, keys: Keys) -> None:
    # Among them: waiting for a slot, a held account, a backoff, a read-back, the gates and their settle time.
    for _ in range(60):
        began = world.clock.time()
        ended = await stopped(world, world.rng.uniform(0.1, 40), "drain")
        assert world.clock.time() - began < 60
        assert not isinstance(ended, Problem), ended
        assert all(totals.balanced for totals in world.totals().values())
        if ended:
            break
    assert await world.live() is True
    arrived(world, keys)


# -- the barrier between stages --------------------------------------------------------------------------------------


@pytest.mark.parametrize("last", ["customers", "events"])
def test_the_next_stage_or_the_end_waits_for_the_settle_time_and_for_samples_that_can_be_seen(
    tmp_path: Path, last: str
) -> None:
    async def story(world: Told, keys: Keys) -> None:
        world.target.weather.queue = (200.0, 200.0)
        assert await world.live() is True
        ended = max(at for at, stage, _ in world.scripted.sent if stage == "customers")
        after = [at for at, stage, _ in world.scripted.sent if stage == "events"] or [world.clock.time()]
        assert 200 <= min(after) - ended < 240
        arrived(world, keys)

    play(tmp_path, story, last=last)


@played(last="events")
async def test_where_no_sample_ever_appears_the_run_stops_and_looks_again_at_the_next(world: Told, keys: Keys) -> None:
    world.target.weather.queue = (5000.0, 5000.0)
    ended = await world.live()
    assert isinstance(ended, SamplesMissing)
    assert ended.code == "nothing-visible"
    assert "record 1 (batch 1)" in ended.what
    assert codes(world)["customers"] == SAMPLES_MISSING
    world.target.settle()
    world.target.weather.queue = (0.1, 1.0)
    assert await world.live() is True
    arrived(world, keys)


@played(last="events", drops=frozenset({"c0"}))
async def test_samples_that_the_queue_dropped_while_others_appear_are_listed_and_the_run_goes_on(
    world: Told, keys: Keys
) -> None:
    assert await world.live() is True
    assert any("1 is not visible at the target: record 1 (batch 1)" in said for said in world.said), world.said


@pytest.mark.parametrize(
    ("dropped", "said"),
    [(1, "1 is not visible at the target: record 1 (batch 1)"), (MANY, "samples of customers became visible")],
)
@played()
async def test_samples_of_the_last_stage_that_never_appear_end_it_in_3_until_they_are_seen(
    world: Told, keys: Keys, dropped: int, said: str
) -> None:
    world.target.drops = frozenset(f"c{number}" for number in range(dropped))
    for _ in range(2):  # the same command looks again
        assert await world.live() is True
        assert said in message(world, "customers")
        assert document_of(world)["resume"]
        assert exit_code(document_of(world), Ended(True)) == 3
    world.target.customers.update(world.target.drops)
    assert await world.live() is True
    assert exit_code(document_of(world), Ended(True)) == 0
    assert document_of(world)["resume"] is None


@played()
async def test_two_owners_of_each_batch_are_looked_for(world: Told, keys: Keys) -> None:
    looked: list[Record] = []
    visible = world.target.visible

    async def counted(stage: str, record: Record) -> Seen:
        looked.append(record)
        return await visible(stage, record)

    world.target.visible = counted  # type: ignore[method-assign]
    assert await world.live(asking_current) is True
    assert len({record.owner for record in looked}) == len(looked) == 2 * len(states(world))


@played(last="events")
async def test_events_are_never_missed(world: Told, keys: Keys) -> None:
    world.target.counting = True
    assert await world.live() is True
    assert message(world, "events") == ""
    assert any("events: no record can be read back" in said for said in world.said)
    assert world.clock.time() - max(at for at, _, _ in world.scripted.sent) < 5


@played()
async def test_a_drain_ends_the_wait_for_samples_at_once(world: Told, keys: Keys) -> None:
    world.target.weather.queue = (5000.0, 5000.0)
    ended: list[float] = []

    def samples(it: Notice) -> bool:
        if isinstance(it, Waiting) and it.code == "samples" and not ended:
            ended.append(world.clock.time())
            return True
        return False

    assert await world.live(drained_at(samples)) is False
    assert world.clock.time() - ended[0] < 0.5


@pytest.mark.parametrize(("settings", "stage"), [({"settle_time": 0.0}, "customers"), ({}, "events")])
def test_nothing_is_waited_for_at_the_end_without_a_settle_time_or_a_sample_that_can_tell(
    tmp_path: Path, settings: dict[str, Any], stage: str
) -> None:
    async def story(world: Told, keys: Keys) -> None:
        world.target.weather.queue = (0.0, 0.0)
        assert await world.live() is True
        last = max(at for at, sent, _ in world.scripted.sent if sent == stage)
        assert world.clock.time() - last < 5

    play(tmp_path, story, settings, last=stage)


@played()
async def test_a_run_that_is_stopped_while_its_last_stage_settles_has_its_totals_complete(
    world: Told, keys: Keys
) -> None:
    stopped = drained_at(lambda it: isinstance(it, Waiting) and it.code == "settling", 1.0)
    assert await world.live(stopped) is False
    assert ask(world, "SELECT state, message FROM stage") == [("complete", "")]
    last = max(at for at, _, _ in world.scripted.sent)
    assert world.clock.time() - last < SETTLE_TIME
    sent = len(world.scripted.sent)
    assert await world.live() is True
    assert len(world.scripted.sent) == sent
    arrived(world, keys)


def codes(world: World) -> dict[str, str]:
    return dict(ask(world, "SELECT name, code FROM stage"))


def document_of(world: World) -> dict[str, Any]:
    with contextlib.closing(Checkpoint.open(world.folder / "run.checkpoint", read_only=True)) as file:
        return document(file, running=False, now=world.clock.time())


async def asking_current(migration: Migration) -> bool:
    """A run that takes no look before its first request."""
    migration.ask = replace(migration.ask, current=True)
    return await migration.run()


def message(world: World, stage: str) -> str:
    return str(ask(world, f"SELECT message FROM stage WHERE name = '{stage}'")[0][0])
