"""Reads a stage: makes drafts of batches from the export, and writes their bodies to the outbox."""

from __future__ import annotations

from collections import deque
from collections.abc import Container, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import msgspec

from streammig.batching import BatchLimits, Buried, Sealing, batcher, cut, is_within, nothing, select, touches
from streammig.checkpoint import write_body
from streammig.columns import Chunk, Columns
from streammig.errors import BrokenExport, Problem, Unusable
from streammig.model import START, Draft, Place, Progress, Range, Record, Span
from streammig.sources.source import Source
from streammig.target import Rules

BEHIND = 2  # bodies that are made while an earlier one is written
FIRST = 100_000  # source records that a search for the first sendable ones may read; this takes about a second


class Reader:
    """Reads, judges and packs one stage from its progress on. Synchronous, for a thread of its own.

    - `ahead`: ranges of batches sealed beyond the frontier. Their records are passed over, even if the mapping would
      change them now
    - `first`: in a pilot, the number of source records after which to stop
    - `sent`: in a pilot, the owners that were sent. Their records are read from the whole export. Records of others
      are left for the full run, because the target would drop them
    - `outbox`: the folder for bodies; without one, drafts hold their bodies
    - `mended`: the mapping has changed since `ahead` was sealed
    - `buried`: tells which records were dead letters before
    """

    def __init__(
        self,
        source: Source,
        rules: Rules,
        limits: BatchLimits,
        progress: Progress,
        ahead: Sequence[Range] = (),
        first: int | None = None,
        sent: Container[str] | None = None,
        outbox: Path | None = None,
        mended: bool = False,
        buried: Buried = nothing,
    ) -> None:
        self._rules = rules
        self._batcher = batcher(rules.head, rules.tail, rules.once, limits, progress, ahead, buried)
        self._source, self._spans = source, source.spans(progress.frontier)
        self._ready: deque[Sealing] = deque()
        self._left = None if first is None or sent is not None else max(first - progress.source_records, 0)
        self._cut = False  # whether the pilot has left records of the last span
        self._sent = sent
        self._others = False  # whether the pilot has left records of other owners
        self._outbox = outbox
        self._writer = ThreadPoolExecutor(1) if outbox is not None else None
        self._next_ones: deque[tuple[Sealing, Future[Draft] | None]] = deque()  # each with the writing of its body
        self._problem: Problem | None = None  # to raise after `_next_ones`
        self._mended = mended
        self._ended = False
        self.broken: BrokenExport | None = None  # set if the export breaks off
        self.paused = ""  # the reason why a pilot has stopped before the end

    @property
    def ready(self) -> bool:
        """Whether the next draft is made, so that `next` waits for its writing at most."""
        return bool(self._next_ones or self._ready)

    def next(self) -> Sealing | None:
        """The next draft or step of progress; None at the end. Raises the `Problem` that ends the reading.

        While a body is written and synced, the next ones are read: both take about the same time.
        """
        most = 1 if self._writer is None else BEHIND + 1
        while len(self._next_ones) < most and (sealing := self._made()) is not None:
            self._next_ones.append((sealing, self._writing(sealing.draft)))
        if not self._next_ones:
            if self._problem is not None:
                raise self._problem
            return None
        sealing, writing = self._next_ones.popleft()
        return sealing if writing is None else Sealing(writing.result(), sealing.progress)

    def _made(self) -> Sealing | None:
        """The next draft with its body in memory; None at the end or after a problem."""
        try:
            while not self._ready:
                if self._ended or self._problem is not None:
                    return None
                self._read_on()
        except Problem as problem:
            self._problem = problem
            return None
        draft, progress = msgspec.structs.astuple(self._ready.popleft())
        before = self._source.before(progress.frontier)
        return Sealing(draft, msgspec.structs.replace(progress, before=before))

    def _writing(self, draft: Draft | None) -> Future[Draft] | None:
        if self._writer is None or self._outbox is None or draft is None:
            return None
        return self._writer.submit(write_body, self._outbox, draft)

    def close(self) -> None:
        """Close all open files. The reader can't be used any more."""
        if self._writer is not None:
            self._writer.shutdown(cancel_futures=True)  # wait, so that the run's last sweep finds every file
        self._close_files()

    def _close_files(self) -> None:
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
            return self._end("the records of the pilot's customers are read" if self._others else "")
        if self._left is not None:
            self._cut = len(span) > self._left
            span = span.part(0, self._left)
            self._left -= len(span)
        for sealed, part in self._parts(span):
            if sealed:
                self._ready.extend(self._batcher.pass_over(part))
            else:
                self._take(part)
        return None

    def _parts(self, span: Span) -> Iterator[tuple[bool, Span]]:
        """Split the span into parts, each with whether it was sealed ahead of the frontier."""
        ahead = self._batcher.ahead
        if not ahead:
            yield False, span
            return
        yield from _runs(span, [is_within(span.position(at), ahead) for at in range(len(span))])

    def _take(self, span: Span) -> None:
        """Pack these records. In a pilot, pack only those of the owners that were sent."""
        if self._mended:
            self._refuse_halves(span)
        columns = self._rules.columns(span)
        if self._sent is None:
            self._ready.extend(self._batcher.take(Chunk(span, columns)))
            return
        for mine, part in _runs(span, self._is_pilots(columns, len(span))):
            if mine:
                self._ready.extend(self._batcher.take(Chunk(part, self._rules.columns(part))))
            else:
                self._ready.extend(self._batcher.leave(part))

    def _is_pilots(self, columns: Columns, count: int) -> list[bool]:
        """For each source record, whether the pilot takes it.

        After the first record that is left, records with filtered or dead parts are left too: those parts count only
        once the frontier passes them.
        """
        index, sent = columns.index, self._sent or ()
        others = {at for at, owner in zip(index, columns.owners, strict=True) if owner not in sent}
        clean = {*index} - others - {it.at for it in columns.left_out}
        first = -1 if self._others else min(others, default=count)
        self._others |= bool(others)
        return [at < first or at in clean for at in range(count)]

    def _refuse_halves(self, span: Span) -> None:
        """Raise `Unusable` for a source record that is sealed in part: a changed mapping may renumber its units."""
        half = next((at for at in range(len(span)) if touches(span.position(at), self._batcher.ahead)), None)
        if half is not None:
            raise Unusable(
                "mapping-changed",
                f"record {span.ordinals[half]} is sealed in part, and the mapping is another one now",
                "Run the same command with the mapping that it was sealed with until more of the stage is read,"
                " say with --first.",
            )

    def _more(self) -> bool:
        """Whether the export goes on after the pilot's records. A break there counts: the full run reports it."""
        try:
            return self._cut or next(self._spans, None) is not None
        except BrokenExport:
            return True

    def _end(self, paused: str) -> None:
        self._ended = True
        self.paused = paused
        self._ready.extend(self._batcher.finish())
        self._close_files()


