"""The table of a request body's records, stored after the body in the outbox."""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import accumulate
from typing import NamedTuple, Protocol, TypeVar

import msgspec

from streammig.model import Position, Record

T = TypeVar("T")
FEW = 20  # candidates for the samples of a batch, in records


class Body(Protocol):
    """A body in bytes, or an open file that returns slices of it."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class Table(msgspec.Struct, array_like=True):
    """The records of a body without their bytes, in columns: one object a record would be the main cost here.

    `head` and `tail` are the bytes before the first element and after the last one. Record i owns the next `counts[i]`
    entries of `amounts`; their keys are `names[keys[...]]`. Its element is `body[begins[i]:ends[i]]`.
    Where units are members of a list, records of one owner share the element of the first. Then `lists` holds four
    offsets a record: begin and end of the whole list, begin and end of the record's own members.
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
        """Return all records of a body, or `count` of them, spread evenly.

        A record that shares its owner's element gets that element with its own units only.
        """
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
        """Encode the table, and a second one of up to `FEW` of its records, from which samples are chosen."""
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
    """A decoded body: the bytes before and after its elements, and its records in reading order."""

    head: bytes
    tail: bytes
    records: list[Record]


def decode_contents(body: Body, table: bytes, count: int | None = None) -> Contents:
    """Decode a body by its table; `count` as in `Table.records`.

    Raises `DecodeError`, ValueError or IndexError if the table does not fit the body.
    """
    found = _TABLE.decode(table)
    return Contents(body[: found.head], body[len(body) - found.tail :], found.records(body, count))


def spread(items: Sequence[T], count: int) -> list[T]:
    """Return up to `count` items, spread evenly from the first to the last."""
    last = len(items) - 1
    return [items[at] for at in sorted({last * k // max(count - 1, 1) for k in range(count)})] if items else []
