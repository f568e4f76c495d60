"""How far a stage is read: the frontier, and the counters of everything before it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from streammig.columns import Rows
from streammig.model import DeadLetter, Examined, Place, Position, Progress, Range, Tally, add_by_reason


class Rest:
    """The counters of source records beside their sent units: number, filtered, dropped, dead and absent."""

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

    def absorb(self, other: Rest) -> None:
        self.add(other.records, other.dropped.items(), other.filtered.items(), other.dead, other.absent)

    def tally(self) -> Tally:
        return sum((*self.filtered.values(), *(letter.tally for letter in self.dead)), Tally())


LEFT = object()
"""Takes the place of an open batch, for records that are left for a later reading."""


class Stretch:
    """A part of the stage between the frontier and the head. `batch` is an open batch, `LEFT`, or None: settled.

    A filtered unit lies in the stretch of the unit before it. A dead unit never lies in a stretch of a batch, so the
    ranges tell that it was in none. The stretches are a linked list, in which settled neighbours become one. So there
    are at most twice as many stretches as records in open batches, however long the oldest batch stays open.
    """

    __slots__ = ("batch", "begin", "end", "next", "prev", "rest")

    def __init__(self, begin: Place, batch: object | None, prev: Stretch | None) -> None:
        self.begin = self.end = begin
        self.batch = batch
        self.prev = prev
        self.next: Stretch | None = None
        self.rest = Rest()

    @property
    def range(self) -> Range:
        return Range(self.begin, self.end)


class Frontier:
    """Takes a stage in reading order, and gives at any moment the progress up to the frontier.

    The units of a batch count once it is sealed, wherever they stand. Everything else about a source record counts with
    the record's end: once the batch that holds this end is sealed, else once the frontier passes it. So the ranges of a
    sealed batch are never read again.
    """

    def __init__(self, progress: Progress) -> None:
        self.head = progress.frontier  # behind everything that was read
        self._dead: tuple[int, ...] = ()  # the dead units of the source record that is open
        self._read = progress.read
        self._rest = Rest()
        self._rest.add(progress.source_records, progress.dropped.items(), progress.filtered.items())
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
        """Begin a source record; the ranges of its sent units leave out these dead units."""
        self._dead = tuple(letter.unit for letter in dead)

    def put(self, batch: object, stretches: list[Stretch], begin: Place, end: Place) -> Stretch:
        """Put what lies between these places into an open batch, whose stretches, in order, are `stretches`."""
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
        """As `put` and `close` for each of these rows."""
        chunk, index = rows.chunk, rows.chunk.columns.index
        ats = range(index[rows.begin], index[rows.end - 1] + 1)
        begin, end = chunk.span.position(ats[0]).begin, chunk.span.position(ats[-1]).end
        stretch = self.put(batch, stretches, begin, end)
        dropped = [(path, 1) for at in ats for path in chunk.dropped.get(at, ())] if chunk.dropped else ()
        stretch.rest.add(len(ats), dropped)
        self.unreported += len(ats)

    def leave(self, begin: Place, end: Place, records: int) -> None:
        """Leave what lies between these places for a later reading: the frontier stays before it."""
        self.put(LEFT, [], max(begin, self.head), end)  # its first units may be in a batch already
        self.unreported += records

    def pass_by(self, end: Place) -> None:
        """Pass what lies before this place: it is in a batch that was sealed before this reading began."""
        self._settled()
        self.head = end

    def pass_over(self, position: Position) -> None:
        """Pass this source record: its end lies in a batch that was sealed before this reading began."""
        self.pass_by(position.end)
        self._dead = ()
        self.unreported += 1

    def bury(self, letter: DeadLetter, end: Place) -> None:
        """Add a dead letter that ends here."""
        self._settled().rest.dead.append(letter)
        self.letters += 1
        self.head = end

    def close(self, it: Examined) -> None:
        """End the source record."""
        begin, last = it.position.begin, self._last
        if (
            last is None
            or last.end.source != begin.source
            or any(letter.unit >= self._done(begin) for letter in it.dead)
        ):
            last = self._settled()
        last.rest.add(1, ((path, 1) for path in it.dropped), it.filtered, it.dead, it.absent)
        last.end = self.head = it.position.end
        self.letters += len(it.dead) + len(it.absent)
        self._dead = ()
        self.unreported += 1

    def seal(self, stretches: Iterable[Stretch], tally: Tally) -> None:
        """The batch of these stretches is sealed; `tally` is what it holds."""
        self._read += tally
        for stretch in stretches:
            stretch.batch = None
            self._count(stretch)
            if stretch.prev and stretch.prev.batch is None:
                stretch = self._melt(stretch.prev)
            if stretch.next and stretch.next.batch is None:
                self._melt(stretch)

    def progress(self) -> Progress:
        """The progress as of the frontier. It hands out each dead letter and absent owner once."""
        while (stretch := self._first) and stretch.batch is None:
            self._count(stretch)
            self._first = stretch.next
            if stretch.next:
                stretch.next.prev = None
            else:
                self._last = None
        rest = self._rest
        dead, absent = tuple(rest.dead), tuple(rest.absent)
        rest.dead, rest.absent = [], []
        self.letters -= len(dead) + len(absent)
        self.unreported = 0
        return Progress(
            frontier=self._first.begin if self._first else self.head,
            source_records=rest.records,
            read=self._read,
            filtered=dict(rest.filtered),
            dropped=dict(rest.dropped),
            dead=dead,
            absent=absent,
        )

    def _done(self, begin: Place) -> int:
        """How many units of the source record that begins there lie before the head."""
        return self.head.unit if self.head[:2] == begin[:2] else 0

    def _count(self, stretch: Stretch) -> None:
        self._read += stretch.rest.tally()
        self._rest.absorb(stretch.rest)
        stretch.rest = Rest()

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

    def _melt(self, stretch: Stretch) -> Stretch:
        """Join a settled stretch with the settled one behind it."""
        later = stretch.next
        assert later is not None
        stretch.rest.absorb(later.rest)
        stretch.end, stretch.next = later.end, later.next
        if later.next:
            later.next.prev = stretch
        else:
            self._last = stretch
        return stretch
