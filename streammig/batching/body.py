"""The bytes of a batch: cuts, joins and concatenates records without decoding their values."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, localcontext
from operator import sub

import msgspec

from streammig.checkpoint.contents import Table
from streammig.columns import Rows
from streammig.model import EXACT, ZERO, Draft, Range, Record, Sums, Tally

# Raw keeps each member of the list as its original bytes: edges without values.
_MEMBERS = msgspec.json.Decoder(list[msgspec.Raw])

Cuts = tuple[int, ...]
"""Where a record is in a body: its begin and end in a `Table`, then its items in `lists`."""


class Bounds:
    """The begin and end of each unit of a record with `inner`, as offsets into the inner slice.

    White space at the two ends of the list belongs to the first and last unit. White space and the comma between two
    units belong to neither: a cut there drops them. Raises ValueError if the number of list members is not
    `record.units`.
    """

    __slots__ = ("ends", "starts")

    def __init__(self, record: Record) -> None:
        inner = _inner(record)
        self.starts: list[int] = []
        self.ends: list[int] = []
        at = 0
        for member in _MEMBERS.decode(b"[%b]" % inner):
            raw = bytes(member)
            # Only white space and one comma come before it, so the first match is the member itself.
            at = inner.index(raw, at)
            self.starts.append(at)
            at += len(raw)
            self.ends.append(at)
        if len(self.ends) != record.units:
            raise ValueError(f"a record of {record.units} units holds {len(self.ends)} units")
        self.starts[0] = 0
        self.ends[-1] = len(inner)


def _inner(record: Record) -> bytes:
    if record.inner is None:
        raise ValueError("a record of a single unit can't be cut or joined")
    return record.body[record.inner[0] : record.inner[1]]


def part_of(record: Record, begin: int, end: int, bounds: Bounds | None = None) -> Record:
    """Cut the units from index `begin` up to, not including, `end` out of a record, as a new record.

    A part of a part has the same bytes as that part of the whole.
    """
    if begin == 0 and end == record.units:
        return record
    bounds = bounds or Bounds(record)
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
        unique=record.unique,
        whole=record.whole and begin == 0,
    )


Part = Record | Rows


def assemble(
    parts: Iterable[Part], head: bytes, tail: bytes, ranges: tuple[Range, ...] = (), owners: int | None = None
) -> Draft:
    """Make a batch of these parts, given in reading order. The same records always make the same bytes.

    Records of the same owner are joined into the first of them. `owners`: the number of different owners, if known.
    """
    kept = list(parts)
    table = Table(len(head), len(tail))
    rows = sum([part.end - part.begin if isinstance(part, Rows) else 1 for part in kept])
    if owners is None:
        owners = len({owner for part in kept for owner in (part.owners if isinstance(part, Rows) else (part.owner,))})
    if owners == rows:  # as in most batches
        bodies = [part.body for part in kept]
        at = len(head)
        for part in kept:
            at = _note_rows(table, part, at) if isinstance(part, Rows) else _note_alone(table, part, at)
    else:
        records = [each for part in kept for each in (part.records() if isinstance(part, Rows) else (part,))]
        bodies, cuts = _joined(records, len(head))
        for each, places in zip(records, cuts, strict=True):
            _note(table, each, places)
    body = b"".join((head, *[text for each in bodies for text in (each, b",")][:-1], tail))
    tally = Tally(sum(table.whole), sum(table.units), _sums(table.names, table.amounts))
    names = list(dict.fromkeys(table.names))
    table.keys = list(map({name: at for at, name in enumerate(names)}.__getitem__, table.names))
    table.names = names
    return Draft(ranges, tally, body, hashlib.sha256(body).digest(), *table.encode())


def _note_rows(table: Table, rows: Rows, at: int) -> int:
    """Add rows to the table whose bytes begin at offset `at` of the body. Returns the offset after them."""
    chunk, it, count = rows.chunk, rows.chunk.columns, rows.end - rows.begin
    first, mine = it.index[rows.begin], slice(rows.begin, rows.end)
    table.sources += [chunk.span.source] * count
    offsets, lengths, ordinals, lines = chunk.span.columns(first, first + count)
    table.offsets += offsets
    table.lengths += lengths
    table.ordinals += ordinals
    table.lines += lines
    table.unit += [0] * count
    table.owners += it.owners[mine]
    table.units += it.units[mine]
    upto = it.upto[rows.begin : rows.end + 1]
    table.names += it.keys[upto[0] : upto[-1]]
    table.amounts += it.amounts[upto[0] : upto[-1]]
    table.counts += map(sub, upto[1:], upto)
    table.uniques += it.uniques[mine] if it.uniques else [""] * count
    table.whole += [True] * count
    sizes = chunk.sizes[rows.begin : rows.end + 1]
    shift = at - sizes[0]
    table.begins += [size + shift for size in sizes[:-1]]
    table.ends += [size + shift - 1 for size in sizes[1:]]
    for size, (low, high) in zip(sizes, it.inner[mine], strict=False):
        begin = size + shift
        table.lists += (begin + low, begin + high, begin + low, begin + high)
    return sizes[-1] + shift


def _note_alone(table: Table, record: Record, at: int) -> int:
    """As `_note_rows`, for one record that is not joined with another."""
    end, inner = at + len(record.body), [at + each for each in record.inner or ()]
    _note(table, record, (at, end, *inner, *inner))
    return end + 1


def _note(table: Table, record: Record, cuts: Cuts) -> None:
    position = record.position
    table.sources.append(position.source)
    table.offsets.append(position.offset)
    table.lengths.append(position.length)
    table.ordinals.append(position.ordinal)
    table.lines.append(position.lines)
    table.unit.append(record.unit)
    table.owners.append(record.owner)
    table.units.append(record.units)
    table.names += [key for key, _ in record.amounts]
    table.amounts += [amount for _, amount in record.amounts]
    table.counts.append(len(record.amounts))
    table.uniques.append(record.unique)
    table.whole.append(record.whole)
    table.begins.append(cuts[0])
    table.ends.append(cuts[1])
    table.lists += cuts[2:]


def _joined(records: Sequence[Record], at: int) -> tuple[list[bytes], Iterable[Cuts]]:
    """Join the records of each owner. Returns one body an owner, and the cuts of each record."""
    owners: dict[str, list[int]] = {}
    for index, record in enumerate(records):
        owners.setdefault(record.owner, []).append(index)
    bodies: list[bytes] = []
    cuts: dict[int, Cuts] = {}
    for indices in owners.values():
        first = records[indices[0]]
        inners = [_inner(records[index]) for index in indices] if len(indices) > 1 else []
        low, high = first.inner or (0, 0)
        body = first.body[:low] + b",".join(inners) + first.body[high:] if inners else first.body
        end, opened = at + len(body), at + low
        closed = end - (len(first.body) - high)
        place = opened
        for index, inner in zip(indices, inners or [b""], strict=True):
            upto = place + len(inner) if inners else closed
            cuts[index] = (at, end, opened, closed, place, upto) if first.inner else (at, end)
            place = upto + 1
        bodies.append(body)
        at = end + 1
    return bodies, [cuts[index] for index in range(len(records))]


def tally_of(parts: Iterable[Part]) -> Tally:
    """Add up the tallies of these parts."""
    records = units = 0
    keys: list[str] = []
    amounts: list[Decimal] = []
    for part in parts:
        records += part.end - part.begin if isinstance(part, Rows) else part.whole
        units += part.units
        keys += part.keys if isinstance(part, Rows) else [key for key, _ in part.amounts]
        amounts += part.amounts if isinstance(part, Rows) else [value for _, value in part.amounts]
    return Tally(records, units, _sums(keys, amounts))


def _sums(keys: Sequence[str], amounts: Sequence[Decimal]) -> Sums:
    """Add the amounts of each key. Sums of zero are left out."""
    found = dict.fromkeys(keys)
    by_key: Mapping[str, Sequence[Decimal]]
    if len(found) == 1:  # as in most batches
        by_key = dict.fromkeys(found, amounts)
    else:
        by_key = lists = {key: list[Decimal]() for key in found}
        for key, value in zip(keys, amounts, strict=True):
            lists[key].append(value)
    with localcontext(EXACT):  # three times as fast as `total` for many amounts of few keys
        sums = {key: sum(values, ZERO) for key, values in by_key.items()}
    return {key: value for key, value in sums.items() if value}


def halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """Split the records of a refused batch in two, by owner. The second half is empty if there is only one owner."""
    owners = list(dict.fromkeys(record.owner for record in records))
    first = set(owners[: (len(owners) + 1) // 2])
    return [it for it in records if it.owner in first], [it for it in records if it.owner not in first]
