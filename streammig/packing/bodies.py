"""The bytes of a batch: records cut, joined and put together, exactly, without decoding what they hold."""

from __future__ import annotations

import hashlib
import operator
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import accumulate, chain
from typing import Any

import msgspec

from streammig.checkpoint.contents import Cuts, encode_contents
from streammig.columns import Rows
from streammig.records import EXACT, ZERO, Draft, Examined, Place, Position, Range, Record, Tally

# Raw keeps each member of the list as the bytes it stands in: boundaries without values.
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])


class Bounds:
    """Where the units of a record with `inner` begin and end, as offsets into its inner slice.

    White space around the list as a whole belongs to its first and last unit; white space and the comma between two
    units belong to neither, so they are dropped where a record is cut there and kept where it is not.
    Raises ValueError if the list does not have as many members as the record says it has units.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, record: Record) -> None:
        inner = _inner(record)
        self.starts: list[int] = []
        self.ends: list[int] = []
        at = 0
        for member in _MEMBERS.decode(b"[%b]" % inner):
            raw = bytes(member)
            # Only white space and one comma stand before it, so the first match is the member itself.
            at = inner.index(raw, at)
            self.starts.append(at)
            at += len(raw)
            self.ends.append(at)
        if len(self.ends) != record.units:
            raise ValueError(f"a record of {record.units} units holds {len(self.ends)} of them")
        self.starts[0] = 0
        self.ends[-1] = len(inner)


def _inner(record: Record) -> bytes:
    if record.inner is None:
        raise ValueError("a record of a single unit can't be cut or joined")
    return record.body[record.inner[0] : record.inner[1]]


def part_of(record: Record, bounds: Bounds, begin: int, end: int) -> Record:
    """The units from the record's own `begin` up to, not including, `end`, as a record of their own.

    Cutting twice is cutting once: a part of a part is the same bytes as that part of the whole.
    """
    if begin == 0 and end == record.units:
        return record
    inner = _inner(record)[bounds.starts[begin] : bounds.ends[end - 1]]
    assert record.inner is not None
    start, stop = record.inner
    return Record(
        position=record.position,
        unit=record.unit + begin,
        owner=record.owner,
        body=record.body[:start] + inner + record.body[stop:],
        units=end - begin,
        amounts=record.amounts[begin:end],
        inner=(start, start + len(inner)),
        twin=record.twin,
        whole=record.whole and begin == 0,
    )


def split_record(record: Record, units: int) -> tuple[Record, Record]:
    """The record's first `units` units, and the rest; both hold at least one unit."""
    if not 0 < units < record.units:
        raise ValueError(f"a record of {record.units} units can't be split behind {units}")
    bounds = Bounds(record)
    return part_of(record, bounds, 0, units), part_of(record, bounds, units, record.units)


def cut(records: Iterable[Record], ranges: Sequence[Range]) -> Iterator[tuple[Record, bool]]:
    """The records in order, split at the ranges' edges, each with whether it lies inside one of them.

    `ranges` are in reading order and do not overlap.
    """
    for record in records:
        at, end = record.unit, record.unit + record.units
        for low, high in _covered(record, ranges):
            if at < low:
                yield _between(record, at, low), False
            yield _between(record, low, high), True
            at = high
        if at < end:
            yield _between(record, at, end), False


def _covered(record: Record, ranges: Sequence[Range]) -> Iterator[tuple[int, int]]:
    """The unit numbers of the record that lie in the ranges, as (begin, end), never empty."""
    where = (record.position.source, record.position.offset)
    # A rebuilt batch may have hundreds of ranges, and a resumed stage thousands: look the record up, don't scan.
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
    """Whether all of a source record lies in these ranges, which are in reading order and do not overlap."""
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


def ends_within(position: Position, ranges: Sequence[Range]) -> bool:
    """As `is_within`, of a source record's end, whatever its mapping makes of it."""
    where = position.source, position.offset
    index = bisect_right(ranges, where, key=lambda each: (each.begin.source, each.begin.offset))
    return index > 0 and ranges[index - 1].end[:2] > where


