"""What a request body holds: a table of its records, which stands behind the body in the outbox."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any, NamedTuple, Protocol, TypeVar

import msgspec

from streammig.model import Position, Record

T = TypeVar("T")
FEW = 20  # records of a batch that samples are chosen from

Cuts = tuple[int, ...]
"""Where a record's bytes stand in a body, as offsets: its element's begin and end. Where its units are members of a
list, also that list's begin and end, and those of its own part: records of one owner share the first one's element."""


class Body(Protocol):
    """The bytes of a body, or a file that hands out slices of them."""

    def __len__(self) -> int: ...

    def __getitem__(self, part: slice, /) -> bytes: ...


class _Entry(msgspec.Struct, array_like=True, gc=False):
    """One record without its bytes."""

    position: Position
    unit: int
    owner: str
    units: int
    amounts: tuple[tuple[str, Decimal], ...]
    unique: str
    whole: bool
    cuts: Cuts


class _Table(msgspec.Struct, array_like=True):
    """Lengths of what stands before the first and behind the last element, in bytes; entries in reading order."""

    head: int
    tail: int
    entries: list[msgspec.Raw]


class Contents(NamedTuple):
    """A body taken apart: what it begins and ends with, and its records in reading order."""

    head: bytes
    tail: bytes
    records: list[Record]


_ENCODER = msgspec.msgpack.Encoder()
_TABLE = msgspec.msgpack.Decoder(_Table)
_ENTRY = msgspec.msgpack.Decoder(_Entry)


def encode_contents(entries: Iterable[tuple[tuple[Any, ...], Cuts]], head: int, tail: int) -> tuple[bytes, bytes]:
    """The table of a body from its records' entries, as `_Entry` without cuts, and cuts; `head` and `tail` are lengths
    in bytes. Behind it the table of a `FEW` of them, out of which samples are kept."""
    rows = [(*entry, cuts) for entry, cuts in entries]
    return _ENCODER.encode((head, tail, rows)), _ENCODER.encode((head, tail, spread(rows, FEW)))


def decode_contents(body: Body, table: bytes, count: int | None = None) -> Contents:
    """The records of a body, or `count` of them, spread evenly. A record that was joined with another one of its owner
    gets the element of the first with its own units in it."""
    found = _TABLE.decode(table)
    entries = found.entries if count is None else spread(found.entries, count)
    records = [_record(body, _ENTRY.decode(raw)) for raw in entries]
    return Contents(body[: found.head], body[len(body) - found.tail :], records)


def _record(body: Body, it: _Entry) -> Record:
    begin, end, *lists = it.cuts
    inner = None
    data = body[begin:end]
    if lists:
        opened, closed, first, last = lists
        data = body[begin:opened] + body[first:last] + body[closed:end]
        inner = (opened - begin, opened - begin + last - first)
    return Record(
        position=it.position, unit=it.unit, owner=it.owner, body=data, units=it.units, amounts=it.amounts, inner=inner,
        unique=it.unique, whole=it.whole,
    )  # fmt: skip


def spread(items: Sequence[T], count: int) -> list[T]:
    """Up to `count` of these, evenly from the first to the last."""
    last = len(items) - 1
    return [items[at] for at in sorted({last * k // max(count - 1, 1) for k in range(count)})] if items else []
