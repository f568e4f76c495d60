"""Batches: exact fill, joining, limits in bytes, duplicates, what is too large, memory that stays flat."""

from __future__ import annotations

import hashlib
import json
from decimal import Decimal
from typing import Any

import pytest

from streammig.batching import Batcher, BatchLimits, Sealing, batcher
from streammig.model import DeadLetter, Draft, Examined, Place, Position, Progress, Range, Record, Tally
from tests.spans import add

HEAD, TAIL = b'{"customers":[', b"]}"


def event_record(
    owner: str,
    units: list[bytes],
    *,
    number: int = 0,
    unit: int = 0,
    gap: bytes = b",",
    edge: bytes = b"",
    source: int = 0,
) -> Record:
    inner = edge + gap.join(units) + edge
    opening = b'{"id":"%b","events":[' % owner.encode()
    body = opening + inner + b"]}"
    amounts = tuple(("purchases", Decimal(len(each))) for each in units)
    where = (len(opening), len(opening) + len(inner))
    return Record(position_of(number, source), unit, owner, body, len(units), amounts, where)


def customer(owner: str, *, number: int = 0, unique: str = "", pad: int = 0, unit: int = 0, source: int = 0) -> Record:
    body = b'{"id":"%b","pad":"%b"}' % (owner.encode(), b"x" * pad)
    return Record(position_of(number, source), unit, owner, body, 1, (("points", Decimal(1)),), None, unique)


def position_of(number: int, source: int = 0) -> Position:
    return Position(source, number * 1000, 900, number + 1)


def examined(*records: Record, number: int = 0, **more: Any) -> Examined:
    position = records[0].position if records else position_of(number)
    return Examined(position, records, **more)


def dead(number: int, code: str = "missing-field") -> Examined:
    letter = DeadLetter(position_of(number), 0, code, "id is missing", Tally(1, 1))
    return examined(number=number, dead=(letter,))


def filtered(number: int) -> Examined:
    return examined(number=number, filtered=(("deleted", Tally(1, 1)),))


def run(packing: Batcher, stage: list[Examined]) -> list[Sealing]:
    out: list[Sealing] = []
    for each in stage:
        out += add(packing, each)
    return out + packing.finish()


def drafts_of(sealings: list[Sealing]) -> list[Draft]:
    return [sealing.draft for sealing in sealings if sealing.draft]


def contents(draft: Draft) -> dict[str, list[Any]]:
    customers = json.loads(draft.body)["customers"]
    held: dict[str, list[Any]] = {
        each["id"]: next((each[key] for key in ("events", "transactions") if key in each), []) for each in customers
    }
    assert len(held) == len(customers)
    return held


def test_a_batch_that_is_full_is_handed_over_at_once() -> None:
    packing = batcher(HEAD, TAIL, once=False, limits=BatchLimits(units=2))
    assert add(packing, examined(customer("a", number=0))) == []
    [sealing] = add(packing, examined(customer("b", number=1)))
    assert sealing.progress.frontier == Place(0, 1900, 0, 3)
    assert packing.finish() == []


def test_records_of_the_same_owner_are_joined_in_the_place_of_the_first() -> None:
    stage = [
        examined(event_record("a", [b"1"], number=0)),
        examined(event_record("b", [b"2"], number=1)),
        examined(event_record("a", [b"3", b"4"], number=2)),
    ]
    for once in (False, True):
        [sealing] = run(batcher(HEAD, TAIL, once), stage)
        assert sealing.draft
        assert sealing.draft.body == b'{"customers":[{"id":"a","events":[1,3,4]},{"id":"b","events":[2]}]}'
        assert sealing.draft.digest == hashlib.sha256(sealing.draft.body).digest()
        assert sealing.draft.tally == Tally(3, 4, {"purchases": Decimal(4)})
        assert sealing.draft.ranges == (Range(Place(0, 0, 0, 1), Place(0, 2900, 0, 4)),)


def test_white_space_inside_a_record_travels_and_is_dropped_only_where_it_is_cut() -> None:
    record = event_record("a", [b"1", b"2", b"3", b"4"], gap=b" ,\n  ", edge=b"\n ")
    first, second = drafts_of(run(batcher(HEAD, TAIL, once=False, limits=BatchLimits(units=2)), [examined(record)]))
    assert first.body == b'{"customers":[{"id":"a","events":[\n 1 ,\n  2]}]}'
    assert second.body == b'{"customers":[{"id":"a","events":[3 ,\n  4\n ]}]}'


def test_a_customer_that_exactly_fills_the_bytes_left_still_fits_and_one_byte_more_does_not() -> None:
    first, second = customer("a", number=0), customer("b", number=1)
    exact = len(HEAD) + len(first.body) + 1 + len(second.body) + len(TAIL)
    for limit, batches in ((exact, 1), (exact - 1, 2)):
        packing = batcher(HEAD, TAIL, once=False, limits=BatchLimits(bytes=limit))
        assert len(drafts_of(run(packing, [examined(first), examined(second)]))) == batches


