"""How far a stage has been read: the frontier, and the counters of all that is settled."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from streammig.columns import Rows
from streammig.records import (
    DeadLetter,
    Examined,
    Place,
    Position,
    Progress,
    Range,
    Record,
    Tally,
)


class Rest:
    """What a stretch holds beside packed records: filtered and dead ones, and what else is to be told about them."""

    __slots__ = ("absent", "dead", "dropped", "filtered")

    def __init__(self, filtered: Mapping[str, Tally] | None = None, dropped: Mapping[str, int] | None = None) -> None:
        self.filtered: dict[str, Tally] = dict(filtered or {})
        self.dropped: dict[str, int] = dict(dropped or {})
        self.dead: list[DeadLetter] = []
        self.absent: list[tuple[str, str]] = []

    def add(
        self,
        filtered: Iterable[tuple[str, Tally]],
        dropped: Iterable[tuple[str, int]],
        dead: Iterable[DeadLetter],
        absent: Iterable[tuple[str, str]],
    ) -> None:
        for reason, tally in filtered:
            self.filtered[reason] = self.filtered.get(reason, Tally()) + tally
        for path, times in dropped:
            self.dropped[path] = self.dropped.get(path, 0) + times
        self.dead.extend(dead)
        self.absent.extend(absent)

    def absorb(self, other: Rest) -> None:
        self.add(other.filtered.items(), other.dropped.items(), other.dead, other.absent)

    def tally(self) -> Tally:
        return sum((*self.filtered.values(), *(letter.tally for letter in self.dead)), Tally())


class Span:
    """A stretch of the stage between the frontier and the head: packed into one open batch, or settled (None).

    Filtered records are counted in the span of the packed record before them. Dead ones are never within a span: what
    is dead now may not be so when it is read again, and then only the ranges tell that it was in no batch. A linked
    list, so that settled neighbours melt into one: spans are then never more than twice the records in open batches,
    however long the oldest of these holds the frontier back. Its end is kept as the last packed record's position and
    unit, since one Place for each record would be a tenth of packing's time.
    """

    __slots__ = ("batch", "begin", "next", "position", "prev", "rest", "source_records", "unit")

    def __init__(self, begin: Place, batch: object | None, prev: Span | None) -> None:
        self.begin = begin
        self.batch = batch
        self.prev = prev
        self.next: Span | None = None
        self.position = Position(begin.source, begin.offset, 0, begin.ordinal)
        self.unit = begin.unit
        self.source_records = 0
        self.rest: Rest | None = None

    def other(self) -> Rest:
        if self.rest is None:
            self.rest = Rest()
        return self.rest

    def absorb(self, later: Span) -> None:
        self.source_records += later.source_records
        if later.rest:
            self.other().absorb(later.rest)

    @property
    def range(self) -> Range:
        return Range(self.begin, behind(self.position, self.unit))


def behind(position: Position, unit: int) -> Place:
    """The place behind the source record's first `unit` units, or behind all of it for 0."""
    if unit:
        return Place(position.source, position.offset, unit, position.ordinal)
    return Place(position.source, position.offset + position.length, 0, position.ordinal + 1)


