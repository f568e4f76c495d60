"""I1, I4: whatever a stage holds and however it is cut, each unit is in one batch, dead letter or filter count."""

from __future__ import annotations

import gc
import json
from collections import Counter
from collections.abc import Callable, Iterable
from decimal import Decimal
from itertools import count, groupby, islice
from random import Random
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import replace

from streammig.batching import BatchLimits, Sealing, assemble, batcher, select
from streammig.batching.base import Batcher
from streammig.batching.progress import Stretch
from streammig.check.outline import Outline, OutlineChunk
from streammig.check.requests import requests
from streammig.model import DeadLetter, Draft, Examined, Place, Position, Progress, Range, Record, Tally
from tests.spans import add, chunk_of

HEAD, TAIL = b'{"customers": [', b"]}"
Stage = list[Examined]


class Kind(NamedTuple):
    """A kind of stage: whether owners may be split, and whether units stand in a list."""

    name: str
    once: bool
    listed: bool


KINDS = (Kind("customers", False, False), Kind("events", False, True), Kind("transactions", True, True))
kinds = st.sampled_from(KINDS)
RUNS = settings(max_examples=200, deadline=None)
# From a seed, which hypothesis prints with a failure: drawing each value through hypothesis took ten times as long.
dices = st.builds(Random, st.integers(0, 2**32))
all_limits = st.builds(
    BatchLimits,
    units=st.integers(1, 12),
    bytes=st.sampled_from([90, 150, 400, 100_000]),
    bins=st.integers(1, 5),
    held=st.sampled_from([100, 1000, 10**6]),
    age=st.integers(1, 6),
    letters=st.sampled_from([2, 5, 1000]),
    stretch=st.sampled_from([2, 5, 1000]),
)


