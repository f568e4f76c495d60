"""Exact byte operations: cutting, joining, choosing by ranges, halving."""

from __future__ import annotations

import json
from decimal import Decimal

import pytest

from streammig.batching import assemble, halves, part_of, ranges_of, select
from streammig.model import Place, Range, Record
from tests.test_batching import HEAD, TAIL, customer, event_record, examined

PRETTY = event_record("a", [b'"},]"', b'"\xc3\xa9\\""', b"[1, 2]", b"1", b"1"], unit=3, gap=b"\n , ", edge=b" ")


def test_splitting_keeps_every_byte_of_both_parts_but_the_gap_between_them() -> None:
    for units in range(1, 5):
        first, second = part_of(PRETTY, 0, units), part_of(PRETTY, units, 5)
        for part in (first, second):
            assert part.inner
            assert part.tally.units == len(json.loads(part.body)["events"]) == len(part.amounts)
        assert first.inner
        assert second.inner
        inner = PRETTY.body[slice(*PRETTY.inner or (0, 0))]
        left, right = first.body[slice(*first.inner)], second.body[slice(*second.inner)]
        assert inner.startswith(left)
        assert inner.endswith(right)
        assert inner[len(left) : len(inner) - len(right)] == b"\n , "
        assert (first.unit, second.unit) == (3, 3 + units)
        assert (first.whole, second.whole) == (True, False)
        assert first.tally + second.tally == PRETTY.tally


def test_cutting_twice_is_cutting_once() -> None:
    assert part_of(part_of(PRETTY, 0, 4), 2, 4) == part_of(part_of(PRETTY, 2, 5), 0, 2)


def test_a_record_whose_list_is_not_as_long_as_it_says_is_refused() -> None:
    short = event_record("a", [b"1", b"2"])
    with pytest.raises(ValueError, match="3 units holds 2"):
        part_of(Record(short.position, 0, "a", short.body, 3, short.amounts, short.inner), 0, 1)


def test_what_has_no_list_of_units_is_not_split() -> None:
    whole = customer("a")
    with pytest.raises(ValueError, match="single unit"):
        part_of(Record(whole.position, 0, "a", whole.body, 2), 0, 1)


def test_ranges_choose_the_units_between_their_edges() -> None:
    record = event_record("a", [b"0", b"1", b"2", b"3", b"4", b"5"], number=1)
    one = examined(record)

    def chosen(*ranges: tuple[tuple[int, int], tuple[int, int]]) -> list[list[int]]:
        places = [Range(Place(0, *begin), Place(0, *end)) for begin, end in ranges]
        return [json.loads(part.body)["events"] for part in select(one.records, places)]

    assert chosen(((0, 0), (900, 0))) == []
    assert chosen(((0, 0), (1000, 0))) == []
    assert chosen(((1900, 0), (5000, 0))) == []
    assert chosen(((0, 0), (5000, 0))) == [[0, 1, 2, 3, 4, 5]]
    assert chosen(((0, 0), (1000, 2))) == [[0, 1]]
    assert chosen(((1000, 4), (5000, 0))) == [[4, 5]]
    assert chosen(((0, 0), (1000, 1)), ((1000, 2), (1000, 4)), ((1000, 5), (1900, 0))) == [[0], [2, 3], [5]]
    assert select(one.records, [Range(Place(1, 0), Place(1, 5000))]) == []
    assert select(one.records, []) == []


def test_a_record_that_lies_whole_in_a_range_is_the_same_object() -> None:
    assert select([PRETTY], [Range(Place(), Place(0, 900))])[0] is PRETTY


def test_halves_keep_an_owner_together_and_end_with_one_alone() -> None:
    records = [event_record(owner, [b"1"], number=number) for number, owner in enumerate("abcabd")]
    first, second = halves(records)
    assert [record.owner for record in first] == ["a", "b", "a", "b"]
    assert [record.owner for record in second] == ["c", "d"]
    assert halves(first[:1] + first[2:3]) == ([first[0], first[2]], [])
    assert halves([]) == ([], [])


def test_the_ranges_of_records_hold_these_and_nothing_between() -> None:
    records = [event_record("a", [b"1", b"2"], number=number) for number in range(4)]
    left, right = part_of(records[2], 0, 1), part_of(records[2], 1, 2)
    chosen = [records[0], left, right, records[3]]
    ranges = ranges_of(chosen)
    assert len(ranges) == 3
    again = [part for record in records for part in select([record], ranges)]
    assert again == [records[0], records[2], records[3]]


def test_sums_of_a_full_batch_are_exact_where_a_binary_or_rounded_sum_is_not() -> None:
    record = event_record("a", [b"1"] * 40)
    for values in ([Decimal("0.1")] * 40, [Decimal("1e25"), Decimal("1e-25")] * 20, [Decimal(1), Decimal(-1)] * 20):
        amounts = tuple(("purchases", value) for value in values)
        part = Record(record.position, 0, "a", record.body, 40, amounts, record.inner)
        assert assemble([part], HEAD, TAIL).tally == part.tally
