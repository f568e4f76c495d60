"""The values that all rooms share: spans, records, places, batches, receipts, progress and exact sums."""

from __future__ import annotations

import enum
import operator
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

import msgspec

# The default context rounds to 28 digits silently. The rules refuse numbers of more than 30 digits, so 60 digits
# leave room for 10**30 additions. An inexact sum raises.
EXACT = Context(prec=60, traps=[Inexact])
ZERO = Decimal(0)

Sums = Mapping[str, Decimal]


class Tally(msgspec.Struct, frozen=True):
    """Counts of records and units, with exact decimal sums (by reward; `purchases` for events)."""

    records: int = 0
    units: int = 0
    sums: Sums = {}

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.records + other.records, self.units + other.units, add_sums(self.sums, other.sums))

    def __sub__(self, other: Tally) -> Tally:
        # copy_negate, because unary minus rounds to the context's 28 digits.
        negated = {key: value.copy_negate() for key, value in other.sums.items()}
        return Tally(self.records - other.records, self.units - other.units, add_sums(self.sums, negated))


def add_sums(left: Sums, right: Sums) -> Sums:
    """Add sums key by key, exactly. Keys with a sum of zero are left out, so that equal totals compare as equal."""
    if not right:
        return left
    total = dict(left)
    for key, value in right.items():
        total[key] = EXACT.add(total.get(key, ZERO), value)
    return {key: value for key, value in total.items() if value}


def add_up(tallies: Iterable[Tally]) -> Tally:
    """Add many tallies, in place: a run has 100,000 batches and maybe 1,000 rewards."""
    records = units = 0
    sums: dict[str, Decimal] = {}
    for tally in tallies:
        records += tally.records
        units += tally.units
        for key, value in tally.sums.items():
            sums[key] = EXACT.add(sums.get(key, ZERO), value)
    return Tally(records, units, {key: value for key, value in sums.items() if value})


def add_by_reason(into: dict[str, Tally], tallies: Iterable[tuple[str, Tally]]) -> None:
    """Add each tally to the one of the same reason in `into`."""
    for reason, tally in tallies:
        into[reason] = into.get(reason, Tally()) + tally


class Position(msgspec.Struct, frozen=True, order=True, gc=False, array_like=True):
    """Where a source record is.

    `source` is the number of the file in its stage, from 0. `offset` and `length` are bytes in the decompressed stream.
    `ordinal` is for people, from 1: the element of the array, or the line of an NDJSON or CSV file. `lines` is the
    number of lines of the record: a CSV row may have several.
    """

    source: int
    offset: int
    length: int
    ordinal: int
    lines: int = 1

    def behind(self, counted: int) -> Position:
        """The same position, with an ordinal that goes on after `counted` earlier records."""
        return Position(self.source, self.offset, self.length, self.ordinal + counted, self.lines)

    @property
    def begin(self) -> Place:
        """The place before the record."""
        return Place(self.source, self.offset, 0, self.ordinal)

    @property
    def end(self) -> Place:
        """The place after the whole record."""
        return Place(self.source, self.offset + self.length, 0, self.ordinal + self.lines)


class Place(NamedTuple):
    """A point between two units of a stage, compared in reading order.

    `unit` counts units of the source record that begins at `offset`: 0 is before the record, k is after its first k
    units. The place after a whole record is the place before whatever comes next. So its `offset` may be that of the
    white space or comma after the record.
    """

    source: int = 0
    offset: int = 0
    unit: int = 0
    ordinal: int = 1


START = Place()


def spoken_place(at: Position | Place, marks: Sequence[Mapping[str, Any]]) -> str:
    """A record for people, in files with these fingerprints. In a table it is a line."""
    mark = marks[at.source]
    what = "line" if mark["format"] == "csv" else "record"
    return f"{what} {at.ordinal:,} of {mark['file'].rpartition('/')[2]}"


class Range(NamedTuple):
    """The units from `begin` up to, not including, `end`; both places lie in the same file."""

    begin: Place
    end: Place


