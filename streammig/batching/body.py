"""The bytes of a batch: records cut, joined and put together, exactly, without decoding what they hold."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal, localcontext
from itertools import chain, pairwise
from typing import Any

import msgspec

from streammig.checkpoint.contents import Cuts, encode_contents
from streammig.columns import Rows
from streammig.model import EXACT, ZERO, Draft, Range, Record, Tally

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


def part_of(record: Record, begin: int, end: int, bounds: Bounds | None = None) -> Record:
    """The units from the record's own `begin` up to, not including, `end`, as a record of their own.

    Cutting twice is cutting once: a part of a part is the same bytes as that part of the whole.
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


def assemble(parts: Iterable[Part], head: bytes, tail: bytes, ranges: tuple[Range, ...] = ()) -> Draft:
    """The batch that these make, given in reading order; the same records make the same bytes.

    Records of the same owner, whose units stand in lists, are joined in the place of the first.
    """
    kept = list(parts)
    if are_strangers(kept):
        bodies = [part.body for part in kept]
        cuts: Iterable[Cuts] = _cuts(kept, len(head))
    else:
        records = [each for part in kept for each in (part.records() if isinstance(part, Rows) else (part,))]
        bodies, cuts = _joined(records, len(head))
        kept = [*records]
    body = b"".join((head, *[text for each in bodies for text in (each, b",")][:-1], tail))
    entries = chain.from_iterable([part.entries() if isinstance(part, Rows) else (_entry(part),) for part in kept])
    table, few = encode_contents(zip(entries, cuts, strict=True), len(head), len(tail))
    return Draft(ranges, tally_of(kept), body, hashlib.sha256(body).digest(), table, few)


def _entry(it: Record) -> tuple[Any, ...]:
    return it.position, it.unit, it.owner, it.units, it.amounts, it.unique, it.whole


def _cuts(parts: Iterable[Part], at: int) -> Iterator[Cuts]:
    """Where each record stands in the body of these, the first of which begins at `at`."""
    for part in parts:
        if isinstance(part, Rows):
            sizes, inners = part.chunk.sizes, part.chunk.columns.inner
            shift = at - sizes[part.begin]
            places = pairwise([size + shift for size in sizes[part.begin : part.end + 1]])
            if inners:
                for (begin, behind), (low, high) in zip(places, inners[part.begin : part.end], strict=True):
                    yield begin, behind - 1, begin + low, begin + high, begin + low, begin + high
            else:
                yield from [(begin, behind - 1) for begin, behind in places]
            at = sizes[part.end] + shift
        else:
            end = at + len(part.body)
            low, high = part.inner or (0, 0)
            yield (at, end, at + low, at + high, at + low, at + high) if part.inner else (at, end)
            at = end + 1


def _joined(records: Sequence[Record], at: int) -> tuple[list[bytes], Iterable[Cuts]]:
    """The bodies of the records, those of one owner in one, and where each stands."""
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


def are_strangers(parts: Iterable[Part]) -> bool:
    """Whether no two of these have an owner in common: told at once, for most batches are so."""
    owners = [owner for part in parts for owner in (part.owners if isinstance(part, Rows) else (part.owner,))]
    return len(set(owners)) == len(owners)


def tally_of(parts: Iterable[Part]) -> Tally:
    """What these hold together."""
    records = units = 0
    by_key: dict[str, list[Decimal]] = {}
    for part in parts:
        records += part.end - part.begin if isinstance(part, Rows) else part.whole
        units += part.units
        for key, value in part.pairs if isinstance(part, Rows) else part.amounts:
            if key in by_key:
                by_key[key].append(value)
            else:
                by_key[key] = [value]
    with localcontext(EXACT):  # three times as fast as `total` for many amounts of few keys, which is what batches hold
        sums = {key: sum(values, ZERO) for key, values in by_key.items()}
    return Tally(records, units, {key: value for key, value in sums.items() if value})


def halves(records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
    """The records of a refused batch in two, by owner.

    The second is empty when there is only one owner, who can't be split further.
    """
    owners = list(dict.fromkeys(record.owner for record in records))
    first = set(owners[: (len(owners) + 1) // 2])
    return [it for it in records if it.owner in first], [it for it in records if it.owner not in first]
