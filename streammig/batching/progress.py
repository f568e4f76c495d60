"""Computes how far a stage is read: the frontier, and the counters of everything before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streammig.columns import Rows
from streammig.model import DeadLetter, Examined, Place, Position, Progress, Range, Tally, add_by_reason


class Counters:
    """Counts source records and everything about them except their sent units."""

    __slots__ = ("absent", "dead", "dropped", "filtered", "records")

    def __init__(self) -> None:
        self.records = 0
        self.filtered: dict[str, Tally] = {}
        self.dropped: dict[str, int] = {}
        self.dead: list[DeadLetter] = []
        self.absent: list[tuple[str, str]] = []

    def add(
        self,
        records: int,
        dropped: Iterable[tuple[str, int]],
        filtered: Iterable[tuple[str, Tally]] = (),
        dead: Iterable[DeadLetter] = (),
        absent: Iterable[tuple[str, str]] = (),
    ) -> None:
        self.records += records
        for path, times in dropped:
            self.dropped[path] = self.dropped.get(path, 0) + times
        add_by_reason(self.filtered, filtered)
        self.dead.extend(dead)
        self.absent.extend(absent)

    def absorb(self, other: Counters) -> None:
        self.add(other.records, other.dropped.items(), other.filtered.items(), other.dead, other.absent)

    def tally(self) -> Tally:
        return sum((*self.filtered.values(), *(letter.tally for letter in self.dead)), Tally())


LEFT = object()
"""Stands for the open batch of records that are left for a later reading."""


class Stretch:
    """A part of the stage between the frontier and the head. `batch` is an open batch, `LEFT`, or None (settled).

    A filtered unit belongs to the stretch of the unit before it. A dead unit never belongs to a batch's stretch: the
    ranges must show that it was in no batch. Stretches form a linked list, and settled neighbours are merged. So there
    are at most twice as many stretches as records in open batches, even if the oldest batch stays open for long.
    """

    __slots__ = ("batch", "begin", "counters", "end", "next", "prev")

    def __init__(self, begin: Place, batch: object | None, prev: Stretch | None) -> None:
        self.begin = self.end = begin
        self.batch = batch
        self.prev = prev
        self.next: Stretch | None = None
        self.counters = Counters()

    @property
    def range(self) -> Range:
        return Range(self.begin, self.end)


class Frontier:
    """Follows a stage in reading order, and gives the progress up to the frontier at any moment.

    The frontier is the place before the first unit that is not settled. The head is the place after the last unit read.
    The units of a batch count once it is sealed, even beyond the frontier. Everything else about a source record counts
    with the record's end: once the batch with this end is sealed, or once the frontier passes it. So the ranges of a
    sealed batch never count again.
    """

    def __init__(self, progress: Progress) -> None:
        self.head = progress.frontier
        self._dead: tuple[int, ...] = ()  # dead units of the current source record
        self._read = progress.read
        self._counters = Counters()
        self._counters.add(progress.source_records, progress.dropped.items(), progress.filtered.items())
        self._first: Stretch | None = None
        self._last: Stretch | None = None
        self.letters = 0  # dead letters and absent owners not handed out yet
        self.unreported = 0  # source records closed since the last progress

    @property
    def blocker(self) -> object | None:
        """The open batch that holds the frontier back, or None."""
        stretch = self._first
        while stretch and stretch.batch is None:
            stretch = stretch.next
        return stretch.batch if stretch else None

    def begin(self, dead: Sequence[DeadLetter]) -> None:
        """Begin a source record. Its ranges will leave out these dead units."""
        self._dead = tuple(letter.unit for letter in dead)

    def put(self, batch: object, stretches: list[Stretch], begin: Place, end: Place) -> Stretch:
        """Add the units between two places to an open batch. Appends any new stretch to the batch's `stretches`."""
        last = self._last
        if (
            last is None
            or last.batch is not batch
            or last.end.source != begin.source
            or (self._dead and any(self._done(begin) <= unit < begin.unit for unit in self._dead))
        ):
            last = self._new(begin, batch)
            stretches.append(last)
        last.end = self.head = end
        return last

    def put_rows(self, batch: object, stretches: list[Stretch], rows: Rows) -> None:
        """Call `put` and `close` for each of these rows, in one step."""
        chunk, index = rows.chunk, rows.chunk.columns.index
        ats = range(index[rows.begin], index[rows.end - 1] + 1)
        begin, end = chunk.span.position(ats[0]).begin, chunk.span.position(ats[-1]).end
        stretch = self.put(batch, stretches, begin, end)
        dropped = [(path, 1) for at in ats for path in chunk.dropped.get(at, ())] if chunk.dropped else ()
        stretch.counters.add(len(ats), dropped)
        self.unreported += len(ats)

    def leave(self, begin: Place, end: Place, records: int) -> None:
        """Leave the records between two places for a later reading. The frontier stays before them."""
        self.put(LEFT, [], max(begin, self.head), end)  # the first units may be in a batch already
        self.unreported += records

    def pass_by(self, end: Place) -> None:
        """Pass the units before this place, which an earlier reading has sealed."""
        self._settled()
        self.head = end

    def pass_over(self, position: Position) -> None:
        """Pass a source record whose end an earlier reading has sealed."""
        self.pass_by(position.end)
        self._dead = ()
        self.unreported += 1

    def bury(self, letter: DeadLetter, end: Place) -> None:
        """Add a dead letter that ends at `end`."""
        self._settled().counters.dead.append(letter)
        self.letters += 1
        self.head = end

    def close(self, it: Examined) -> None:
        """End a source record."""
        begin, last = it.position.begin, self._last
        if (
            last is None
            or last.end.source != begin.source
            or any(letter.unit >= self._done(begin) for letter in it.dead)
        ):
            last = self._settled()
        last.counters.add(1, ((path, 1) for path in it.dropped), it.filtered, it.dead, it.absent)
        last.end = self.head = it.position.end
        self.letters += len(it.dead) + len(it.absent)
        self._dead = ()
        self.unreported += 1

    def seal(self, stretches: Iterable[Stretch], tally: Tally) -> None:
        """Count a sealed batch, by its stretches and its tally."""
        self._read += tally
        for stretch in stretches:
            stretch.batch = None
            self._count(stretch)
            if stretch.prev and stretch.prev.batch is None:
                stretch = self._merge_next(stretch.prev)
            if stretch.next and stretch.next.batch is None:
                self._merge_next(stretch)

    def progress(self) -> Progress:
        """The progress up to the frontier. Hands out each dead letter and absent owner once."""
        while (stretch := self._first) and stretch.batch is None:
            self._count(stretch)
            self._first = stretch.next
            if stretch.next:
                stretch.next.prev = None
            else:
                self._last = None
        counters = self._counters
        dead, absent = tuple(counters.dead), tuple(counters.absent)
        counters.dead, counters.absent = [], []
        self.letters -= len(dead) + len(absent)
        self.unreported = 0
        return Progress(
            frontier=self._first.begin if self._first else self.head,
            source_records=counters.records,
            read=self._read,
            filtered=dict(counters.filtered),
            dropped=dict(counters.dropped),
            dead=dead,
            absent=absent,
        )

    def _done(self, begin: Place) -> int:
        """The number of units of the source record at `begin` that lie before the head."""
        return self.head.unit if self.head[:2] == begin[:2] else 0

    def _count(self, stretch: Stretch) -> None:
        self._read += stretch.counters.tally()
        self._counters.absorb(stretch.counters)
        stretch.counters = Counters()

    def _settled(self) -> Stretch:
        return self._last if self._last and self._last.batch is None else self._new(self.head, None)

    def _new(self, begin: Place, batch: object | None) -> Stretch:
        stretch = Stretch(begin, batch, self._last)
        if self._last:
            self._last.next = stretch
        else:
            self._first = stretch
        self._last = stretch
        return stretch

    def _merge_next(self, stretch: Stretch) -> Stretch:
        """Merge a settled stretch with the settled one after it."""
        later = stretch.next
        assert later is not None
        stretch.counters.absorb(later.counters)
        stretch.end, stretch.next = later.end, later.next
        if later.next:
            later.next.prev = stretch
        else:
            self._last = stretch
        return stretch