class Ledger:
    """Takes a stage in reading order, and says at any moment what lies behind the frontier.

    For each source record: `begin` if something of it is dead, `pack`, `pass_by` or `bury` for each of its records,
    then `close`.
    What is packed counts as its batch is sealed, wherever it stands; all else about a source record (that it was read,
    what is filtered, dead and dropped of it) counts with its end: as the batch that holds the end is sealed, else as
    the frontier passes it. So what a sealed batch's ranges hold is never to be read again.
    """

    def __init__(self, progress: Progress) -> None:
        self._head = progress.frontier
        self._position: Position | None = None  # of the last record read; with its last unit, the head
        self._unit = 0
        self._dead: tuple[int, ...] = ()  # the units at which something of the source record that is open is dead
        self._source_records = progress.source_records
        self._read = progress.read
        self._rest = Rest(progress.filtered, progress.dropped)
        self._first: Span | None = None
        self._last: Span | None = None
        self.letters = 0  # dead letters and absent owners not handed out yet
        self.unreported = 0  # source records closed since the last progress

    @property
    def head(self) -> Place:
        """The place behind everything that was read."""
        return behind(self._position, self._unit) if self._position else self._head

    @property
    def blocker(self) -> object | None:
        """The open batch that holds the frontier back, or None."""
        span = self._first
        while span and span.batch is None:
            span = span.next
        return span.batch if span else None

    def begin(self, examined: Examined) -> None:
        """Something of this source record is dead, and is kept out of the ranges of what is packed of it."""
        self._dead = tuple(letter.unit for letter in examined.dead)

    def pack(self, record: Record, batch: object, spans: list[Span]) -> None:
        """The record went into this open batch, whose spans, in order, are `spans`."""
        position, span = record.position, self._last
        if (
            span is None
            or span.batch is not batch
            or span.position.source != position.source
            or (self._dead and any(self._unit <= unit < record.unit for unit in self._dead))
        ):
            span = self._new(Place(position.source, position.offset, record.unit, position.ordinal), batch)
            spans.append(span)
        span.position = self._position = position
        span.unit = self._unit = record.unit + record.units

    def pack_all(self, rows: Rows, batch: object, spans: list[Span]) -> None:
        """As `pack` and `close` for each of these."""
        chunk, first, last = rows.chunk, *(rows.chunk.columns.index[row] for row in (rows.begin, rows.end - 1))
        begin, span = chunk.span.position(first), self._last
        if span is None or span.batch is not batch or span.position.source != begin.source:
            span = self._new(Place(begin.source, begin.offset, 0, begin.ordinal), batch)
            spans.append(span)
        span.source_records += last - first + 1
        self.unreported += last - first + 1
        if chunk.dropped:
            dropped = [(path, 1) for at in range(first, last + 1) for path in chunk.dropped.get(at, ())]
            span.other().add((), dropped, (), ())
        span.position = self._position = chunk.span.position(last)
        span.unit = self._unit = 0

    def pass_by(self, record: Record) -> None:
        """The record lies in a batch that was sealed before this reading began."""
        self._settled()
        self._position, self._unit = record.position, record.unit + record.units

    def bury(self, record: Record, letter: DeadLetter) -> None:
        """The record became a dead letter here."""
        self._settled().other().dead.append(letter)
        self.letters += 1
        self._position, self._unit = record.position, record.unit + record.units

    def pass_over(self, position: Position) -> None:
        """The end of this source record lies in a batch that was sealed before this reading began."""
        self._settled()
        self._position, self._unit, self._dead = position, 0, ()
        self.unreported += 1

    def close(self, examined: Examined) -> None:
        ends_dead = examined.dead and any(letter.unit >= self._unit for letter in examined.dead)
        span = self._last
        if ends_dead or span is None or span.position.source != examined.position.source:
            span = self._settled()
        span.source_records += 1
        if examined.filtered or examined.dead or examined.dropped or examined.absent:
            dropped = ((path, 1) for path in examined.dropped)
            span.other().add(examined.filtered, dropped, examined.dead, examined.absent)
            self.letters += len(examined.dead) + len(examined.absent)
        self._position, self._unit = examined.position, 0
        span.position, span.unit = examined.position, 0
        self._dead = ()
        self.unreported += 1

    def seal(self, spans: Iterable[Span], tally: Tally) -> None:
        """The batch of these spans, which holds so much, is sealed."""
        self._read += tally
        for span in spans:
            span.batch = None
            self._count(span)
            if span.prev and span.prev.batch is None:
                span = self._melt(span.prev)
            if span.next and span.next.batch is None:
                self._melt(span)

    def progress(self) -> Progress:
        """Everything as of the frontier; dead letters and absent owners are handed out once."""
        while (span := self._first) and span.batch is None:
            self._count(span)
            self._first = span.next
            if span.next:
                span.next.prev = None
            else:
                self._last = None
        dead, absent = tuple(self._rest.dead), tuple(self._rest.absent)
        self._rest = Rest(self._rest.filtered, self._rest.dropped)
        self.letters -= len(dead) + len(absent)
        self.unreported = 0
        return Progress(
            frontier=self._first.begin if self._first else self.head,
            source_records=self._source_records,
            read=self._read,
            filtered=dict(self._rest.filtered),
            dropped=dict(self._rest.dropped),
            dead=dead,
            absent=absent,
        )

    def _count(self, span: Span) -> None:
        self._source_records += span.source_records
        if span.rest:
            self._read += span.rest.tally()
            self._rest.absorb(span.rest)
        span.source_records, span.rest = 0, None

    def _settled(self) -> Span:
        return self._last if self._last and self._last.batch is None else self._new(self.head, None)

    def _new(self, begin: Place, batch: object | None) -> Span:
        span = Span(begin, batch, self._last)
        if self._last:
            self._last.next = span
        else:
            self._first = span
        self._last = span
        return span

    def _melt(self, span: Span) -> Span:
        """Make one of a settled span and the settled one behind it."""
        later = span.next
        assert later is not None
        span.absorb(later)
        span.next = later.next
        if later.next:
            later.next.prev = span
        else:
            self._last = span
        return span
