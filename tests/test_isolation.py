"""Refused batches: what is found, what it costs, what stops the run, and that nothing is sent twice for it."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Coroutine
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from streammig.batching import assemble, ranges_of
from streammig.checkpoint import Checkpoint, CheckpointWriter, Store
from streammig.context import Context, Stop, Times
from streammig.delivery.barrier import Barrier
from streammig.delivery.folder import Unlimited
from streammig.delivery.isolation import Isolation
from streammig.delivery.named import named_record, set_aside
from streammig.delivery.reads import Reads
from streammig.delivery.reconcile import Reconciler
from streammig.delivery.sender import Reachability, Sender, SendOptions
from streammig.errors import TargetStop, UnknownOutcome
from streammig.model import (
    Batch,
    BatchState,
    Draft,
    Place,
    Position,
    Progress,
    Record,
    Tally,
)
from streammig.stages import STAGES
from streammig.telemetry import Answered, Notice, Warned
from tests.memory_target import Weather
from tests.problems import raises
from tests.refusing_target import RefusingTarget, nobody
from tests.virtual import Inline, VirtualClock, run_virtual, teller

T = TypeVar("T")
SETTLE_TIME = 60.0
HEAD, TAIL = b'{"customers":[', b"]}"


class Thread(Inline):
    """Stands for a thread: does its work at once, and knows when it is at it."""

    busy = False

    def submit(self, function: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        self.busy = True
        try:
            return super().submit(function, *args, **kwargs)
        finally:
            self.busy = False


@dataclass
class Room:
    """One stage with its batches in a checkpoint, senders and isolation as often as they are asked for, one target."""

    folder: Path
    target: RefusingTarget
    clock: VirtualClock
    stage: str = "customers"
    options: dict[str, Any] = field(default_factory=dict)
    policy: Any = "read-back"
    records: list[Record] = field(default_factory=list)
    said: list[str] = field(default_factory=list)
    thread: Thread = field(default_factory=Thread)
    stop: Stop = field(default_factory=Stop)

    def __post_init__(self) -> None:
        self.file = Checkpoint.create(self.folder / "run.checkpoint", binding={}, version="0", started=0.0)
        self.file.add_stage(self.stage, STAGES.index(self.stage), {}, [])
        self.store = Store(CheckpointWriter(self.file, Inline()), self.file, Inline())

    def seal(self, *owners: str) -> Batch:
        """One batch with a record of each of these owners."""
        first = len(self.records)
        mine = [self._record(first + nth, owner) for nth, owner in enumerate(owners)]
        self.records += mine
        draft = self._assemble(mine)
        progress = Progress(Place(0, len(self.records) * 100), len(self.records), self.taken)
        return self.file.seal(self.stage, draft, progress, self.clock.time())

    def seal_tens(self, batches: int) -> None:
        """So many batches of the next ten owners each."""
        for start in range(0, 10 * batches, 10):
            self.seal(*ids(10, start))

    def _record(self, number: int, owner: str) -> Record:
        body = b'{"id":"%b","transactions":[{"details":"t%d"}],"events":[{"order":{"purchase_id":"p%d"}}]}'
        unique = f"{owner}@example.org" if self.stage == "customers" else ""
        more = body % (owner.encode(), number, number)
        if unique:
            more = b'{"id":"%b","email":"%b"}' % (owner.encode(), unique.encode())
        return Record(Position(0, number * 100, 99, number + 1), 0, owner, more, 1, (("r", Decimal(1)),), None, unique)

    @property
    def taken(self) -> Tally:
        return Tally(len(self.records), len(self.records), {"r": Decimal(len(self.records))})

    def _assemble(self, records: list[Record]) -> Draft:
        return assemble(records, HEAD, TAIL, ranges_of(records))

    def of(self, batch: Batch) -> list[Record]:
        """The records of a batch: here each has a range of its own."""
        return [self.records[begin.offset // 100] for begin, _ in batch.ranges]

    def sender(self, **options: Any) -> Sender:
        context = self.context
        return Sender(
            client=self.target,
            permits=Unlimited(),
            store=self.store,
            reconciler=Reconciler(Reads(self.target, context), self.store, context, self.policy),
            reachability=Reachability(Reads(self.target, context), context),
            context=context,
            options=SendOptions(**options),
        )

    @property
    def context(self) -> Context:
        return Context(self.clock, Random(1), self._hear, self.stop, Times(SETTLE_TIME, 600.0))

    def _hear(self, notice: Notice) -> None:
        if isinstance(notice, Warned):
            self.said.append(notice.warning)

    async def run(self, sender: Sender | None = None, *, share: float = 0.05, least: int = 10_000) -> None:
        """One life: every sealed batch is delivered, then the refused ones are brought to an end."""
        sender = sender or self.sender()
        bisected = self.stage != "events" or sender.try_named
        for batch in self.file.batches(self.stage, BatchState.SEALED):
            await sender.deliver(batch)
        await Isolation(sender, bisected, share, least).settle(self.stage)

    def dead(self) -> dict[str, list[str]]:
        """The owners of the dead letters, by code."""
        owners = {record.position.offset: record.owner for record in self.records}
        found: dict[str, list[str]] = {}
        for _, letter in self.file.dead_letters(self.stage):
            found.setdefault(letter.code, []).append(owners[letter.position.offset])
        return found

    def states(self) -> list[str]:
        return [str(row[0]) for row in self.file.rows("SELECT state FROM batch ORDER BY seq")]

    def check(self, *, refused: set[str], unsearched: int = 0) -> None:
        """Just these are dead as refused, all else but so many is at the target once, and the totals add up."""
        self.target.settle()
        held = getattr(self.target, self.stage)
        assert not [key for key, count in held.items() if count > 1]
        assert set(self.dead().get("refused", [])) == refused
        assert len(self.dead().get("refused-with-its-batch", [])) == unsearched
        assert len(held) == len(self.records) - len(refused) - unsearched
        totals = self.file.totals(self.stage)
        assert totals.balanced, (totals.taken, totals.placed)
        assert totals.pending == totals.unknown == Tally()


def in_room(folder: Path, story: Callable[[Room], Coroutine[Any, Any, None]], **more: Any) -> None:
    async def main() -> None:
        clock = VirtualClock()  # the client's; the target has one of its own
        target = RefusingTarget(VirtualClock(), Random(7), Weather(queue=(0.1, 5.0)))
        room = Room(folder, target, clock, **more)
        try:
            await story(room)
        finally:
            await room.store.writer.flush()
            room.file.close()

    run_virtual(main())


in_a_room = teller(in_room, 1)


def ids(count: int, start: int = 0) -> list[str]:
    return [f"c{number}" for number in range(start, start + count)]


def bad(*owners: str, stage: str = "customers") -> frozenset[tuple[str, str]]:
    return frozenset((stage, owner) for owner in owners)


# -- named records ----------------------------------------------------------------------------------------------------


def one_name(poison: list[str]) -> str:
    return f"customer {poison[0]} is invalid" if poison else "invalid"


def one_email(poison: list[str]) -> str:
    return f"e-mail {poison[0]}@EXAMPLE.org: no such host" if poison else "invalid"


@pytest.mark.parametrize("says", [one_name, one_email])
@pytest.mark.parametrize("owners", [{"c17"}, {"c17", "c170", "c999"}])
@in_a_room()
async def test_each_right_nomination_costs_two_requests_more(
    room: Room, owners: set[str], says: Callable[[list[str]], str]
) -> None:
    room.seal(*ids(1000))
    room.target.bad, room.target.says = bad(*owners), says
    await room.run()
    assert room.target.requests == 1 + 2 * len(owners)
    room.check(refused=owners)


@in_a_room()
async def test_a_nomination_survives_a_restart(room: Room) -> None:
    batch = room.seal(*ids(1000))
    room.target.bad, room.target.says = bad("c17"), one_name
    await room.sender().deliver(batch)
    assert room.target.requests == 1
    room.target.says = lambda poison: "never asked again"
    await room.run()
    assert room.target.requests == 3
    room.check(refused={"c17"})


@in_a_room()
async def test_a_wrong_nomination_only_costs_a_request_and_is_the_last_one_trusted(room: Room) -> None:
    room.seal(*ids(1000))
    room.target.bad = bad("c17")
    others = iter(range(500, 1000))
    room.target.says = lambda poison: f"somewhere behind c{next(others)}"
    await room.run()
    room.check(refused={"c17"})
    assert room.target.requests <= 1 + 2 + 2 * math.log2(1000) + 2


def test_what_is_stored_of_an_answer_names_nobody(tmp_path: Path) -> None:
    async def story(room: Room) -> None:
        room.seal(*ids(1000))
        room.target.bad, room.target.says = bad("c170"), one_name
        await room.run()

    in_room(tmp_path, story)
    stored = b"".join(path.read_bytes() for path in tmp_path.iterdir() if path.is_file())
    assert "customer <…> is invalid".encode() in stored
    assert b"c170" not in stored


@pytest.mark.parametrize(
    ("message", "named"),
    [
        ("customer c1 is invalid", "c1"),
        ("invalid: C1.", "c1"),
        ("(c1)", "c1"),
        ("customer c12 is invalid", ""),
        ("xc1 c1x c_1 c1_", ""),
        ("c1-7, c1.7, 7-c1, c1+7, c1@shop.example", ""),
        ("c1@example.org is taken", "c1"),
        ("C2@Example.org is taken", "c2"),
        ("c1 and c2 are invalid", ""),
        ("c1 with c1@example.org", "c1"),
        ("c1 with c2@example.org", ""),
        ("cut off behind c1…", ""),
        ("customers[0] is invalid", ""),
        ("", ""),
    ],
)
def test_only_the_one_owner_named_by_a_whole_token_is_nominated(message: str, named: str) -> None:
    records = [
        Record(Position(0, nth, 1, nth), 0, owner, b"{}", 1, (), None, f"{owner}@example.org")
        for nth, owner in enumerate(["c1", "c2", "c3"])
    ]
    assert [record.owner for record in named_record(message, records)] == ([named] if named else [])


def test_all_records_of_an_owner_are_nominated_together_and_nobody_where_there_is_nobody_else() -> None:
    records = [Record(Position(0, nth * 9, 8, nth), 0, owner, b"{}", 1) for nth, owner in enumerate(["a1", "b1", "a1"])]
    chosen = named_record("a1", records)
    assert chosen == [records[0], records[2]]
    assert set_aside(records, ranges_of(chosen)) == ([records[1]], chosen)
    assert named_record("a1", [records[0], records[2]]) == []


# -- bisection and its budget -----------------------------------------------------------------------------------------


def isolate(folder: Path, poison: set[str], count: int = 1000) -> int:
    requests = 0

    async def story(room: Room) -> None:
        nonlocal requests
        room.seal(*ids(count))
        room.target.bad = bad(*poison)
        await room.run()
        room.check(refused=poison)
        requests = room.target.requests

    in_room(folder, story)
    return requests


def test_the_last_record_costs_half_for_a_half_that_must_be_refused_is_not_sent(tmp_path: Path) -> None:
    assert isolate(tmp_path, {"c999"}) == 1 + 9 + 1


@pytest.mark.parametrize("poison", [{0}, {499}, {999}, {0, 1, 333, 500, 999}])
def test_k_refused_records_cost_at_most_2k_log2_n_requests(tmp_path: Path, poison: set[int]) -> None:
    at_most_2k_log2_n(tmp_path, poison)


def at_most_2k_log2_n(folder: Path, poison: set[int]) -> None:
    requests = isolate(folder, {f"c{number}" for number in poison})
    assert requests <= 2 * len(poison) * math.log2(1000) + 2, poison


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=60, deadline=None)
@given(poison=st.sets(st.integers(0, 999), min_size=1, max_size=20))
def test_any_k_refused_records_cost_at_most_2k_log2_n_requests(
    tmp_path_factory: pytest.TempPathFactory, poison: set[int]
) -> None:
    at_most_2k_log2_n(tmp_path_factory.mktemp("room"), poison)


@pytest.mark.slow
@pytest.mark.timeout(600)
@settings(max_examples=100, deadline=None)
@given(size=st.integers(1, 60), data=st.data())
def test_whatever_is_refused_is_found_in_batches_of_any_size(
    tmp_path_factory: pytest.TempPathFactory, size: int, data: st.DataObject
) -> None:
    poison = data.draw(st.sets(st.integers(0, size - 1), min_size=1))
    requests = isolate(tmp_path_factory.mktemp("room"), {f"c{number}" for number in poison}, size)
    assert requests <= 2 * len(poison) * math.log2(max(size, 2)) + 3


@in_a_room()
async def test_a_spent_budget_leaves_the_smallest_part_refused_with_its_batch_and_drops_nothing(room: Room) -> None:
    sender = room.sender(breaker=100)
    for start in range(0, 2000, 200):
        room.seal(*ids(200, start))
    room.target.bad = bad(*(f"c{start + 77}" for start in range(0, 2000, 200)))
    await room.run(sender, least=60)
    assert 55 <= room.target.requests - 10 <= 60
    left = len(room.dead()["refused-with-its-batch"])
    assert 0 < left <= 500  # three of eight halvings each leave an eighth
    room.check(refused=set(room.dead().get("refused", [])), unsearched=left)
    assert any("refused together" in said for said in room.said)


@in_a_room()
async def test_the_budget_is_a_share_of_the_stage_where_that_is_more(room: Room) -> None:
    for start in range(0, 100, 2):
        room.seal(*ids(2, start))
    room.seal(*ids(64, 100))
    room.target.bad = bad("c100")
    await room.run(share=0.2, least=0)
    assert room.target.requests - 51 == 10  # 0.2 of 51 requests, in pairs
    room.check(refused=set(), unsearched=2)


@pytest.mark.parametrize("requests", [1, 2, 3, 5, 8])
@in_a_room()
async def test_the_budget_is_spent_once_over_restarts(room: Room, requests: int) -> None:
    room.seal(*ids(1000))
    room.target.bad = bad("c0", "c999")

    def stop_after(count: int) -> None:
        send = room.target.send

        async def counted(*given: Any) -> Any:
            receipt = await send(*given)
            if room.target.requests >= count:
                room.stop.set()
            return receipt

        room.target.send = counted  # type: ignore[assignment, method-assign]

    stop_after(requests)
    await room.run(least=12)
    assert room.target.requests == requests
    room.stop.clear()
    room.target = RefusingTarget(
        room.clock, Random(8), room.target.weather, bad=room.target.bad, customers=room.target.customers,
        queue=room.target.queue,
    )  # fmt: skip
    await room.run(least=12)
    assert requests + room.target.requests <= 1 + 12 + 1
    room.check(refused=set(room.dead().get("refused", [])), unsearched=len(room.dead()["refused-with-its-batch"]))


# -- a refusal that may have been partial -----------------------------------------------------------------------------


def parted(room: Room, *refused: str) -> None:
    """What of a refused batch is at the target is parked, and is there once; the rest went again and was refused."""
    room.target.settle()
    parked = {record.owner for batch in room.file.batches(room.stage, BatchState.PARKED) for record in room.of(batch)}
    assert room.dead() == {"refused": list(refused)}
    assert parked == {owner for owner in ids(10) if room.target.customers[owner]} == {*ids(10)} - {*refused}
    assert max(room.target.customers.values()) == 1
    assert any("some of it is at the target" in said for said in room.said)


@pytest.mark.parametrize("says", [nobody, one_name])
@in_a_room()
async def test_i3_of_a_partial_refusal_what_is_there_is_parked_and_not_sent_again(
    room: Room, says: Callable[[list[str]], str]
) -> None:
    room.seal(*ids(10))
    room.target.bad, room.target.partial, room.target.says = bad("c0", "c4"), True, says
    await room.run()
    parted(room, "c0", "c4")


@pytest.mark.parametrize("healthy", [0, 1, 4])
@in_a_room()
async def test_i3_a_partial_refusal_is_found_though_the_queue_takes_longer_than_the_settle_time(
    room: Room, healthy: int
) -> None:
    """With nothing accepted that could show how far the queue is, it is given two settle times."""

    room.seal_tens(healthy + 1)
    room.target.bad, room.target.partial = bad("c0"), True
    room.target.weather.queue = (1.8 * SETTLE_TIME, 1.9 * SETTLE_TIME) if not healthy else (200.0, 220.0)
    await room.run()
    parted(room, "c0")


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("later", [0, 4])
@in_a_room()
async def test_i3_an_owner_of_a_refused_batch_who_was_there_before_is_parked_and_the_others_are_searched(
    room: Room, last: bool, later: int
) -> None:
    """Say with an earlier record. Once the whole batch was parked where a look at its last record showed that."""

    there = "c9" if last else "c0"
    room.target.customers[there] = 1
    room.seal_tens(later + 1)
    room.target.bad = bad("c5", there)
    await room.run()
    (parked,) = room.file.batches(room.stage, BatchState.PARKED)
    room.target.settle()
    assert [record.owner for record in room.of(parked)] == [there]
    assert room.dead() == {"refused": ["c5"]}
    assert dict(room.target.customers) == dict.fromkeys({*ids(10 * (later + 1))} - {"c5"}, 1)


@in_a_room()
async def test_i3_a_refused_batch_is_parked_where_the_queue_stands_still(room: Room) -> None:
    room.seal_tens(5)
    room.target.bad, room.target.partial, room.target.weather.queue = bad("c0"), True, (1e6, 1e6)
    await room.run()
    assert room.states() == ["parked"] + ["accepted"] * 4
    assert any("the target does not show what it accepted" in said for said in room.said)


@pytest.mark.parametrize(("healthy", "waits"), [(0, 2), (2, 2), (5, 1)])
@in_a_room()
async def test_a_refused_batch_is_searched_after_the_settle_time_where_later_ones_show_that_the_queue_has_passed_it(
    room: Room, healthy: int, waits: int
) -> None:
    room.seal_tens(healthy + 1)
    room.target.bad, room.target.weather.queue = bad("c0"), (1.0, 2.0)
    began = room.clock.time()
    await room.run()
    assert room.clock.time() - began == pytest.approx(waits * SETTLE_TIME, abs=SETTLE_TIME / 2 + 5)
    room.check(refused={"c0"})


@in_a_room()
async def test_a_refused_batch_that_the_operator_says_did_not_land_is_searched_though_some_of_it_stood_there(
    room: Room,
) -> None:
    room.seal(*ids(10))
    room.target.customers["c0"] = 1
    room.target.bad = bad("c0")
    await room.run()
    (batch,) = room.file.batches("customers", BatchState.PARKED)
    assert [record.owner for record in room.of(batch)] == ["c0"]
    assert room.file.rule(batch, BatchState.SEALED, "not-landed", 5.0, "the operator: it did not land")
    assert await room.sender().may_send_again(room.file.batch(batch.stage, batch.seq))
    await room.run()
    room.target.settle()
    assert room.dead() == {"refused": ["c0"]}
    assert dict(room.target.customers) == dict.fromkeys(ids(10), 1)


@in_a_room()
async def test_a_refused_batch_of_which_nothing_can_be_read_back_is_parked(room: Room) -> None:
    room.seal(*ids(10))
    room.target.bad, room.target.blind = bad("c0"), 1000
    await room.run()
    assert room.states() == ["parked"]


@in_a_room()
async def test_reads_that_say_nothing_for_a_while_are_tried_again(room: Room) -> None:
    room.seal(*ids(10))
    room.target.bad, room.target.blind = bad("c0"), 3
    await room.run()
    room.check(refused={"c0"})


@in_a_room()
async def test_the_settle_time_is_waited_for_also_where_the_wall_clock_is_set_forward(room: Room) -> None:
    batch = room.seal(*ids(10))
    room.target.bad, room.target.partial = bad("c0"), True
    room.target.weather.queue = (30.0, 50.0)
    sender = room.sender()
    await sender.deliver(batch)
    room.clock.jump(3600)
    await room.run(sender)
    parted(room, "c0")


@in_a_room()
async def test_one_parked_more_than_the_setting_allows_stops_the_run(room: Room) -> None:
    room.seal_tens(2)
    room.target.bad, room.target.partial = bad("c0", "c10"), True
    with raises(UnknownOutcome, "too-many-parked"):
        await room.run(room.sender(most_parked=1))


@pytest.mark.parametrize("asked", [False, True])
@in_a_room(stage="events")
async def test_events_are_searched_only_where_that_is_asked_for(room: Room, asked: bool) -> None:
    room.target.customers.update(ids(10))
    room.seal(*ids(10))
    room.target.bad = bad("c3", stage="events")
    await room.run(room.sender(try_named=asked))
    room.check(refused={"c3"} if asked else set(), unsearched=0 if asked else 10)


# -- the breaker ------------------------------------------------------------------------------------------------------


async def deliver_all(room: Room, sender: Sender) -> None:
    """As the stage does it: what was refused before the breaker opened is looked for before it is sent again."""
    for batch in room.file.batches(room.stage, BatchState.SEALED):
        again = room.file.last_attempt(batch).refused
        if not again or await sender.may_send_again(batch):
            await sender.deliver(batch)


@pytest.mark.parametrize("stage", ["customers", "events", "transactions"])
def test_ten_batches_refused_in_a_row_stop_the_run_and_are_sent_again_by_the_next(tmp_path: Path, stage: str) -> None:
    async def story(room: Room) -> None:
        room.target.customers.update([] if stage == "customers" else ids(120))
        room.seal_tens(12)
        room.target.closed = True
        with raises(TargetStop, "breaker-open"):
            await deliver_all(room, room.sender())
        assert room.target.requests == 10
        assert room.states() == ["sealed"] * 12
        assert not room.dead()
        room.target.closed = False
        await deliver_all(room, room.sender())
        assert room.states() == ["accepted"] * 12
        room.check(refused=set())

    in_room(tmp_path, story, stage=stage)


@in_a_room()
async def test_one_that_is_accepted_between_them_keeps_the_breaker_closed(room: Room) -> None:
    room.seal_tens(19)
    room.target.bad = bad(*(f"c{start}" for start in range(0, 190, 10) if start != 90))
    await room.run()
    assert room.states()[:19] == ["split"] * 9 + ["accepted"] + ["split"] * 9
    room.check(refused={owner for _, owner in room.target.bad})


@in_a_room()
async def test_parts_that_are_refused_do_not_open_the_breaker(room: Room) -> None:
    room.seal(*ids(40))
    room.target.bad = bad(*ids(40))
    await room.run(room.sender(breaker=2))
    room.check(refused=set(ids(40)))


@in_a_room()
async def test_i3_what_was_refused_in_part_before_the_breaker_opened_is_parked_by_the_next_run(room: Room) -> None:
    room.seal_tens(2)
    room.target.bad, room.target.partial = bad("c0", "c10"), True
    with pytest.raises(TargetStop):
        await deliver_all(room, room.sender(breaker=2))
    room.target.bad = frozenset()
    sender = room.sender()
    await deliver_all(room, sender)
    assert room.states()[:2] == ["split", "split"]
    assert len(room.file.batches("customers", BatchState.PARKED)) == 2
    await room.run(sender)
    room.target.settle()
    assert dict(room.target.customers) == dict.fromkeys(ids(20), 1)


@in_a_room()
async def test_a_stop_by_the_breaker_says_what_the_target_said_and_what_to_do(room: Room) -> None:
    batch = room.seal("c33", *ids(10))
    room.target.bad = bad("c33")
    room.target.says = lambda poison: "no reward for c33"
    with pytest.raises(TargetStop) as raised:
        await room.sender(breaker=1).deliver(batch)
    assert "no reward for <" in str(raised.value)
    assert "c33" not in str(raised.value)
    assert "the same command" in raised.value.hint


# -- unknown outcomes -------------------------------------------------------------------------------------------------


async def decided(room: Room, fault: str) -> BatchState:
    """What becomes of a batch that meets this fault once."""
    batch = room.seal(*ids(10))
    room.target.weather.faults = {fault: 1.0}

    def hear(notice: Notice) -> None:
        room._hear(notice)
        if isinstance(notice, Answered):
            room.target.weather.faults = {}  # good weather from the first answer on

    sender = room.sender()
    sender.context = replace(sender.context, notify=hear)
    return await sender.deliver(batch)


@pytest.mark.parametrize("stage", ["customers", "events"])
def test_the_policy_park_leaves_every_unknown_outcome_to_the_operator(tmp_path: Path, stage: str) -> None:
    async def story(room: Room) -> None:
        assert await decided(room, "landed-500") is BatchState.PARKED
        assert room.target.requests == 1
        assert any("as the settings of its stage ask" in said for said in room.said)

    in_room(tmp_path, story, policy="park", stage=stage)


@pytest.mark.parametrize("fault", ["landed-reset", "lost"])
@in_a_room(policy="resend", stage="events")
async def test_the_policy_resend_sends_again_without_proof_and_says_so_loudly(room: Room, fault: str) -> None:
    room.target.customers.update(ids(10))
    assert await decided(room, fault) is BatchState.ACCEPTED
    room.target.settle()
    assert set(room.target.events.values()) == {2 if fault == "landed-reset" else 1}
    assert any("SENT AGAIN without proof" in said for said in room.said)


@in_a_room()
async def test_i3_a_wall_clock_that_is_set_forward_proves_nothing(room: Room) -> None:
    room.target.weather.queue = (SETTLE_TIME + 40, SETTLE_TIME + 40)
    room.target.weather.faults = {"landed-reset": 1.0}
    batch = room.seal(*ids(10))
    sender = room.sender()
    sender.more_to_come = lambda: True
    deciding = asyncio.ensure_future(sender.deliver(batch))
    await asyncio.sleep(2)
    room.target.weather.faults, room.target.weather.queue = {}, (0.0, 0.1)  # the later ones overtake it
    for start in (10, 20, 30):
        later = room.seal(*ids(10, start))
        await sender.deliver(later)
    await asyncio.sleep(SETTLE_TIME)  # it has been looked for once by now
    room.clock.jump(3600)
    assert await deciding is BatchState.ACCEPTED
    room.check(refused=set())


@in_a_room()
async def test_a_wall_clock_that_is_set_back_makes_nobody_wait_longer_than_the_settle_time(room: Room) -> None:
    batch = room.seal(*ids(10))
    sender = room.sender()
    await sender.deliver(batch)
    room.clock.jump(-3600)
    began = asyncio.get_running_loop().time()
    barrier = Barrier(Reads(room.target, room.context), Unlimited(), room.store, room.context)
    assert await barrier.wait("customers")
    assert asyncio.get_running_loop().time() - began < SETTLE_TIME + 10
