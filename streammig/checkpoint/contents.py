"""What a request body holds: a table of its records, which stands behind the body in the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from streammig.model import Position, Record

T = TypeVar("T")
FEW = 20  # records of a batch that samples are chosen from


class Body(Protocol):
    """The bytes of a body, or a file that hands out slices of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class Table(msgspec.Struct, array_like=True):
    """The records of a body without their bytes, in columns: an object for each would cost more than all else here.

    `head` and `tail` are the lengths of what stands before the first and behind the last element, in bytes. Record i
    has the next `counts[i]` of the `amounts`, whose keys are `names[keys[...]]`. Its element begins and ends at these
    offsets. Where its units are members of a list, `lists` has four more of each record: where that list begins and
    ends, and its own part of it, for records of one owner share the first one's element.
    """

    head: int
    tail: int
    sources: list[int] = []
    offsets: list[int] = []
    lengths: list[int] = []
    ordinals: list[int] = []
    lines: list[int] = []
    unit: list[int] = []
    owners: list[str] = []
    units: list[int] = []
    names: list[str] = []
    keys: list[int] = []
    amounts: list[Decimal] = []
    counts: list[int] = []
    uniques: list[str] = []
    whole: list[bool] = []
    begins: list[int] = []
    ends: list[int] = []
    lists: list[int] = []

    def records(self, body: Body, count: int | None = None) -> list[Record]:
        """All records of a body, or `count` of them, spread evenly. A record that was joined with another one of its
        owner gets the element of the first with its own units in it."""
        upto = list(accumulate(self.counts, initial=0))
        ats = range(len(self.owners))
        return [
            self._record(body, at, slice(upto[at], upto[at + 1]))
            for at in (ats if count is None else spread(ats, count))
        ]

    def _record(self, body: Body, at: int, amounts: slice) -> Record:
        begin, end = self.begins[at], self.ends[at]
        inner = None
        if self.lists:
            opened, closed, first, last = self.lists[4 * at : 4 * at + 4]
            data = body[begin:opened] + body[first:last] + body[closed:end]
            inner = (opened - begin, opened - begin + last - first)
        else:
            data = body[begin:end]
        keys = [self.names[key] for key in self.keys[amounts]]
        return Record(
            position=Position(
                self.sources[at], self.offsets[at], self.lengths[at], self.ordinals[at], self.lines[at]
            ),
            unit=self.unit[at], owner=self.owners[at], body=data, units=self.units[at],
            amounts=tuple(zip(keys, self.amounts[amounts], strict=True)), inner=inner, unique=self.uniques[at],
            whole=self.whole[at],
        )  # fmt: skip

    def encode(self) -> tuple[bytes, bytes]:
        """Its bytes, and those of the table of a `FEW` of its records, out of which samples are kept."""
        upto = list(accumulate(self.counts, initial=0))
        few = Table(self.head, self.tail, names=self.names)
        ats = spread(range(len(self.owners)), FEW)
        for column in _ROWS:
            values = getattr(self, column)
            setattr(few, column, [values[at] for at in ats])
        for at in ats:
            few.keys += self.keys[upto[at] : upto[at + 1]]
            few.amounts += self.amounts[upto[at] : upto[at + 1]]
            few.lists += self.lists[4 * at : 4 * at + 4]
        return _ENCODER.encode(self), _ENCODER.encode(few)


_ROWS = [it for it in Table.__struct_fields__[2:] if it not in ("names", "keys", "amounts", "lists")]
_ENCODER = msgspec.msgpack.Encoder()
_TABLE = msgspec.msgpack.Decoder(Table)


class Contents(NamedTuple):
    """A body taken apart: what it begins and ends with, and its records in reading order."""

    head: bytes
    tail: bytes
    records: list[Record]


def decode_contents(body: Body, table: bytes, count: int | None = None) -> Contents:
    """As `Table.records`. Raises `DecodeError`, ValueError or IndexError for what is no table of this body."""
    found = _TABLE.decode(table)
    return Contents(body[: found.head], body[len(body) - found.tail :], found.records(body, count))


def spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` of these, evenly from the first to the last."""
    last = len(items) - 1
    return [items[at] for at in sorted({last * k // max(count - 1, 1) for k in range(count)})] if items else []
