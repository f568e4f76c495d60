"""The reading side of a stage: the next draft of it, and sealed batches again by their ranges."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import deque
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence

import msgspec

from streammig.checkpoint import Spot
from streammig.errors import BrokenExport
from streammig.packing import BatchLimits, Sealing, assemble, cut, halves, packer, ranges_of, select
from streammig.ports import Rules, Source
from streammig.records import START, Batch, DeadLetter, Draft, Examined, Place, Position, Progress, Range, Record, Run

FIRST = 100_000  # source records that are gone through for some to look for: a second, if all of these are filtered

Absent = Callable[[Iterable[str]], Mapping[str, str]]
"""Owners in, those that will not be in the target out, each with the code of the reason."""


def nobody_absent(owners: Iterable[str]) -> Mapping[str, str]:
    return {}


Repeated = Callable[[Place, Place], Mapping[Spot, tuple[str, str]]]
"""The customers between two places that stand twice: their spots to code and message."""


class Judge:
    """What becomes of each slice: the target's rules, then whether its owner will be there at all, or is there already.

    Without state, so that a batch can be rebuilt with the outcome it was built with. What lies in `sealed`, ranges in
    reading order, is in a batch already, and no dead letter though its owner were found to be absent since.
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
        examined = self.rules.examine(run)
        if self._repeated is not None and run:
            last = run[-1]
            begin = Place(run[0].source, run[0].offset)
            repeated = self._repeated(begin, Place(last.source, last.offset + max(last.length, 1)))
            if repeated:
                examined = [_without_repeated(it, repeated) for it in examined]
        if self._absent is nobody_absent:
            return examined
        absent = self._absent({record.owner for it in examined for record in it.records})
        return [_without(it, absent, self._sealed) for it in examined] if absent else examined


def _without(examined: Examined, absent: Mapping[str, str], sealed: Sequence[Range]) -> Examined:
    if absent.keys().isdisjoint([record.owner for record in examined.records]):
        return examined
    kept: list[Record] = []
    gone: list[Record] = []
    for record in examined.records:
        for part, inside in cut([record], sealed) if record.owner in absent else [(record, True)]:
            (kept if inside else gone).append(part)
    dead = tuple(
        DeadLetter(
            record.position,
            record.unit,
            "owner-" + absent[record.owner],
            "its customer is not in the target: the customer's own record was left out or refused, or stands nowhere",
            record.tally,
        )
        for record in gone
    )
    return msgspec.structs.replace(examined, records=tuple(kept), dead=examined.dead + dead)


def _without_repeated(examined: Examined, repeated: Mapping[Spot, tuple[str, str]]) -> Examined:
    where = examined.position.source, examined.position.offset
    gone = [(record, found) for record in examined.records if (found := repeated.get((*where, record.unit)))]
    if not gone:
        return examined
    dead = tuple(DeadLetter(it.position, it.unit, code, message, it.tally) for it, (code, message) in gone)
    out = {record.unit for record, _ in gone}
    kept = tuple(record for record in examined.records if record.unit not in out)
    return msgspec.structs.replace(examined, records=kept, dead=examined.dead + dead)