def test_a_customer_whose_id_or_unique_value_is_in_the_open_batch_is_a_dead_letter_that_names_no_value() -> None:
    stage = [
        examined(customer("secret-id", number=0, unique="secret@mail")),
        examined(customer("secret-id", number=1)),
        examined(customer("other", number=2, unique="secret@mail")),
        examined(customer("third", number=3)),
    ]
    [sealing] = run(batcher(HEAD, TAIL, once=False), stage)
    assert sealing.draft
    assert list(contents(sealing.draft)) == ["secret-id", "third"]
    assert sealing.draft.ranges == (
        Range(Place(0, 0, 0, 1), Place(0, 900, 0, 2)),
        Range(Place(0, 3000, 0, 4), Place(0, 3900, 0, 5)),
    )
    letters = sealing.progress.dead
    assert [(letter.position.ordinal, letter.code) for letter in letters] == [
        (2, "duplicate-customer"),
        (3, "duplicate-customer"),
    ]
    assert all("record 1 " in letter.message and "secret" not in letter.message for letter in letters)
    assert sealing.progress.read == Tally(4, 4, {"points": Decimal(4)})


def test_a_duplicate_of_a_customer_in_another_file_names_that_file() -> None:
    stage = [examined(customer("a", number=4)), examined(customer("a", number=0, source=1))]
    [sealing] = run(batcher(HEAD, TAIL, once=False), stage)
    assert "record 5 of file 1 " in sealing.progress.dead[0].message


def test_customers_without_a_unique_value_are_no_duplicates_of_each_other() -> None:
    [sealing] = run(batcher(HEAD, TAIL, once=False), [examined(customer(f"c{n}", number=n)) for n in range(5)])
    assert sealing.progress.dead == ()


def test_a_single_unit_that_no_request_can_hold_is_a_dead_letter_and_its_neighbours_travel_together() -> None:
    record = event_record("a", [b"1", b"2", b'"%b"' % (b"x" * 200), b"4"])
    [sealing] = run(batcher(HEAD, TAIL, once=False, limits=BatchLimits(bytes=100)), [examined(record)])
    assert sealing.draft
    assert contents(sealing.draft) == {"a": [1, 2, 4]}
    # The range is broken there, so that the batch is put together again without it.
    assert sealing.draft.ranges == (
        Range(Place(0, 0, 0, 1), Place(0, 0, 2, 1)),
        Range(Place(0, 0, 3, 1), Place(0, 900, 0, 2)),
    )
    [letter] = sealing.progress.dead
    assert (letter.code, letter.unit, letter.tally.records, letter.tally.units) == ("too-large", 2, 0, 1)
    assert sealing.progress.read == record.tally


@pytest.mark.parametrize("limits", [BatchLimits(units=3), BatchLimits(bytes=40)])
def test_an_owner_who_may_not_be_split_and_fits_no_request_is_a_dead_letter(limits: BatchLimits) -> None:
    stage = [examined(event_record("a", [b"1"] * 4))]
    [sealing] = run(batcher(HEAD, TAIL, once=True, limits=limits), stage)
    assert sealing.draft is None
    assert [(letter.code, letter.tally.units) for letter in sealing.progress.dead] == [("too-large", 4)]


def test_bins_count_bytes_too() -> None:
    stage = [examined(event_record(f"c{n}", [b'"%b"' % (b"x" * (n * 37 % 300))], number=n)) for n in range(300)]
    drafts = drafts_of(run(batcher(HEAD, TAIL, once=True, limits=BatchLimits(bytes=2000)), stage))
    assert all(len(draft.body) <= 2000 for draft in drafts)
    assert sum(len(draft.body) for draft in drafts[:-3]) > 0.98 * 2000 * (len(drafts) - 3)


def test_a_bin_that_no_later_record_fills_is_sealed_after_128_batches_so_that_the_frontier_follows() -> None:
    packing = batcher(HEAD, TAIL, once=True, limits=BatchLimits(units=10))
    add(packing, examined(event_record("odd", [b"0"] * 9, number=0)))
    sealings = []
    for number in range(1, 130):
        sealings += add(packing, examined(event_record(f"c{number}", [b"0"] * 10, number=number)))
    frontiers = [sealing.progress.frontier for sealing in sealings]
    assert frontiers[:128] == [Place()] * 128
    assert frontiers[128] == Place(0, 128 * 1000 + 900, 0, 130)


