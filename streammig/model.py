"""Records, their positions, and the batches that carry them: the values that everything else passes on."""

from __future__ import annotations

import enum
import operator
from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from decimal import Context, Decimal, Inexact
from typing import Any, NamedTuple

import msgspec

# The default context rounds to 28 digits in silence. Validation refuses numbers that need more than 30, so 60
# digits leave room for 10**30 additions; an inexact sum raises instead of being wrong.
EXACT = Context(prec=60, traps=[Inexact])
ZERO = Decimal(0)

Sums = Mapping[str, Decimal]


class Tally(msgspec.Struct, frozen=True):
    """How much of a stage: records, units, and exact decimal sums (by reward; `purchases` for events)."""

    records: int = 0
    units: int = 0
    sums: Sums = {}

    def __add__(self, other: Tally) -> Tally:
        return Tally(self.records + other.records, self.units + other.units, add_sums(self.sums, other.sums))

    def __sub__(self, other: Tally) -> Tally:
        # copy_negate, for unary minus would round to the context's 28 digits.
        negated = {key: value.copy_negate() for key, value in other.sums.items()}
        return Tally(self.records - other.records, self.units - other.units, add_sums(self.sums, negated))


def add_sums(left: Sums, right: Sums) -> Sums:
    """The sums of both, key by key, exactly; a key whose sum is zero is left out, so that equal totals are equal."""
    if not right:
        return left
    total = dict(left)
    for key, value in right.items():
        total[key] = EXACT.add(total.get(key, ZERO), value)
    return {key: value for key, value in total.items() if value}


def add_up(tallies: Iterable[Tally]) -> Tally:
    """The sum of many tallies; adds in place, since a run has 100,000 batches and maybe 1,000 rewards."""
    records = units = 0
    sums: dict[str, Decimal] = {}
    for tally in tallies:
        records += tally.records
        units += tally.units
        for key, value in tally.sums.items():
            sums[key] = EXACT.add(sums.get(key, ZERO), value)
    return Tally(records, units, {key: value for key, value in sums.items() if value})


def add_by_reason(into: dict[str, Tally], tallies: Iterable[tuple[str, Tally]]) -> None:
    """Add tallies to those of the same reason."""
    for reason, tally in tallies:
        into[reason] = into.get(reason, Tally()) + tally


class Position(msgspec.Struct, frozen=True, order=True, gc=False, array_like=True):
    """Where a source record stands.

    `source` counts the files of the stage from 0, `offset` and `length` are bytes in the decompressed stream,
    `ordinal` is for people, from 1: the element of the array, or the line of an NDJSON or CSV file. `lines` is how many
    of these the record takes: a row of CSV may take several.
    """

    source: int
    offset: int
    length: int
    ordinal: int
    lines: int = 1

    def behind(self, counted: int) -> Position:
        """The same, where its ordinal was counted from 0 behind so many others."""
        return Position(self.source, self.offset, self.length, self.ordinal + counted, self.lines)

    @property
    def begin(self) -> Place:
        """The place before it."""
        return Place(self.source, self.offset, 0, self.ordinal)

    @property
    def end(self) -> Place:
        """The place behind all of it."""
        return Place(self.source, self.offset + self.length, 0, self.ordinal + self.lines)


class Place(NamedTuple):
    """A point between two units of a stage, compared in reading order.

    `unit` counts the units that the source record beginning at `offset` has been made into; 0 stands before
    the record, k stands behind its first k units. The place behind a whole record is the place before whatever
    comes next: its `offset` may be that of the white space or comma behind the record.
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
    """A contiguous run of source records of one file, in reading order: the one currency from framing to batcher.

    Record i is `data[starts[i]:ends[i]]`, one JSON value in UTF-8. `data` begins at `offset` in the decompressed stream
    and holds the bytes as they stand there, with what stands between records: one comma, where that is a single byte
    that is no newline. `ordinals` are those of `Position`.

    A source of another form than JSON hands out the JSON that it makes of its records, and so does a source of records
    that stand elsewhere (corrected dead letters): `origins` then names the offset and the length of each record in the
    file, which is where people and the checkpoint look for it, and its number of lines where that is not 1.

    `faults` names the records that are none (invalid JSON on an NDJSON line, invalid UTF-8, a lone surrogate, over the
    size limit), by index: the full length in bytes, a code ("invalid-json", "invalid-utf8", "lone-surrogate",
    "too-large"), and what is wrong in words that hold no value of the record. Their bytes need not be there.

    `judged` is what a judge found of the records as they were framed (`columns.Judged`), for the rules that it is of.

    It holds nothing but bytes and numbers, so it is cheap to pickle, and may be worked on in any process.
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
        """The bytes of the records from index `begin` to `end`."""
        return list(map(self.data.__getitem__, map(slice, self.starts[begin:end], self.ends[begin:end])))

    def records(self, ats: Sequence[int]) -> list[bytes]:
        """The bytes of the records at these indices."""
        return [self.data[self.starts[at] : self.ends[at]] for at in ats]

    def part(self, begin: int, end: int) -> Span:
        """The records from index `begin` to `end`, over the same bytes."""
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
        """The offsets, lengths, ordinals and lines of the records from index `begin` to `end`, none of them at fault,
        as in `Position`."""
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
        """The place behind its last record."""
        return self.position(len(self) - 1).end

    def before(self, place: Place) -> int:
        """How many of its records begin before a place."""
        return bisect_left(range(len(self)), place[:2], key=lambda at: (self.source, self.position(at).offset))