class Feed:
    """Reads, examines and packs one stage from where its progress stands. Synchronous, for a thread of its own.

    `first` is the number of source records to stop behind (a pilot), and `sent` tells in a pilot which owners the
    target has been sent: reading stops before the first record of another, since it would be dropped there.
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
    ) -> None:
        rules = judge.rules
        self._judge = judge
        self._packer = packer(rules.head, rules.tail, rules.once, limits, progress, ahead)
        self._runs = source.runs(progress.frontier)
        self._ready: deque[Sealing] = deque()
        self._left = None if first is None else max(first - progress.source_records, 0)
        self._cut = False  # whether a record of the last run was left for after the pilot
        self._sent = sent
        self._ended = False
        self.broken: BrokenExport | None = None  # set when the export could not be read to its end
        self.paused = ""  # set when a pilot stopped before the end, to why

    def next(self) -> Sealing | None:
        """The next draft or step of progress, or None when the stage is read as far as it goes."""
        while not self._ready:
            if self._ended:
                return None
            self._read_on()
        return self._ready.popleft()

    def close(self) -> None:
        """Close the files that are open; the feed must not be used any more."""
        close = getattr(self._runs, "close", None)
        if close is not None:
            close()

    def _read_on(self) -> None:
        if self._left == 0:
            return self._end("the pilot's records are read" if self._more() else "")
        try:
            run = next(self._runs, None)
        except BrokenExport as broken:
            self.broken = broken
            run = None
        if run is None:
            return self._end("")
        if self._left is not None:
            self._cut = len(run) > self._left
            run = run[: self._left]
            self._left -= len(run)
        examined = self._judge.examine(run)
        stranger = self._stranger(examined)
        self._ready.extend(self._packer.take(examined[:stranger]))
        if stranger is not None:
            ordinal = examined[stranger].position.ordinal
            return self._end(f"record {ordinal} belongs to a customer that the pilot has not sent")
        return None

    def _more(self) -> bool:
        """Whether the export goes on behind the pilot's records. Where it breaks off there, that is the full run's."""
        try:
            return self._cut or next(self._runs, None) is not None
        except BrokenExport:
            return True

    def _stranger(self, examined: Sequence[Examined]) -> int | None:
        """The index of the first of these that belongs to a customer whom the pilot has not sent."""
        sent = self._sent
        if sent is None:
            return None
        return next((at for at, it in enumerate(examined) if any(each.owner not in sent for each in it.records)), None)

    def _end(self, paused: str) -> None:
        self._ended = True
        self.paused = paused
        self._ready.extend(self._packer.finish())
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


def reread(source: Source, judge: Judge, batches: Sequence[Batch]) -> list[list[Record]]:
    """The records of each of these batches, read again from the export in one pass.

    What they have become since then (another mapping, another version) shows as other bytes: compare digests.
    Raises like `Source.runs`.
    """
    found = dict(_reread_each(source, judge, batches))
    return [found.get(index, []) for index in range(len(batches))]


def otherwise(
    source: Source, rules: Rules, judge: Judge, batches: Sequence[Batch], apart: Callable[[Batch], Container[Spot]],
    stopped: Callable[[], bool] = lambda: False,
) -> list[Batch]:  # fmt: skip
    """Those of these batches that do not come out of the export any more as they were sealed.

    One pass that holds what the packer held: the records of a batch only from its first to its last. `apart` gives the
    spots of records that were no part of a batch though they stand within its ranges. Ends early, with none, once it
    is `stopped`.
    """
    same = set()
    for index, records in _reread_each(source, judge, batches):
        if stopped():
            return []
        batch, out = batches[index], apart(batches[index])
        kept = [it for it in records if (it.position.source, it.position.offset, it.unit) not in out]
        if assemble(kept, rules.head, rules.tail).digest == batch.digest:
            same.add(index)
    return [batch for index, batch in enumerate(batches) if index not in same]


def _reread_each(source: Source, judge: Judge, batches: Sequence[Batch]) -> Iterator[tuple[int, list[Record]]]:
    """Each batch's index with its records, as soon as all of them are read."""
    wanted = sorted((piece, index) for index, batch in enumerate(batches) for piece in batch.ranges)
    if not wanted:
        return
    begins = [piece.begin for piece, _ in wanted]
    ends = deque(sorted((batch.ranges[-1].end[:2], index) for index, batch in enumerate(batches) if batch.ranges))
    found: dict[int, list[Record]] = {index: [] for _, index in ends}
    # Ranges of one stage never overlap, but several can share a record that was split between their batches.
    last = max(piece.end for piece, _ in wanted)
    for run in _runs(source, begins[0], last):
        for examined in judge.examine([it for it in run if _touches(it.source, it.offset, it.length, wanted, begins)]):
            position = examined.position
            while ends and ends[0][0] < (position.source, position.offset):
                index = ends.popleft()[1]
                yield index, found.pop(index)
            for index in _holders(position, wanted, begins) & found.keys():
                found[index].extend(select(examined, batches[index].ranges))
    yield from found.items()


def _holders(it: Position, wanted: Sequence[tuple[Range, int]], begins: Sequence[tuple[int, ...]]) -> set[int]:
    """Whose ranges begin within a record; and the last one before it, which may reach into it."""
    low = bisect_left(begins, (it.source, it.offset))
    high = bisect_left(begins, (it.source, it.offset + max(it.length, 1)))
    return {index for _, index in wanted[max(low - 1, 0) : high]}


def examined_again(source: Source, judge: Judge, batch: Batch) -> Iterator[Examined]:
    """What becomes now of each source record in a batch's ranges."""
    begins = [piece.begin for piece in batch.ranges]
    wanted = [(piece, 0) for piece in batch.ranges]
    for run in _runs(source, begins[0], batch.ranges[-1].end):
        yield from judge.examine([it for it in run if _touches(it.source, it.offset, it.length, wanted, begins)])


def _runs(source: Source, begin: Place, end: Place) -> Iterator[Run]:
    """The slices from one place to another, and nothing behind: the export may break off there."""
    for run in source.runs(begin):
        mine = [piece for piece in run if (piece.source, piece.offset) < (end.source, end.offset + bool(end.unit))]
        yield mine
        behind = run[-1].offset + run[-1].length
        if len(mine) < len(run) or (run[-1].source, behind + (not end.unit)) > end[:2]:
            return


def _touches(
    source: int, offset: int, length: int, wanted: Sequence[tuple[Range, int]], begins: Sequence[tuple[int, ...]]
) -> bool:
    """Whether a record has units in one of the ranges: one begins inside it, or the last one before it reaches it."""
    at = bisect_right(begins, (source, offset + max(length, 1) - 1, 1 << 62, 0)) - 1
    return at >= 0 and wanted[at][0].end > (source, offset, 0, 0)


def reseal(rules: Rules, limits: BatchLimits, records: list[Record]) -> tuple[list[Draft], list[DeadLetter]]:
    """Drafts that hold just these records, within the limits: for a batch that can't be rebuilt as it was sealed."""
    if not records:
        return [], []
    draft = assemble(records, rules.head, rules.tail, ranges_of(records))
    if draft.tally.units <= limits.units and len(draft.body) <= limits.bytes:
        return [draft], []
    parts = halves(records)
    if not parts[1]:
        message = "sealed anew, this customer's records alone are more than a batch may hold"
        return [], [DeadLetter(it.position, it.unit, "too-large", message, it.tally) for it in records]
    first, second = (reseal(rules, limits, part) for part in parts)
    return first[0] + second[0], first[1] + second[1]