def _between(record: Record, low: int, high: int) -> Record:
    if low == record.unit and high == record.unit + record.units:
        return record
    return part_of(record, Bounds(record), low - record.unit, high - record.unit)


def select(examined: Examined, ranges: Sequence[Range]) -> list[Record]:
    """The parts of the source record's records that lie in these ranges, split at the ranges' edges.

    `ranges` are in reading order and do not overlap, as a draft's are.
    """
    return [record for record, inside in cut(examined.records, ranges) if inside]


def distinct(records: Iterable[Record]) -> list[Record]:
    """The records without those whose owner or twin came before: customers, of which a request holds each once.

    Records with `inner` all stay, since the same owner's are joined.
    """
    kept: list[Record] = []
    owners: set[str] = set()
    twins: set[str] = set()
    for record in records:
        if record.inner is None:
            if record.owner in owners or record.twin in twins:
                continue
            owners.add(record.owner)
            if record.twin:
                twins.add(record.twin)
        kept.append(record)
    return kept


Part = Record | Rows


def assemble(parts: Iterable[Part], head: bytes, tail: bytes, ranges: tuple[Range, ...] = ()) -> Draft:
    """The batch that these make, given in reading order; the same records make the same bytes.

    Records of the same owner are joined in the place of the first, duplicates are left out as `distinct` does.
    """
    kept = list(parts)
    if are_strangers(kept):
        bodies = [part.body for part in kept]
        sizes, inners = _sizes(kept)
        cuts = _cuts(sizes, inners, len(head))
    else:
        records = distinct(each for part in kept for each in records_of(part))
        kept = [*records]
        bodies = _joined(records)
        cuts = _joined_cuts(records, bodies, len(head))
    body = b"".join((head, *[text for body in bodies for text in (body, b",")][:-1], tail))
    entries = chain.from_iterable([part.entries() if isinstance(part, Rows) else (_entry(part),) for part in kept])
    table = encode_contents(zip(entries, cuts, strict=True), len(head), len(tail))
    return Draft(ranges, tally_of(kept), body, hashlib.sha256(body).digest(), table)


def records_of(part: Part) -> Sequence[Record]:
    return part.records() if isinstance(part, Rows) else (part,)


def _entry(it: Record) -> tuple[Any, ...]:
    return it.position, it.unit, it.owner, it.units, it.amounts, it.twin, it.whole


def _sizes(parts: Iterable[Part]) -> tuple[list[int], list[tuple[int, int] | None]]:
    """How many bytes each record has, with a comma, and where its list stands in it."""
    sizes: list[int] = []
    inners: list[tuple[int, int] | None] = []
    for part in parts:
        if isinstance(part, Rows):
            upto, inner = part.chunk.sizes[part.begin : part.end + 1], part.chunk.columns.inner
            sizes += map(operator.sub, upto[1:], upto)
            inners += inner[part.begin : part.end] if inner else [None] * (part.end - part.begin)
        else:
            sizes.append(len(part.body) + 1)
            inners.append(part.inner)
    return sizes, inners


def _cuts(sizes: Iterable[int], inners: Iterable[tuple[int, int] | None], head: int) -> list[Cuts]:
    """Where each record stands in the body of these elements, all of different owners."""
    ends = list(accumulate(sizes, initial=head))
    found: list[Cuts] = []
    for begin, behind, inner in zip(ends, ends[1:], inners, strict=False):
        if inner is None:
            found.append((begin, behind - 1))
        else:
            first, last = begin + inner[0], begin + inner[1]
            found.append((begin, behind - 1, first, last, first, last))
    return found