class Span(msgspec.Struct, frozen=True):
    """A contiguous run of source records of one file, in reading order. Everything from framing to batcher takes spans.

    Record i is `data[starts[i]:ends[i]]`, one JSON value in UTF-8. `data` begins at `offset` in the decompressed stream
    and is a copy of it, including the bytes between records. A gap of one byte is a comma or a newline. `ordinals` are
    those of `Position`.

    A source that is not JSON makes JSON of its records. Then `origins` has the offset and the length of each record in
    the file, where people and the checkpoint find it, and its number of lines if not 1. Corrected dead letters have
    `origins` too.

    `faults` has the source records that are invalid, by index: the full length in bytes, a code ("invalid-json",
    "invalid-utf8", "lone-surrogate", "too-large"), and a message without any value of the record. Their bytes may be
    missing in `data`.

    `judged` is a compiled judge's verdict on the records (`columns.Judged`), found while they were framed.

    A span holds only bytes and numbers, so it is cheap to pickle for another process.
    """

    source: int
    offset: int
    data: bytes
    starts: Sequence[int]
    ends: Sequence[int]
    ordinals: Sequence[int]
    faults: Mapping[int, tuple[int, str, str]] = {}
    origins: Sequence[tuple[int, int] | tuple[int, int, int]] | None = None
    judged: object = None

    def __len__(self) -> int:
        return len(self.starts)

    def cut(self, begin: int, end: int) -> list[bytes]:
        """The bytes of each record from index `begin` to `end`."""
        return list(map(self.data.__getitem__, map(slice, self.starts[begin:end], self.ends[begin:end])))

    def records(self, ats: Sequence[int]) -> list[bytes]:
        """The bytes of each record at these indices."""
        return [self.data[self.starts[at] : self.ends[at]] for at in ats]

    def part(self, begin: int, end: int) -> Span:
        """The records from index `begin` to `end`, as a span that shares the same bytes."""
        if begin == 0 and end >= len(self):
            return self
        faults = {at - begin: fault for at, fault in self.faults.items() if begin <= at < end}
        starts, ends, ordinals = self.starts[begin:end], self.ends[begin:end], self.ordinals[begin:end]
        origins = self.origins[begin:end] if self.origins is not None else None
        return Span(self.source, self.offset, self.data, starts, ends, ordinals, faults=faults, origins=origins)

    def position(self, index: int) -> Position:
        if self.origins is not None:
            offset, length, *lines = self.origins[index]
            return Position(self.source, offset, length, self.ordinals[index], *lines)
        start = self.starts[index]
        length = self.faults[index][0] if index in self.faults else self.ends[index] - start
        return Position(self.source, self.offset + start, length, self.ordinals[index])

    def columns(self, begin: int, end: int) -> tuple[Sequence[int], ...]:
        """Offsets, lengths, ordinals and lines of the records from `begin` to `end`, as in `Position`.

        None of these records may be in `faults`.
        """
        ordinals = self.ordinals[begin:end]
        if self.origins is not None:
            origins = [(*it, 1)[:3] for it in self.origins[begin:end]]
            offsets, lengths, lines = zip(*origins, strict=True)
            return offsets, lengths, ordinals, lines
        starts, offset = self.starts[begin:end], self.offset
        sizes = list(map(operator.sub, self.ends[begin:end], starts))
        return [offset + start for start in starts], sizes, ordinals, [1] * len(starts)

    @property
    def end(self) -> Place:
        """The place after the last record."""
        return self.position(len(self) - 1).end

    def before(self, place: Place) -> int:
        """The number of records that begin before a place."""
        return bisect_left(range(len(self)), place[:2], key=lambda at: (self.source, self.position(at).offset))


class Record(msgspec.Struct, frozen=True, gc=False):
    """One element of a request, valid and ready to be packed.

    - `unit`: number of its first unit in the source record
    - `owner`: the customer's id
    - `body`: its JSON as it will be sent
    - `units`: how much it counts towards the batch limit
    - `amounts`: (key, value) pairs for the sums; with `inner`, exactly one pair for each unit, in order
    - `inner`: None unless the units are members of a list that may be joined with another record's (events,
      transactions); then the slice of `body` strictly between that list's brackets
    - `unique`: a second value that must be unique in a request (a folded e-mail), or ""
    """

    position: Position
    unit: int
    owner: str
    body: bytes
    units: int
    amounts: tuple[tuple[str, Decimal], ...] = ()
    inner: tuple[int, int] | None = None
    unique: str = ""
    whole: bool = True  # False for all parts of a split record but the first: a record counts once

    @property
    def tally(self) -> Tally:
        return Tally(int(self.whole), self.units, total(self.amounts))

    @property
    def begin(self) -> Place:
        """The place before the first unit."""
        it = self.position
        return Place(it.source, it.offset, self.unit, it.ordinal)

    @property
    def end(self) -> Place:
        """The place after the last unit."""
        it = self.position
        return Place(it.source, it.offset, self.unit + self.units, it.ordinal)


