"""Compares records with ranges of units. Ranges are in reading order and do not overlap."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence

from streammig.batching.body import part_of
from streammig.model import Place, Position, Range, Record


def cut(records: Iterable[Record], ranges: Sequence[Range]) -> Iterator[tuple[Record, bool]]:
    """Split the records at the edges of the ranges. Yields each part with whether it lies in a range."""
    for record in records:
        at, end = record.unit, record.unit + record.units
        for low, high in _covered(record, ranges):
            if at < low:
                yield part_of(record, at - record.unit, low - record.unit), False
            yield part_of(record, low - record.unit, high - record.unit), True
            at = high
        if at < end:
            yield part_of(record, at - record.unit, end - record.unit), False


def _covered(record: Record, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
    """The unit numbers of the record that lie in the ranges, as pairs (begin, end), none of them empty."""
    where = (record.position.source, record.position.offset)
    # Bisect: a batch may have hundreds of ranges, and a resumed stage thousands.
    index = bisect_left(ranges, where, key=lambda each: (each.begin.source, each.begin.offset))
    for begin, end in ranges[max(index - 1, 0) :]:
        if begin[:2] > where:
            return
        low = max(begin.unit if begin[:2] == where else 0, record.unit)
        high = record.unit + record.units
        if end[:2] <= where:
            high = min(high, end.unit if end[:2] == where else 0)
        if low < high:
            yield low, high


def is_within(position: Position, ranges: Sequence[Range]) -> bool:
    """Whether a whole source record lies in these ranges."""
    where = position.source, position.offset
    index = bisect_left(ranges, where, key=lambda each: (each.begin.source, each.begin.offset))
    at = (*where, 0)
    for begin, end in ranges[max(index - 1, 0) :]:
        if begin[:3] > at:
            return False
        if end[:2] > where:
            return True
        at = max(at, end[:3])
    return False


def touches(position: Position, ranges: Sequence[Range]) -> bool:
    """Whether any unit of a source record lies in these ranges."""
    where = position.source, position.offset
    index = bisect_right(ranges, where, key=lambda each: (each.begin.source, each.begin.offset))
    return index > 0 and (ranges[index - 1].begin[:2] == where or ranges[index - 1].end[:3] > (*where, 0))


def holds(place: Place, ranges: Sequence[Range]) -> bool:
    """Whether the unit at a place lies in these ranges."""
    index = bisect_right(ranges, place[:3], key=lambda each: each.begin[:3])
    return index > 0 and ranges[index - 1].end[:3] > place[:3]


def ends_within(position: Position, ranges: Sequence[Range]) -> bool:
    """Whether the end of a source record lies in these ranges."""
    where = position.source, position.offset
    index = bisect_right(ranges, where, key=lambda each: (each.begin.source, each.begin.offset))
    return index > 0 and ranges[index - 1].end[:2] > where


def select(records: Iterable[Record], ranges: Sequence[Range]) -> list[Record]:
    """The parts of the records that lie in these ranges."""
    return [record for record, inside in cut(records, ranges) if inside]


def ranges_of(records: Iterable[Record]) -> tuple[Range, ...]:
    """The ranges of these records, given in reading order. Adjacent ranges are merged."""
    ranges: list[Range] = []
    for record in records:
        begin, end = record.begin, record.end
        if ranges and ranges[-1].end == begin:
            begin = ranges.pop().begin
        ranges.append(Range(begin, end))
    return tuple(ranges)