def _joined_cuts(records: Sequence[Record], bodies: Sequence[bytes], head: int) -> list[Cuts]:
    """As `_cuts`, where the records of one owner are joined in one element."""
    firsts: dict[str, Record] = {}
    for record in records:
        firsts.setdefault(record.owner, record)
    sizes = [len(body) + 1 for body in bodies]
    elements = dict(zip(firsts, _cuts(sizes, [it.inner for it in firsts.values()], head), strict=True))
    at: dict[str, int] = {}  # where the next part of an owner's list stands
    found: list[Cuts] = []
    for record in records:
        begin, end, *lists = elements[record.owner]
        if not lists:
            found.append((begin, end))
            continue
        inner = _inner(record)
        opened = lists[0]
        mine = firsts[record.owner]
        assert mine.inner is not None
        closed = end - (len(mine.body) - mine.inner[1])
        first = at.get(record.owner, opened)
        at[record.owner] = first + len(inner) + 1
        found.append((begin, end, opened, closed, first, first + len(inner)))
    return found


def are_strangers(parts: Sequence[Part]) -> bool:
    """Whether no two of these have an owner or a twin in common: told at once, for most batches are so."""
    owners, twins = owners_of(parts), list(filter(None, twins_of(parts)))
    return len(set(owners)) == len(owners) and len(set(twins)) == len(twins)


def owners_of(parts: Iterable[Part]) -> list[str]:
    return [owner for part in parts for owner in (part.owners if isinstance(part, Rows) else (part.owner,))]


def twins_of(parts: Iterable[Part]) -> list[str]:
    return [twin for part in parts for twin in (part.uniques if isinstance(part, Rows) else (part.twin,))]


def _joined(records: Iterable[Record]) -> list[bytes]:
    """The bodies of the records, those of one owner in one."""
    firsts: dict[str, Record] = {}
    joined: dict[str, list[bytes]] = {}
    for record in records:
        if record.owner not in firsts:
            firsts[record.owner] = record
        else:
            joined.setdefault(record.owner, []).append(_inner(record))
    return [_with(record, joined[owner]) if owner in joined else record.body for owner, record in firsts.items()]


def tally_of(parts: Iterable[Part]) -> Tally:
    """What these hold together."""
    records = units = 0
    by_key: dict[str, list[Decimal]] = {}
    for part in parts:
        if isinstance(part, Rows):
            it = part.chunk.columns
            low, high = it.upto[part.begin], it.upto[part.end]
            pairs: Iterable[tuple[str, Decimal]] = zip(it.keys[low:high], it.amounts[low:high], strict=True)
            records += part.end - part.begin
            units += part.chunk.counts[part.end] - part.chunk.counts[part.begin]
        else:
            pairs = part.amounts
            records += part.whole
            units += part.units
        for key, value in pairs:
            if key in by_key:
                by_key[key].append(value)
            else:
                by_key[key] = [value]
    with localcontext(EXACT):  # three times as fast as `total` for many amounts of few keys, which is what batches hold
        sums = {key: sum(values, ZERO) for key, values in by_key.items()}
    return Tally(records, units, {key: value for key, value in sums.items() if value})


def _with(record: Record, inners: list[bytes]) -> bytes:
    assert record.inner is not None
    stop = record.inner[1]
    return b"%b,%b%b" % (record.body[:stop], b",".join(inners), record.body[stop:])


def halves(records: Iterable[Record]) -> tuple[list[Record], list[Record]]:
    """The records of a refused batch in two, by owner; duplicates, which were not sent, are left out.

    The second is empty when there is only one owner, who can't be split further.
    """
    kept = distinct(records)
    owners = list(dict.fromkeys(record.owner for record in kept))
    first = set(owners[: (len(owners) + 1) // 2])
    return [each for each in kept if each.owner in first], [each for each in kept if each.owner not in first]


def ranges_of(records: Iterable[Record]) -> tuple[Range, ...]:
    """Ranges that hold just these records, given in reading order, and nothing that lies between them."""
    ranges: list[Range] = []
    for record in records:
        source, offset, _, ordinal = msgspec.structs.astuple(record.position)
        begin = Place(source, offset, record.unit, ordinal)
        end = begin._replace(unit=record.unit + record.units)
        if ranges and ranges[-1].end == begin:
            ranges[-1] = Range(ranges[-1].begin, end)
        else:
            ranges.append(Range(begin, end))
    return tuple(ranges)