def record_of(dice: Random, kind: Kind, position: Position, unit: int, numbers: list[int]) -> Record:
    """A record whose units are the numbers, each once in the stage, in any white space and of any size."""
    owner = f"c{dice.randint(0, 9 if dice.random() < 0.5 else 10**6)}"
    if not kind.listed:
        pad = "é" * dice.choice([0, 3, 60])
        body = b'{"id":"%b","n":%d,"pad":"%b"}' % (owner.encode(), numbers[0], pad.encode())
        unique = dice.choice(["", "", f"t{dice.randint(0, 30)}"])
        balance = (("points", Decimal(numbers[0]) / 7 // 1), ("miles", Decimal("0.01")))
        return Record(position, unit, owner, body, 1, balance, None, unique)
    pads = ["é" * dice.choice([0, 0, 1, 9, 70 if dice.random() < 0.2 else 0]) for _ in numbers]
    units = [b'{"n":%d,"p":"%b"}' % (n, pad.encode()) for n, pad in zip(numbers, pads, strict=True)]
    edge = dice.choice([b"", b"", b"\n "])
    inner = edge + dice.choice([b",", b" , ", b",\n    "]).join(units) + edge
    opening = b'{"id":"%b","list":[' % owner.encode()
    amounts = tuple((dice.choice(["points", "miles"]), Decimal(n) / 100) for n in numbers)
    where = (len(opening), len(opening) + len(inner))
    return Record(position, unit, owner, opening + inner + b"] }", len(numbers), amounts, where)


def make_stage(dice: Random, kind: Kind, size: int) -> Stage:
    """Source records over several files: one record, a mapping's several, filtered, dead, or all of these."""
    stage, next_number = [], 1
    source, offset, ordinal = 0, 3, 1
    for _ in range(size):
        if dice.random() < 0.1:
            source, offset, ordinal = source + 1, dice.randint(0, 5), 1
        position = Position(source, offset, dice.randint(1, 50), ordinal)
        offset, ordinal = offset + position.length + dice.randint(1, 3), ordinal + 1
        records: list[Record] = []
        filtered: list[tuple[str, Tally]] = []
        letters: list[DeadLetter] = []
        unit = 0
        for _ in range(dice.choice([1, 1, 1, 1, 0, 2, 5])):
            fate = dice.random()
            if fate < 0.15:
                filtered.append(
                    (dice.choice(["deleted", "reversed"]), Tally(1, dice.randint(0, 3), {"points": Decimal(2)}))
                )
                unit += 1
            elif fate < 0.3:
                letters.append(
                    DeadLetter(position, unit, "missing-field", "id is missing", Tally(1, 2, {"miles": Decimal(1)}))
                )
                unit += 1
            else:
                count = dice.choice([1, 1, 2, 3, 7, 30 if dice.random() < 0.2 else 1]) if kind.listed else 1
                records.append(record_of(dice, kind, position, unit, list(range(next_number, next_number + count))))
                next_number += count
                unit += count
        dropped = ("x",) * dice.choice([0, 0, 1, 2])
        absent = tuple((f"owner{ordinal}", letter.code) for letter in letters)
        stage.append(Examined(position, tuple(records), tuple(filtered), tuple(letters), absent, dropped))
    return stage


stages = st.tuples(dices, kinds, st.integers(0, 40)).map(lambda drawn: (drawn[1], make_stage(*drawn)))


class Totals:
    """What the checkpoint would hold: every draft, every dead letter by its key, the last progress."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self.letters: dict[tuple[int, int, int], DeadLetter] = {}
        self.absent: Counter[tuple[str, str]] = Counter()
        self.progress = Progress()
        self.settled = Tally()  # packed and dead

    def commit(self, sealing: Sealing) -> None:
        if sealing.draft:
            self.drafts.append(sealing.draft)
            self.settled += sealing.draft.tally
        self.progress = sealing.progress
        for letter in sealing.progress.dead:
            key = (letter.position.source, letter.position.offset, letter.unit)
            assert key not in self.letters
            self.letters[key] = letter
            self.settled += letter.tally
        self.absent.update(sealing.progress.absent)
        self.balance()

    def balance(self) -> None:
        """I1: what was read is what batches, dead letters and filter counts add up to."""
        filtered = sum(self.progress.filtered.values(), Tally())
        assert self.progress.read == self.settled + filtered

    def ahead(self) -> list[Range]:
        return [each for draft in self.drafts for each in draft.ranges if each.end > self.progress.frontier]


def begin(kind: Kind, stage: Stage, limits: BatchLimits, totals: Totals) -> tuple[Batcher, Stage]:
    """A batcher that goes on from what was committed, and what it is to take."""
    frontier = totals.progress.frontier
    packing = batcher(HEAD, TAIL, kind.once, limits, totals.progress, totals.ahead(), totals.letters.__contains__)
    return packing, [each for each in stage if (each.position.source, each.position.offset) >= frontier[:2]]


def migrate(
    kind: Kind, stage: Stage, limits: BatchLimits, lost: Callable[[], bool], totals: Totals | None = None
) -> Totals:
    """Run the stage to its end; wherever `lost` says so behind a commit, go on with what was committed only."""
    totals = totals or Totals()
    while True:
        packing, rest = begin(kind, stage, limits, totals)
        if not commit_all(totals, (add(packing, each) for each in rest), lost):
            continue
        if commit_all(totals, [packing.finish()], lost):
            return totals


def commit_all(totals: Totals, groups: Iterable[list[Sealing]], lost: Callable[[], bool]) -> bool:
    for group in groups:
        for sealing in group:
            before = totals.progress.frontier
            totals.commit(sealing)
            assert totals.progress.frontier >= before
            if lost():
                return False
    return True


def never() -> bool:
    return False


def numbers_in(body: bytes) -> list[int]:
    customers = json.loads(body)["customers"]
    assert len({each["id"] for each in customers}) == len(customers)
    return [unit["n"] for each in customers for unit in each.get("list", [each])]


@RUNS
@given(stages, all_limits, dices)
def test_i1_records_taken_many_at_a_time_pack_as_they_do_one_by_one(
    drawn: tuple[Kind, Stage], limits: BatchLimits, dice: Random
) -> None:
    kind, stage = drawn
    singly, together = (batcher(HEAD, TAIL, kind.once, limits) for _ in range(2))
    expected = [sealing for each in stage for sealing in add(singly, each)] + singly.finish()
    found: list[Sealing] = []
    while stage:
        count = dice.choice([1, 2, 3, 8, 40])
        for _, run in groupby(stage[:count], lambda it: it.position.source):
            found += together.take(chunk_of(list(run)))
        stage = stage[count:]
    assert found + together.finish() == expected


@RUNS
@given(stages, all_limits, st.booleans(), st.integers(1, 40))
def test_sizes_alone_are_packed_as_the_records_are(
    drawn: tuple[Kind, Stage], limits: BatchLimits, alone: bool, piece: int
) -> None:
    kind, stage = drawn
    limits = replace(limits, letters=10**9)
    if alone:  # no two records have an owner in common
        each = (it.records for it in stage)
        names = map(str, count())
        owners = [tuple([replace(it, owner=next(names), unique="") for it in records]) for records in each]
        stage = [replace(it, records=records) for it, records in zip(stage, owners, strict=True)]
    outlines = []
    for source, run in groupby(stage, lambda it: it.position.source):
        while some := list(islice(run, piece)):
            outlines.append(Outline(source, mean=0))
            if any(it.records for it in some):
                outlines[-1].add(chunk_of(some), b"key", shared=not alone)
    planned = requests(batcher(HEAD, TAIL, kind.once, limits), (OutlineChunk(it, ()) for it in outlines))
    totals = migrate(kind, stage, limits, never)
    assert (planned.number, planned.size) == (len(totals.drafts), sum(len(it.body) for it in totals.drafts))
    buried = [it for it in totals.letters.values() if it.code in ("too-large", "duplicate-customer")]
    assert list(map(told, planned.letters)) == list(map(told, buried))


def told(letter: DeadLetter) -> tuple[object, ...]:
    return letter.position.begin, letter.unit, letter.code, letter.message


def units_of(stage: Stage) -> dict[tuple[int, int, int], int]:
    """Every unit's place and its number."""
    found = {}
    for each in stage:
        for record in each.records:
            for index, number in enumerate(numbers_in(HEAD + record.body + TAIL)):
                found[each.position.source, each.position.offset, record.unit + index] = number
    return found


def check_every_unit_is_somewhere_once(stage: Stage, totals: Totals) -> None:
    sent = Counter(number for draft in totals.drafts for number in numbers_in(draft.body))
    assert set(sent.values()) <= {1}
    buried: Counter[int] = Counter()
    units = units_of(stage)
    for (source, offset, unit), letter in totals.letters.items():
        if letter.code in ("too-large", "duplicate-customer"):
            buried.update(units[source, offset, unit + index] for index in range(letter.tally.units))
    assert sent + buried == Counter(units.values())


def counts_of(totals: Totals) -> tuple[object, ...]:
    end = totals.progress
    return end.frontier, end.source_records, end.read, end.filtered, end.dropped, totals.absent


def expected(stage: Stage) -> tuple[object, ...]:
    """The same, counted plainly."""
    filtered: dict[str, Tally] = {}
    dropped: Counter[str] = Counter()
    absent: Counter[tuple[str, str]] = Counter()
    read = Tally()
    for each in stage:
        for reason, tally in each.filtered:
            filtered[reason] = filtered.get(reason, Tally()) + tally
            read += tally
        for tally in (*(record.tally for record in each.records), *(letter.tally for letter in each.dead)):
            read += tally
        dropped.update(each.dropped)
        absent.update(each.absent)
    position = stage[-1].position if stage else Position(0, 0, 0, 0)
    frontier = Place(position.source, position.offset + position.length, 0, position.ordinal + 1)
    return frontier, len(stage), read, filtered, dict(dropped), absent


@RUNS
@given(stages, all_limits, dices, st.sampled_from([0.05, 0.3, 0.6]))
def test_i1_i4_every_unit_is_in_one_batch_dead_letter_or_filter_count_also_of_a_stage_cut_at_any_commits(
    drawn: tuple[Kind, Stage], limits: BatchLimits, dice: Random, chance: float
) -> None:
    kind, stage = drawn
    whole = migrate(kind, stage, limits, never)
    cut = migrate(kind, stage, limits, lambda: dice.random() < chance)
    for totals in (whole, cut):
        assert counts_of(totals) == expected(stage)
        check_every_unit_is_somewhere_once(stage, totals)
        for draft in totals.drafts:
            assert 0 < draft.tally.units == len(numbers_in(draft.body)) <= limits.units
            assert len(draft.body) <= limits.bytes
    if not kind.once:
        assert [draft.body for draft in cut.drafts] == [draft.body for draft in whole.drafts]
        assert cut.letters == whole.letters


@RUNS
@given(stages, all_limits, dices)
def test_i1_i4_what_pilots_leave_is_taken_once_by_the_readings_behind_them(
    drawn: tuple[Kind, Stage], limits: BatchLimits, dice: Random
) -> None:
    kind, stage = drawn
    totals = Totals()
    for chance in (0.7, 0.4):
        packing, rest = begin(kind, stage, limits, totals)
        for each in rest:
            left = dice.random() < chance
            commit_all(totals, [packing.leave(chunk_of([each]).span) if left else add(packing, each)], never)
        commit_all(totals, [packing.finish()], never)
    totals = migrate(kind, stage, limits, never, totals)
    assert counts_of(totals) == expected(stage)
    check_every_unit_is_somewhere_once(stage, totals)


@RUNS
@given(stages, all_limits, dices)
def test_a_batch_put_together_again_from_its_ranges_is_the_sealed_one_whatever_dead_letter_is_alive_by_then(
    drawn: tuple[Kind, Stage], limits: BatchLimits, dice: Random
) -> None:
    kind, stage = drawn
    revived = []
    for each in stage:
        alive = [record_of(dice, kind, each.position, letter.unit, [10**6]) for letter in each.dead]
        revived.append(sorted((*each.records, *alive), key=lambda record: record.unit))
    for draft in migrate(kind, stage, limits, lambda: dice.random() < 0.2).drafts:
        assert list(draft.ranges) == sorted(draft.ranges)
        assert all(begin.source == end.source and begin < end for begin, end in draft.ranges)
        for read in ([each.records for each in stage], revived):
            chosen = [record for records in read for record in select(records, draft.ranges)]
            assert assemble(chosen, HEAD, TAIL, draft.ranges) == draft


@RUNS
@given(stages, all_limits)
def test_the_frontier_stands_before_the_first_unit_that_is_in_nothing_committed(
    drawn: tuple[Kind, Stage], limits: BatchLimits
) -> None:
    kind, stage = drawn
    units = units_of(stage)
    totals = Totals()
    sent: set[int] = set()
    packing = batcher(HEAD, TAIL, kind.once, limits)
    for group in [*(add(packing, each) for each in stage), packing.finish()]:
        for sealing in group:
            totals.commit(sealing)
            if sealing.draft:
                sent.update(numbers_in(sealing.draft.body))
            buried = {place for letter in totals.letters.values() for place in buried_by_packer(letter)}
            frontier = sealing.progress.frontier[:3]
            assert all(number in sent or place in buried for place, number in units.items() if place < frontier)
            assert all(place < frontier for place in buried)
            # What the rules left out has no unit to stand at: it counts with its source record's end.
            ranges = [each for draft in totals.drafts for each in draft.ranges]
            passed = [each for each in stage if is_behind(each.position, frontier, ranges)]
            assert sealing.progress.source_records == len(passed)
            told = [(it.position, it.unit) for it in totals.letters.values() if it.code == "missing-field"]
            assert sorted(told) == [(it.position, it.unit) for each in passed for it in each.dead]


def is_behind(position: Position, frontier: tuple[int, ...], ranges: list[Range]) -> bool:
    """Whether a source record's end is behind the frontier, or in a sealed batch."""
    begin, end = (position.source, position.offset), (position.source, position.offset + position.length)
    return end <= frontier[:2] or any(each.begin[:2] <= begin < each.end[:2] for each in ranges)


def buried_by_packer(letter: DeadLetter) -> list[tuple[int, int, int]]:
    if letter.code == "missing-field":
        return []
    source, offset = letter.position.source, letter.position.offset
    return [(source, offset, letter.unit + index) for index in range(letter.tally.units)]


@RUNS
@given(dices, st.integers(1, 30), st.integers(1, 12))
def test_events_are_filled_as_a_plain_list_of_units_cut_every_so_many(dice: Random, size: int, units: int) -> None:
    stage = make_stage(dice, KINDS[1], size)
    numbers = [number for _, number in sorted(units_of(stage).items())]
    totals = migrate(KINDS[1], stage, BatchLimits(units=units), never)
    assert [sorted(numbers_in(draft.body)) for draft in totals.drafts] == [
        numbers[start : start + units] for start in range(0, len(numbers), units)
    ]
    # Nothing but filtered records lies within a range: a batch is one for each file, and one more for each dead one.
    spots = [(letter.position.source, letter.position.offset, letter.unit) for each in stage for letter in each.dead]
    for draft in totals.drafts:
        within = [spot for spot in spots if draft.ranges[0].begin < spot < draft.ranges[-1].end]
        assert len(draft.ranges) <= len({each.begin.source for each in draft.ranges}) + len(within)


@RUNS
@given(dices, st.integers(1, 30), st.sampled_from([120, 200, 500]))
def test_no_batch_of_events_had_room_for_the_next_unit(dice: Random, size: int, limit: int) -> None:
    stage = make_stage(dice, KINDS[1], size)
    totals = migrate(KINDS[1], stage, BatchLimits(bytes=limit), never)
    for draft, following in zip(totals.drafts, totals.drafts[1:], strict=False):
        begin = following.ranges[0].begin
        unit = Range(begin, begin._replace(unit=begin.unit + 1))
        held = [record for each in stage for record in select(each.records, draft.ranges)]
        more = [record for each in stage for record in select(each.records, [unit])]
        grown = len(assemble(held + more, HEAD, TAIL).body)
        # A record cut here had white space (at most 6 bytes) where joining its next unit has none; and at its own
        # end the white space and brackets that stand there.
        assert grown + 8 > limit


def best_fit(sizes: list[tuple[str, int]], limits: BatchLimits) -> list[list[int]]:
    """Bin packing as anyone would write it: the batches as lists of the records' numbers, in the order of sealing."""
    open_bins: list[list[int]] = []
    listed: dict[int, int] = {}
    born: dict[int, int] = {}
    sealed: list[list[int]] = []

    def room(one: list[int]) -> int:
        return limits.units - sum(sizes[number][1] for number in one)

    def seal(one: list[int]) -> None:
        open_bins.remove(one)
        sealed.append(one)

    def fullest() -> list[int]:
        return min(open_bins, key=lambda one: (room(one), listed[one[0]]))

    homes: dict[str, list[int]] = {}
    for number, (owner, units) in enumerate(sizes):
        home = homes.get(owner)
        fitting = [one for one in open_bins if room(one) >= units]
        if home in fitting:
            chosen = home
        elif fitting:
            chosen = min(fitting, key=lambda one: (room(one), listed[one[0]]))
        else:
            if len(open_bins) >= limits.bins:
                seal(fullest())
            chosen = []
            open_bins.append(chosen)
            born[number] = len(sealed)
        assert chosen is not None
        chosen.append(number)
        homes[owner] = chosen
        listed[chosen[0]] = number
        while open_bins and room(fullest()) == 0:
            seal(fullest())
        while open_bins and len(sealed) - born[open_bins[0][0]] >= limits.age:
            seal(open_bins[0])
    return sealed + open_bins


@RUNS
@given(
    st.lists(st.tuples(st.sampled_from("abcdefghijklmnop"), st.integers(1, 20)), max_size=60),
    st.builds(BatchLimits, units=st.just(20), bins=st.integers(1, 5), age=st.integers(1, 8)),
)
def test_bins_are_filled_as_a_plain_search_for_the_best_fit_would(
    sizes: list[tuple[str, int]], limits: BatchLimits
) -> None:
    stage = []
    for number, (owner, units) in enumerate(sizes):
        inner = b",".join([b'{"n":%d}' % number] * units)
        opening = b'{"id":"%b","list":[' % owner.encode()
        position = Position(0, number * 10, 9, number + 1)
        where = (len(opening), len(opening) + len(inner))
        record = Record(position, 0, owner, opening + inner + b"]}", units, (("points", Decimal(1)),) * units, where)
        stage.append(Examined(position, (record,)))
    totals = migrate(KINDS[2], stage, limits, never)
    assert [sorted(set(numbers_in(draft.body))) for draft in totals.drafts] == best_fit(sizes, limits)


@pytest.mark.parametrize("age", [5, 10**9])
def test_i6_settled_stretches_melt_into_one_however_long_the_frontier_waits(
    age: int, request: pytest.FixtureRequest
) -> None:
    """Counted in objects that the batcher keeps alive; with no age limit the first bin stays open through all of it."""

    def alive() -> int:
        return sum(type(each) is Stretch for each in gc.get_objects())

    gc.freeze()  # what is there before is not looked through
    request.addfinalizer(gc.unfreeze)
    dice = Random(6)
    limits = BatchLimits(units=100, bins=8, age=age)
    packing = batcher(HEAD, TAIL, once=True, limits=limits)
    offset, held, most = 0, 0, 0
    for number in range(4000):
        units = [number] * (99 if number == 0 else dice.randint(30, 70) if number % 2 else dice.randint(2, 5))
        position = Position(0, offset, 90, number + 1)
        offset += 100
        record = record_of(dice, KINDS[2], position, 0, units)
        held += 1
        for sealing in add(packing, Examined(position, (record,), (("deleted", Tally(1)),))):
            assert sealing.draft
            held -= sealing.draft.tally.records
        if number % 100 == 99:
            most = max(most, alive() - 2 * held)
    # An open record is a span of its own at most, and between two of them is one settled span at most.
    assert most <= 1
