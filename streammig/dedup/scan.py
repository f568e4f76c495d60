"""Make index rows from spans: the keys of each customer. A pure map, so that any executor may do it.

A row stands for one customer, or for one owner that will not be at the target. Rows have a fixed width and are in
reading order, so a row is found by its number, and a place by bisection. Places are big-endian, so their bytes sort
in reading order.

An id or e-mail is kept only as a hash of 96 bits under a random key. Two kinds of them for n = 10**9 customers make
2 * n**2 / 2 = 10**18 pairs, and 2**96 is 7.9 * 10**28. So an export of that size has a false duplicate in one of
8 * 10**10 runs, which is a reported, replayable dead letter.
"""

from __future__ import annotations

import hashlib
import struct
from collections.abc import Callable, Sequence
from itertools import chain, repeat
from typing import NamedTuple

from streammig.columns import Chunk
from streammig.dedup import compiled
from streammig.dedup.sums import UNKNOWN_SUM, WIDTH, sums_of
from streammig.model import Place, Span
from streammig.target import Rules

PLACE = struct.Struct(">IQIQ")  # source, offset, unit, ordinal
SORT_KEY = 16  # bytes: a place without its ordinal, which is for people only
HASH = 12
NONE = bytes(HASH)  # no second key
OWNER, UNIQUE, REASON = PLACE.size, PLACE.size + HASH, PLACE.size + 2 * HASH  # offsets in a row
SUM = REASON + 1
ROW = SUM + WIDTH
LAST_UNIT = (1 << 32) - 1  # of absent owners, so that they sort after the records of their source record

# A row has a byte for the reason why its owner is absent: a code of a rule or a filter, numbered as they occur. The
# first three are fixed: a record that is kept, and the two kinds of duplicates. Beyond 254 codes one stands for the
# rest.
FIXED = ("", "duplicate-customer", "duplicate-email")
PRESENT, SAME_OWNER, SAME_UNIQUE = range(len(FIXED))
MOST_REASONS, OTHER = 254, "left-out"


class Scanned(NamedTuple):
    """The rows of a span, its number of source records, and the reasons that the rows number."""

    records: int
    rows: bytes
    reasons: tuple[str, ...]


def scan(rules: Rules, key: bytes, span: Span) -> Scanned:
    """Make the rows of a span. The same span gives the same rows in any process."""
    chunk = Chunk(span, rules.columns(span))
    return rows_of(chunk, key, sums_of(rules, chunk, key))


def rows_of(chunk: Chunk, key: bytes, sums: list[bytes]) -> Scanned:
    """As `scan`, from columns that are there already; `sums` as `sums_of` returns them."""
    span, columns = chunk.span, chunk.columns
    offsets, ordinals = places(span, columns.index)
    keys = Keys(offsets, columns.unit, ordinals, columns.owners, columns.uniques, sums)
    rows, reasons = packed(key, span.source, keys), list(FIXED)
    if not columns.left_out:
        return Scanned(len(span), rows, FIXED)
    owner_of, others = hasher(key, "owner"), list[bytes]()
    for left_out in columns.left_out:
        (offset,), (ordinal,) = places(span, [left_out.at])
        place = PLACE.pack(span.source, offset, LAST_UNIT, ordinal)
        for owner, reason in left_out.absent:
            number = bytes([reason_number(reasons, reason or OTHER)])
            others.append(b"".join((place, owner_of(owner), NONE, number, UNKNOWN_SUM)))
    others += [rows[low : low + ROW] for low in range(0, len(rows), ROW)]
    return Scanned(len(span), b"".join(sorted(others)), tuple(reasons))


def places(span: Span, index: Sequence[int]) -> tuple[list[int], list[int]]:
    """Return the offsets and the ordinals of the records at these indices of a span."""
    begin, starts, origins = span.offset, span.starts, span.origins
    offsets = [begin + starts[at] for at in index] if origins is None else [origins[at][0] for at in index]
    return offsets, [span.ordinals[at] for at in index]


class Keys(NamedTuple):
    """The columns of rows without a reason. `uniques` and `sums` are empty if no row has any."""

    offsets: list[int]
    units: list[int]
    ordinals: list[int]
    owners: list[str]
    uniques: list[str]
    sums: list[bytes]


