"""The reading side of a stage: the next draft of it, its body in the outbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from pathlib import Path
from typing import cast

import msgspec

from streammig.batching import BatchLimits, Sealing, batcher, cut, is_within, select
from streammig.checkpoint import Spot, write_body
from streammig.columns import Chunk, Columns, Slices
from streammig.errors import BrokenExport, Unusable
from streammig.records import (
    FILTERED,
    START,
    DeadLetter,
    Examined,
    Place,
    Progress,
    Range,
    Record,
    Run,
    Span,
    Tally,
    slices,
)
from streammig.sources.source import Source
from streammig.target import Rules

FIRST = 100_000  # source records that are gone through for some to look for: a second, if all of these are filtered

NO_CUSTOMER = "its customer is not in the target: the customer's record is a dead letter, or the export has none"
OF_FILTERED = "customer-filtered"  # the filter of what belongs to a customer that was left out on purpose

Absent = Callable[[Iterable[str]], Mapping[str, str]]
"""Owners in, those that will not be in the target out, each with `FILTERED` or the code of a dead letter."""


def nobody_absent(owners: Iterable[str]) -> Mapping[str, str]:
    return {}


Repeated = Callable[[Place, Place], Mapping[Spot, tuple[str, str]]]
"""The duplicate customers between two places: their spots to code and message."""


class Judge:
    """What becomes of each slice: the target's rules, then whether its owner will be there at all, or is there already.

    Without state. What lies in `sealed`, ranges in reading order, is in a batch already, and no dead letter even if its
    owner was found to be absent since.
    """

    def __init__(
        self,
        rules: Rules,
        absent: Absent = nobody_absent,
        repeated: Repeated | None = None,
        sealed: Sequence[Range] = (),
    ) -> None:
        self.rules = rules
        self._absent = absent
        self._repeated = repeated
        self._sealed = sealed

    def examine(self, run: Run) -> list[Examined]:
        """As `columns`, with an object for each record."""
        span = cast(Span, Slices(run))  # has all that is read of one here
        return Chunk(span, self.columns(span)).all()

    def columns(self, span: Span) -> Columns:
        """What becomes of each record."""
        columns = self.rules.columns(span)
        changed: set[int] = set()
        repeated: Mapping[Spot, tuple[str, str]] = {}
        if self._repeated is not None and len(span):
            last = span.position(len(span) - 1)
            begin = Place(last.source, span.position(0).offset)
            repeated = self._repeated(begin, Place(last.source, last.offset + max(last.length, 1)))
            offsets = {offset for _, offset, _ in repeated}
            if offsets:
                changed.update([at for at in range(len(span)) if span.position(at).offset in offsets])
        absent = self._absent({*columns.owners})
        if absent:
            pairs = zip(columns.index, columns.owners, strict=True)
            changed.update([at for at, owner in pairs if owner in absent])
        if not changed:
            return columns

        def change(examined: Examined) -> Examined:
            return _without(_without_repeated(examined, repeated), absent, self._sealed)

        return Chunk(span, columns).changed(changed, change)


def _without(examined: Examined, absent: Mapping[str, str], sealed: Sequence[Range]) -> Examined:
    if absent.keys().isdisjoint([record.owner for record in examined.records]):
        return examined
    kept: list[Record] = []
    filtered: list[tuple[str, Tally]] = []
    dead: list[DeadLetter] = []
    for record in examined.records:
        why = absent.get(record.owner, "")
        if why == FILTERED:
            filtered.append((OF_FILTERED, record.tally))
            continue
        for part, inside in cut([record], sealed) if why else [(record, True)]:
            if inside:
                kept.append(part)
            else:
                dead.append(DeadLetter(part.position, part.unit, "owner-" + why, NO_CUSTOMER, part.tally))
    return msgspec.structs.replace(
        examined, records=tuple(kept), filtered=(*examined.filtered, *filtered), dead=(*examined.dead, *dead)
    )


def _without_repeated(examined: Examined, repeated: Mapping[Spot, tuple[str, str]]) -> Examined:
    where = examined.position.source, examined.position.offset
    gone = [(record, found) for record in examined.records if (found := repeated.get((*where, record.unit)))]
    if not gone:
        return examined
    dead = tuple(DeadLetter(it.position, it.unit, code, message, it.tally) for it, (code, message) in gone)
    out = {record.unit for record, _ in gone}
    kept = tuple(record for record in examined.records if record.unit not in out)
    return msgspec.structs.replace(examined, records=kept, dead=examined.dead + dead)


class Reader:
    """Reads, examines and packs one stage from where its progress stands. Synchronous, for a thread of its own.

    What batches hold ahead of the frontier is passed over as it was sealed, whatever a mapping would make of it now.
    `first` is the number of source records to stop behind (a pilot), and `sent` tells in a pilot which owners the
    target has been sent: reading stops before the first record of another, since it would be dropped there. Without an
    `outbox`, a folder, bodies are handed out. `mended`: the mapping is not the one that what lies ahead was made by.
    """

    def __init__(
        self,
        source: Source,
        judge: Judge,
        limits: BatchLimits,
        progress: Progress,
        ahead: Sequence[Range] = (),
        first: int | None = None,
        sent: Container[str] | None = None,
        outbox: Path | None = None,
        mended: bool = False,
    ) -> None:
        rules = judge.rules
        self._judge = judge
        self._batcher = batcher(rules.head, rules.tail, rules.once, limits, progress, ahead)
        self._spans = source.spans(progress.frontier)
        self._ready: deque[Sealing] = deque()
        self._left = None if first is None else max(first - progress.source_records, 0)
        self._cut = False  # whether a record of the last run was left for after the pilot
        self._sent = sent
        self._ahead = sorted(ahead)
        self._outbox = outbox
        self._mended = mended
        self._ended = False
        self.broken: BrokenExport | None = None  # set when the export could not be read to its end
        self.paused = ""  # set when a pilot stopped before the end, to why

    def next(self) -> Sealing | None:
        """The next draft or step of progress, or None when the stage is read as far as it goes."""
        while not self._ready:
            if self._ended:
                return None
            self._read_on()
        sealing = self._ready.popleft()
        if sealing.draft is None or self._outbox is None:
            return sealing
        return msgspec.structs.replace(sealing, draft=write_body(self._outbox, sealing.draft))

    def close(self) -> None:
        """Close the files that are open; the feed must not be used any more."""
        close = getattr(self._spans, "close", None)
        if close is not None:
            close()

    def _read_on(self) -> None:
        if self._left == 0:
            return self._end("the pilot's records are read" if self._more() else "")
        try:
            span = next(self._spans, None)
        except BrokenExport as broken:
            self.broken = broken
            span = None
        if span is None:
            return self._end("")
        if self._left is not None:
            self._cut = len(span) > self._left
            span = span.first(self._left)
            self._left -= len(span)
        if self._ahead or self._sent is not None:
            examined = self._examine(slices(span))
            stranger = self._stranger(examined)
            for it in examined[:stranger]:
                self._ready.extend(self._batcher.add(it))
            if stranger is not None:
                ordinal = examined[stranger].position.ordinal
                return self._end(f"record {ordinal} belongs to a customer that the pilot has not sent")
        else:
            self._ready.extend(self._batcher.take(Chunk(span, self._judge.columns(span))))
        return None

    def _examine(self, run: Run) -> list[Examined]:
        if not self._ahead:
            return self._judge.examine(run)
        inside = [is_within(it.position, self._ahead) for it in run]
        rest = iter(self._judge.examine([it for it, sealed in zip(run, inside, strict=True) if not sealed]))
        examined = [Examined(it.position) if sealed else next(rest) for it, sealed in zip(run, inside, strict=True)]
        if self._mended:
            self._refuse_halves(examined)
        last = run[-1]
        if self._ahead[-1].end[:2] <= (last.source, last.offset + last.length):
            self._ahead = []
        return examined

    def _refuse_halves(self, examined: Sequence[Examined]) -> None:
        """Which units of a source record are sealed is known by their numbers, which a mapping gives."""
        for it in examined:
            if any(inside for _, inside in cut(it.records, self._ahead)):
                raise Unusable(
                    "mapping-changed",
                    f"record {it.position.ordinal} is sealed in part, and the mapping is another one now",
                    "Run the same command with the mapping that it was sealed with until more of the stage is read,"
                    " say with --first.",
                )

    def _more(self) -> bool:
        """Whether the export goes on behind the pilot's records. Where it breaks off there, that is the full run's."""
        try:
            return self._cut or next(self._spans, None) is not None
        except BrokenExport:
            return True

    def _stranger(self, examined: Sequence[Examined]) -> int | None:
        """The index of the first of these that belongs to a customer that the pilot has not sent."""
        sent = self._sent
        if sent is None:
            return None
        return next((at for at, it in enumerate(examined) if any(each.owner not in sent for each in it.records)), None)

    def _end(self, paused: str) -> None:
        self._ended = True
        self.paused = paused
        self._ready.extend(self._batcher.finish())
        self.close()


def first_records(
    source: Source, judge: Judge, count: int, start: Place = START, sealed: Sequence[Range] = ()
) -> list[Record]:
    """The first records of a stage from a place on that would be sent and are not `sealed`, up to `count`, out of the
    next `FIRST` source records that can be read. Raises `Unusable` like `Source.runs`."""
    found: list[Record] = []
    read = 0
    try:
        for run in source.runs(start):
            for examined in judge.examine(run):
                where = examined.position.source, examined.position.offset
                records = [it for it in examined.records if (*where, it.unit) >= start[:3]]
                found += [part for part, inside in cut(records, sealed) if not inside]
            read += len(run)
            if len(found) >= count or read >= FIRST:
                break
    except BrokenExport:
        pass  # it is said when all before the break is sent
    return found[:count]


def owners_until(source: Source, judge: Judge, end: Place) -> set[str]:
    """The owners of what is sent of a stage before a place. Raises like `Source.runs`."""
    owners: set[str] = set()
    for run in source.runs(START):
        mine = [it for it in run if (it.source, it.offset) < end[:2]]
        owners.update(record.owner for it in judge.examine(mine) for record in it.records)
        if len(mine) < len(run):
            break
    return owners


def records_within(source: Source, judge: Judge, ranges: Sequence[Range]) -> list[Record]:
    """The records that lie in these ranges, as they come out of the export now. Raises like `Source.runs`."""
    found: list[Record] = []
    last = ranges[-1].end
    for run in source.runs(ranges[0].begin):
        mine = [it for it in run if (it.source, it.offset) < (last.source, last.offset + bool(last.unit))]
        found += [record for it in judge.examine(mine) for record in select(it, ranges)]
        if len(mine) < len(run):
            break
    return found