class Record(msgspec.Struct, frozen=True, gc=False):
    """One element of a request, valid and ready to be packed.

    `body` is its JSON as it will be sent. `units` is its weight against the batch limit. Where the units are the
    members of a list in it that may be joined with another record's (events, transactions), `inner` is the slice of
    `body` strictly between that list's brackets, else None. `amounts` are (key, value) pairs for the sums; where
    `inner` is set there is exactly one pair for each unit, in order. `emails` and the like never leave the rules:
    `owner` is the customer's id, and `unique` a second value that must be unique in a request (a folded e-mail) or "".
    """

    position: Position
    unit: int
    owner: str
    body: bytes
    units: int
    amounts: tuple[tuple[str, Decimal], ...] = ()
    inner: tuple[int, int] | None = None
    unique: str = ""
    whole: bool = True  # False for every part of a split record but its first: a record is counted once

    @property
    def tally(self) -> Tally:
        return Tally(int(self.whole), self.units, total(self.amounts))

    @property
    def begin(self) -> Place:
        """The place before its first unit."""
        it = self.position
        return Place(it.source, it.offset, self.unit, it.ordinal)

    @property
    def end(self) -> Place:
        """The place behind its last unit."""
        it = self.position
        return Place(it.source, it.offset, self.unit + self.units, it.ordinal)


def total(amounts: Iterable[tuple[str, Decimal]]) -> Sums:
    """Sums by key, exact, without zeros."""
    sums: dict[str, Decimal] = {}
    for key, value in amounts:
        sums[key] = EXACT.add(sums.get(key, ZERO), value)
    return {key: value for key, value in sums.items() if value}


class DeadLetter(msgspec.Struct, frozen=True):
    """A record that will not be sent, with its reason.

    `unit` tells apart what one source record was mapped to (the place's unit it would have begun at). `message`
    holds no value of the record: field paths, expectations, kinds.
    """

    position: Position
    unit: int
    code: str
    message: str
    tally: Tally


FILTERED = "filtered"  # why an owner is absent whose own record was left out on purpose


class Examined(msgspec.Struct, frozen=True, gc=False):
    """What became of one source record: records ready to be packed, what was filtered by reason, dead letters.

    What the source record was mapped to is numbered through from 0 in the order the mapping gave it: a record takes
    as many numbers as it has units to send, a part that is filtered or dead as a whole takes one. So a `Place` means
    the same at every reading. `absent` names owners (customers stage) that will not be in the target because of this:
    each with `FILTERED`, or the code of its dead letter.
    """

    position: Position
    records: tuple[Record, ...] = ()
    filtered: tuple[tuple[str, Tally], ...] = ()
    dead: tuple[DeadLetter, ...] = ()
    absent: tuple[tuple[str, str], ...] = ()
    dropped: tuple[str, ...] = ()  # paths of unknown fields that were left out, for the report


class BatchState(enum.StrEnum):
    """DESIGN's states of a batch, nothing else."""

    SEALED = "sealed"
    SENDING = "sending"
    ACCEPTED = "accepted"
    REJECTED = "rejected"
    SPLIT = "split"
    DEAD = "dead"
    UNKNOWN = "unknown"
    PARKED = "parked"


class Draft(msgspec.Struct, frozen=True):
    """A batch about to be sealed: what it holds, its exact request body and that body's SHA-256.

    `table` says where each of its records stands in the body, `few` where some of them do. Once all three are in the
    outbox, `file` is their name there, `size` the body's length in bytes, and they are empty here.
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
    """A sealed batch as the checkpoint knows it; `seq` counts from 1 in its stage. Its body lies in the outbox.

    `sample` is where the samples of an accepted batch stand in the outbox, in bytes; None without any.
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
    rejects: int = 0  # the status by which it is rejected for its records, though it stops the run by itself
    ruling: str = ""  # the operator's word on it: "landed", "not-landed", "reject" or "set-aside"
    sample: int | None = None
    mapping: str = ""  # the hash of the mapping that made it


class Kind(enum.StrEnum):
    """What a receipt says became of a request."""

    ACCEPTED = "accepted"
    REJECTED = "rejected"
    THROTTLED = "throttled"
    UNAUTHORIZED = "unauthorized"
    TOO_LARGE = "too-large"
    NOT_SENT = "not-sent"
    UNKNOWN = "unknown"


class Receipt(msgspec.Struct, frozen=True):
    """What became of one request.

    `status` is the HTTP status or None; `message` what the target or the network said, cut short, still holding
    whatever values the target put there: it is redacted before it is stored or shown. `retry_after` is in seconds.
    `date` is the answer's `Date` header, "" without one. So many receipts as `stop_after` in a row stop the run, 0:
    none does. `latency` is seconds from the first byte sent to the answer's end. `code` names in a stable way what came
    ("http-422", "says-no", "html-in-2xx", "timeout"). `unjudged` are fields of a yes that may speak against it.
    `in_part` says that a part may have been taken, so that what a sample shows proves nothing of the rest.
    `ours` says that the message is our own, and holds no value of a record.
    """

    kind: Kind
    status: int | None = None
    message: str = ""
    retry_after: float | None = None
    date: str = ""
    stop_after: int = 0
    latency: float = 0.0
    code: str = ""
    unjudged: tuple[str, ...] = ()
    in_part: bool = False
    ours: bool = False


class Progress(msgspec.Struct, frozen=True):
    """How far a stage has been read: what one seal commits beside the batch.

    Counters are absolute, so that storing them twice changes nothing. `read` is what the batches, dead letters and
    filter counts must add up to: all that lies behind the frontier, and what sealed batches hold beyond it. `dead` and
    `absent` are new since the last progress of the same reader; storing one again changes nothing. `before` is the hash
    of the 64 KB of the export before the frontier, "" where it is not known (I8).
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
        """The units behind the frontier of the source record that it lies in: they are read again, and counted."""
        return (Range(self.frontier._replace(unit=0), self.frontier),) if self.frontier.unit else ()