def packed(key: bytes, source: int, keys: Keys) -> bytes:
    """Pack columns into joined rows."""
    if compiled.rows is not None:
        return compiled.rows.rows(key, b"owner", b"unique", source, tuple(keys))
    owners, uniques = hashes(key, "owner", keys.owners), hashes(key, "unique", keys.uniques)
    ats = range(0, len(owners), HASH)
    each = (
        map(PLACE.pack, repeat(source), keys.offsets, keys.units, keys.ordinals),
        (owners[at : at + HASH] for at in ats),
        (uniques[at : at + HASH] or NONE for at in ats),
        repeat(b"\0"),
        keys.sums or repeat(UNKNOWN_SUM),
    )
    return b"".join(chain.from_iterable(zip(*each, strict=False)))


def rows_of_units(chunk: Chunk, key: bytes, keys: Sequence[tuple[int, int, str]]) -> bytes:
    """Make a row for each unit with a key, which has the hash of owner and key in the owner's place.

    `keys` are as in `target.Facts`.
    """
    if not keys:
        return b""
    columns, source = chunk.columns, chunk.span.source
    offsets, ordinals = places(chunk.span, columns.index)
    unit, owners = columns.unit, columns.owners
    if compiled.rows is not None:
        return compiled.rows.units(key, b"unit", source, (offsets, unit, ordinals, owners), list(keys))
    hashed, rows = hasher(key, "unit"), list[bytes]()
    for row, number, text in keys:
        place = PLACE.pack(source, offsets[row], unit[row] + number, ordinals[row])
        rows.append(b"".join((place, hashed(f"{owners[row]}\0{text}"), NONE, b"\0", UNKNOWN_SUM)))
    return b"".join(rows)


def hashes(key: bytes, kind: str, texts: list[str]) -> bytes:
    """Return the joined hashes of keys of one kind; `NONE` for an empty key."""
    if compiled.rows is not None:
        return compiled.rows.hashes(key, kind.encode(), texts)
    hashed = hasher(key, kind)
    return b"".join([hashed(text) if text else NONE for text in texts])


def hasher(key: bytes, kind: str) -> Callable[[str], bytes]:
    """Make the hash function of one kind ("owner", "unique", "unit"), so that an id never equals an e-mail."""
    fresh = hashlib.blake2b(digest_size=HASH, key=key, person=kind.encode()).copy  # a copy takes half the time

    def hashed(text: str) -> bytes:
        state = fresh()
        state.update(text.encode())
        return state.digest()

    return hashed


def reason_number(reasons: list[str], reason: str) -> int:
    """Return the number of a reason; add a new one to `reasons`."""
    if reason not in reasons:
        if len(reasons) >= MOST_REASONS:
            reason = OTHER
        if reason not in reasons:
            reasons.append(reason)
    return reasons.index(reason)


def remap_reasons(scanned: Scanned, reasons: list[str]) -> bytes:
    """Number the reasons of rows as `reasons` does; add new ones to it."""
    numbers = [reason_number(reasons, reason) for reason in scanned.reasons]
    if numbers == list(range(len(numbers))):
        return scanned.rows
    rows = bytearray(scanned.rows)
    rows[REASON::ROW] = rows[REASON::ROW].translate(bytes(numbers).ljust(256, b"\0"))
    return bytes(rows)


def shift_ordinals(rows: bytes, counted: int) -> bytes:
    """Add `counted` to the ordinal of each row: all at once, as one addition of two very long integers."""
    if not counted:
        return rows
    if compiled.rows is not None:
        return compiled.rows.counted_on(rows, counted)
    one = bytes(SORT_KEY) + counted.to_bytes(PLACE.size - SORT_KEY, "big") + bytes(ROW - PLACE.size)
    raised = int.from_bytes(rows, "big") + int.from_bytes(one * (len(rows) // ROW), "big")
    return raised.to_bytes(len(rows), "big")


def place_of(row: bytes) -> Place:
    return Place(*PLACE.unpack_from(row))


def sort_key(place: Place) -> bytes:
    """Return the bytes at the start of a row by which rows sort."""
    return PLACE.pack(*place)[:SORT_KEY]
