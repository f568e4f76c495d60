"""The scan: which keys the customers of an export have. A pure map over spans, so that any executor may do it.

A row stands for one customer, or for one owner that will not be there. Rows have a fixed width and stand in reading
order, so a row is found by its number, and a place by bisection. Places are big-endian: their bytes sort as they do.

A key is held as a hash of 96 bits under a random key, so no file has an id or an e-mail in it. Two kinds of key (ids,
e-mails) of n = 10**9 customers make 2 * n**2 / 2 = 10**18 pairs, and 2**96 is 7.9 * 10**28: an export of that size has
a false duplicate in one of 8 * 10**10 runs. It would be a reported, replayable dead letter.
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
SPOT = 16  # bytes of a place without its ordinal, which is for people only
HASH = 12
NONE = bytes(HASH)  # no second key
OWNER, UNIQUE, REASON = PLACE.size, PLACE.size + HASH, PLACE.size + 2 * HASH  # where they begin in a row
SUM = REASON + 1
ROW = SUM + WIDTH
LAST_UNIT = (1 << 32) - 1  # an absent owner has no unit: it comes behind the records of its source record

# The reasons of absent owners are codes of rules and filters, some dozens, numbered as they come. The first three are
# fixed: a record, and the two kinds of duplicates. Should there be more than a byte can tell, one stands for the rest.
FIXED = ("", "duplicate-customer", "duplicate-email")
PRESENT, SAME_OWNER, SAME_UNIQUE = range(len(FIXED))
MOST_REASONS, OTHER = 254, "left-out"


class Scanned(NamedTuple):
    """What one span holds: its number of source records, its rows, and the reasons that their numbers stand for."""

    records: int
    rows: bytes
    reasons: tuple[str, ...]


def scan(rules: Rules, key: bytes, span: Span) -> Scanned:
    """The rows of a span. Without state and fit to be pickled: the same span gives the same rows in any process."""
    chunk = Chunk(span, rules.columns(span))
    return rows_of(chunk, key, sums_of(rules, chunk, key))


def rows_of(chunk: Chunk, key: bytes, sums: list[bytes]) -> Scanned:
    """As `scan`, of what the rules have made of the span; `sums` are those of its rows."""
    span, columns = chunk.span, chunk.columns
    places = Places(span, columns.index)
    keys = Keys(places.offsets, columns.unit, places.ordinals, columns.owners, columns.uniques, sums)
    rows, reasons = packed(key, span.source, keys), list(FIXED)
    if not columns.left_out:
        return Scanned(len(span), rows, FIXED)
    owner_of, others = hasher(key, "owner"), list[bytes]()
    for left_out in columns.left_out:
        at = Places(span, [left_out.at])
        place = PLACE.pack(span.source, at.offsets[0], LAST_UNIT, at.ordinals[0])
        for owner, reason in left_out.absent:
            number = bytes([number_of(reasons, reason or OTHER)])
            others.append(b"".join((place, owner_of(owner), NONE, number, UNKNOWN_SUM)))
    others += [rows[low : low + ROW] for low in range(0, len(rows), ROW)]
    return Scanned(len(span), b"".join(sorted(others)), tuple(reasons))


class Places:
    """Where the records at these indices of a span stand."""

    def __init__(self, span: Span, index: Sequence[int]) -> None:
        begin, starts, origins = span.offset, span.starts, span.origins
        self.offsets = [begin + starts[at] for at in index] if origins is None else [origins[at][0] for at in index]
        self.ordinals = [span.ordinals[at] for at in index]


class Keys(NamedTuple):
    """The columns of rows without a reason. `uniques` and `sums` are empty where no row has any."""

    offsets: list[int]
    units: list[int]
    ordinals: list[int]
    owners: list[str]
    uniques: list[str]
    sums: list[bytes]


def packed(key: bytes, source: int, keys: Keys) -> bytes:
    """The rows of these keys, one behind the other."""
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
    """A row for each unit that has a key, as if that were its owner: where it stands, and the hash of owner and key.
    `keys` are as in `target.Facts`."""
    if not keys:
        return b""
    columns, source, places = chunk.columns, chunk.span.source, Places(chunk.span, chunk.columns.index)
    offsets, unit, ordinals, owners = places.offsets, columns.unit, places.ordinals, columns.owners
    if compiled.rows is not None:
        return compiled.rows.units(key, b"unit", source, (offsets, unit, ordinals, owners), list(keys))
    hashed, rows = hasher(key, "unit"), list[bytes]()
    for row, number, text in keys:
        place = PLACE.pack(source, offsets[row], unit[row] + number, ordinals[row])
        rows.append(b"".join((place, hashed(f"{owners[row]}\0{text}"), NONE, b"\0", UNKNOWN_SUM)))
    return b"".join(rows)


def hashes(key: bytes, kind: str, texts: list[str]) -> bytes:
    """The hashes of keys of one kind, one behind the other; `NONE` of an empty one."""
    if compiled.rows is not None:
        return compiled.rows.hashes(key, kind.encode(), texts)
    hashed = hasher(key, kind)
    return b"".join([hashed(text) if text else NONE for text in texts])


def hasher(key: bytes, kind: str) -> Callable[[str], bytes]:
    """The hash of keys of one kind ("owner", "unique", "unit"): an id is never taken for an e-mail."""
    fresh = hashlib.blake2b(digest_size=HASH, key=key, person=kind.encode()).copy  # half the time of making one

    def hashed(text: str) -> bytes:
        state = fresh()
        state.update(text.encode())
        return state.digest()

    return hashed


def number_of(reasons: list[str], reason: str) -> int:
    """The number of a reason, which is added where it is new."""
    if reason not in reasons:
        if len(reasons) >= MOST_REASONS:
            reason = OTHER
        if reason not in reasons:
            reasons.append(reason)
    return reasons.index(reason)


def renumbered(scanned: Scanned, reasons: list[str]) -> bytes:
    """The rows with their reasons as `reasons` numbers them; new ones are added to it."""
    numbers = [number_of(reasons, reason) for reason in scanned.reasons]
    if numbers == list(range(len(numbers))):
        return scanned.rows
    rows = bytearray(scanned.rows)
    rows[REASON::ROW] = rows[REASON::ROW].translate(bytes(numbers).ljust(256, b"\0"))
    return bytes(rows)


def counted_on(rows: bytes, counted: int) -> bytes:
    """The rows with each ordinal raised by a number: all at once, in one addition of two very long integers."""
    if not counted:
        return rows
    if compiled.rows is not None:
        return compiled.rows.counted_on(rows, counted)
    one = bytes(SPOT) + counted.to_bytes(PLACE.size - SPOT, "big") + bytes(ROW - PLACE.size)
    raised = int.from_bytes(rows, "big") + int.from_bytes(one * (len(rows) // ROW), "big")
    return raised.to_bytes(len(rows), "big")


def place_of(row: bytes) -> Place:
    return Place(*PLACE.unpack_from(row))


def spot(place: Place) -> bytes:
    """A place as the beginning of its row has it."""
    return PLACE.pack(*place)[:SPOT]