def test_the_bytes_held_in_open_bins_are_bounded() -> None:
    packing = batcher(HEAD, TAIL, once=True, limits=BatchLimits(units=100, held=5000))
    held = 0
    for number in range(50):
        record = event_record(f"c{number}", [b'"%b"' % (b"x" * 10)] * 60, number=number)
        held += len(record.body)
        held -= sum(len(sealing.draft.body) for sealing in add(packing, examined(record)) if sealing.draft)
        assert held <= 5000


@pytest.mark.parametrize("once", [False, True])
def test_a_flood_of_dead_letters_is_handed_out_in_portions_though_a_batch_stands_open(once: bool) -> None:
    packing = batcher(HEAD, TAIL, once, BatchLimits(letters=100))
    add(packing, examined(event_record("a", [b"1"], number=0)))
    sealings = [sealing for number in range(1, 1000) for sealing in add(packing, dead(number))]
    assert [len(sealing.progress.dead) for sealing in sealings] == [100] * 9
    assert [sealing.draft is not None for sealing in sealings] == [True] + [False] * 8


def test_dead_letters_behind_several_open_bins_seal_only_the_bins_that_hold_them_back() -> None:
    packing = batcher(HEAD, TAIL, once=True, limits=BatchLimits(units=10, letters=5))
    add(packing, examined(event_record("a", [b"1"] * 6, number=0)))
    add(packing, examined(event_record("b", [b"1"] * 7, number=1)))
    for number in range(2, 6):
        add(packing, dead(number))
    add(packing, examined(event_record("c", [b"1"] * 8, number=6)))
    sealings = add(packing, dead(7))
    assert [list(contents(draft)) for draft in drafts_of(sealings)] == [["a"], ["b"]]
    assert [len(sealing.progress.dead) for sealing in sealings] == [0, 4]


def test_a_long_filtered_stretch_commits_how_far_it_was_read_and_wastes_no_request_on_it() -> None:
    packing = batcher(HEAD, TAIL, once=False, limits=BatchLimits(stretch=100))
    sealings = [sealing for number in range(250) for sealing in add(packing, filtered(number))]
    assert [(each.draft, each.progress.source_records) for each in sealings] == [(None, 100), (None, 200)]
    add(packing, examined(customer("a", number=250)))
    assert [sealing for number in range(251, 600) for sealing in add(packing, filtered(number))] == []
    assert packing.finish()[0].progress.source_records == 600


@pytest.mark.parametrize("once", [False, True])
def test_a_record_without_units_is_refused_since_no_range_would_hold_it(once: bool) -> None:
    record = event_record("a", [b"1"])
    empty = Record(record.position, 0, "a", record.body, 0, (), record.inner)
    with pytest.raises(ValueError, match="without units"):
        add(batcher(HEAD, TAIL, once), examined(empty))
    resumed = batcher(
        HEAD, TAIL, once, progress=Progress(), ahead=[Range(Place(0, 9000, 0, 10), Place(0, 9900, 0, 11))]
    )
    with pytest.raises(ValueError, match="without units"):
        add(resumed, examined(empty))


def test_a_customer_is_refused_where_owners_must_not_be_split() -> None:
    with pytest.raises(ValueError, match="joined"):
        add(batcher(HEAD, TAIL, once=True), examined(customer("a")))


@pytest.mark.parametrize("newly", ["there", "missing"])
def test_i3_i4_beside_what_is_sealed_ahead_a_letter_stays_one_and_a_new_one_is_told(newly: str) -> None:
    """One source record makes what belongs to two customers, one of whom came or went between two runs."""
    old = examined(event_record("old", [b"1"], number=0))  # its open batch holds the frontier back
    sealed, other = event_record("b", [b"2", b"3", b"4"], number=1, unit=1), event_record("a", [b"0"], number=1)
    letter = DeadLetter(position_of(1), 0, "owner-refused", "its customer is not there", Tally(1, 1))
    with_letter, with_both = examined(sealed, dead=(letter,)), examined(other, sealed)
    before, now = (with_letter, with_both) if newly == "there" else (with_both, with_letter)
    packing = batcher(HEAD, TAIL, once=True, limits=BatchLimits(units=3))
    out = add(packing, old) + add(packing, before)
    [first] = [it for it in out if it.draft and b'"b"' in it.draft.body]
    assert first.draft
    letters = {(*it.position.begin[:2], it.unit) for it in first.progress.dead}
    again = batcher(
        HEAD, TAIL, True, BatchLimits(units=3), first.progress, first.draft.ranges, buried=letters.__contains__
    )
    rest = add(again, old) + add(again, now) + again.finish()
    assert [list(contents(draft)) for draft in drafts_of(rest)] == [["old"]]
    told = [it.unit for each in (first, *rest) for it in each.progress.dead]
    assert told == [0]
    assert rest[-1].progress.read.units == 5