def _runs(span: Span, marks: Sequence[bool]) -> Iterator[tuple[bool, Span]]:
    """Split the span where the mark of a record differs from the one before. Yields each part with its mark."""
    begin = 0
    for mark, run in groupby(marks):
        end = begin + len([*run])
        yield mark, span.part(begin, end)
        begin = end


def first_records(
    source: Source, rules: Rules, count: int, start: Place = START, sealed: Sequence[Range] = ()
) -> list[Record]:
    """The first records from a place on that would be sent and are not `sealed`, up to `count`.

    Reads at most `FIRST` source records. Raises `Unusable` like `Source.spans`.
    """
    found: list[Record] = []
    read = 0
    try:
        for span in source.spans(start):
            records = [it for it in Chunk(span, rules.columns(span)).records() if it.begin[:3] >= start[:3]]
            found += [part for part, inside in cut(records, sealed) if not inside]
            read += len(span)
            if len(found) >= count or read >= FIRST:
                break
    except BrokenExport:
        pass  # the run reports it after sending everything before the break
    return found[:count]


def first_objects(source: Source) -> Iterator[Any]:
    """The first `FIRST` source records as Python objects, up to a break. Invalid JSON is left out."""
    with suppress(BrokenExport):
        for record in islice((record for span in source.spans() for record in span.cut(0, len(span))), FIRST):
            with suppress(msgspec.DecodeError, UnicodeDecodeError, RecursionError):
                yield msgspec.json.decode(record)


def owners_until(source: Source, rules: Rules, end: Place) -> set[str]:
    """The owners of records to send before a place. Raises like `Source.spans`."""
    owners: set[str] = set()
    for span in _until(source, START, end):
        owners.update(rules.columns(span).owners)
    return owners


def records_within(source: Source, rules: Rules, ranges: Sequence[Range]) -> list[Record]:
    """Read the records of these ranges again from the export. Raises like `Source.spans`."""
    found: list[Record] = []
    last = ranges[-1].end
    for span in _until(source, ranges[0].begin, last._replace(offset=last.offset + bool(last.unit))):
        found += select(Chunk(span, rules.columns(span)).records(), ranges)
    return found


def _until(source: Source, start: Place, end: Place) -> Iterator[Span]:
    """The spans between two places."""
    for span in source.spans(start):
        mine = span.part(0, span.before(end))
        if mine:
            yield mine
        if len(mine) < len(span):
            break