def total(amounts: Iterable[tuple[str, Decimal]]) -> Sums:
    """Add amounts by key, exactly. Keys with a sum of zero are left out."""
    sums: dict[str, Decimal] = {}
    for key, value in amounts:
        sums[key] = EXACT.add(sums.get(key, ZERO), value)
    return {key: value for key, value in sums.items() if value}


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that will not be sent, with its reason.

    `unit` is the number of its first unit in the source record, which tells several records of one mapping apart.
    `message` holds no value of the record, only field paths, expectations and types.
    """

    position: Position
    unit: int
    code: str
    message: str
    tally: Tally


FILTERED = "filtered"  # the reason of an absent owner whose own record was filtered


class Examined(msgspec.Struct, frozen=True, gc=False):
    """One source record after the rules: records to send, tallies filtered by reason, dead letters.

    The results of the mapping are numbered from 0, in order. A record takes one number for each unit to send, a
    filtered or dead part takes one number. So a `Place` means the same at every reading. `absent` (customers stage):
    owners that will not be at the target because of this, each with `FILTERED` or the code of its dead letter.
    """

    position: Position
    records: tuple[Record, ...] = ()
    filtered: tuple[tuple[str, Tally], ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()  # paths of unknown fields that were cut, for the report


class BatchState(enum.StrEnum):
    """The state of a batch."""

    SEALED = "sealed"
    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SPLIT = "split"
    DEAD = "dead"
    UNKNOWN = "unknown"
    PARKED = "parked"


class Draft(msgspec.Struct, frozen=True):
    """A batch that is about to be sealed: its ranges, its tally, its exact request body and that body's SHA-256.

    `table` says where each record is in the body, `few` says it for a sample of them. Once `body`, `table` and `few`
    are in the outbox, they are empty here: `file` is their name there, `size` the body's length in bytes.
    """

    ranges: tuple[Range, ...]
    tally: Tally
    body: bytes
    digest: bytes
    table: bytes = b""
    few: bytes = b""
    file: str = ""
    size: int = 0


class Batch(msgspec.Struct, frozen=True):
    """A sealed batch, as the checkpoint knows it. Its body lies in the outbox.

    `seq` counts from 1 in its stage. `sample` is the byte offset of an accepted batch's samples in the outbox, or None.
    """

    stage: str
    seq: int
    ranges: tuple[Range, ...]
    tally: Tally
    digest: bytes
    size: int
    state: BatchState = BatchState.SEALED
    parent: int | None = None
    attempts: int = 0
    retried: bool = False  # its records were dead letters
    rejects: int = 0  # an HTTP status that stops a run, but means a bad record for this batch
    ruling: str = ""  # the operator's decision: "landed", "not-landed", "reject" or "set-aside"
    sample: int | None = None
    mapping: str = ""  # hash of the mapping that made it


class Kind(enum.StrEnum):
    """The outcome of a request."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    TOO_LARGE = "too-large"
    NOT_SENT = "not-sent"
    UNKNOWN = "unknown"


class Receipt(msgspec.Struct, frozen=True):
    """The outcome of one request."""

    kind: Kind
    status: int | None = None  # of HTTP
    message: str = (
        ""  # of the target or the network, cut short; may hold values: redact it before it is stored or shown
    )
    retry_after: float | None = None  # seconds
    date: str = ""  # the answer's `Date` header
    stop_after: int = 0  # this many such receipts in a row stop the run; 0: none does
    latency: float = 0.0  # seconds from the first byte sent to the end of the answer
    code: str = ""  # stable: "http-422", "says-no", "html-in-2xx", "timeout"
    unjudged: tuple[str, ...] = ()  # fields of a positive answer that may contradict it
    in_part: bool = False  # the target may have taken a part, so a sample proves nothing of the rest
    ours: bool = False  # the message is streammig's own, and holds no value of a record


class Progress(msgspec.Struct, frozen=True):
    """How far a stage is read. One commit stores it together with a batch.

    Counters are absolute, so storing them twice changes nothing. `read` counts everything before the frontier, and
    sealed batches beyond it: batches, dead letters and filter counts must add up to it. `dead` and `absent` are new
    since the reader's last progress; storing one again changes nothing. `before` is the hash of the 64 KB of the
    export before the frontier, "" if not known (I8).
    """

    frontier: Place = START
    source_records: int = 0
    read: Tally = Tally()
    filtered: Mapping[str, Tally] = {}
    dropped: Mapping[str, int] = {}
    dead: tuple[DeadLetter, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    before: str = ""

    @property
    def begun(self) -> tuple[Range, ...]:
        """The units before the frontier of the source record around it. They are read again, and already counted."""
        return (Range(self.frontier._replace(unit=0), self.frontier),) if self.frontier.unit else ()
