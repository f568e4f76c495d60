"""What became of every unit of an export: one line a unit, which an auditor joins with the source."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import BinaryIO, NamedTuple

import msgspec

from streammig.checkpoint import Checkpoint, Timeline
from streammig.checkpoint.units import MISSED, REVERTED
from streammig.columns import Chunk, LeftOut
from streammig.errors import BrokenExport
from streammig.model import BatchState, DeadLetter, Place, Position, Range, Span
from streammig.report.document import iso
from streammig.sources.source import Source
from streammig.target import Rules

OUTCOMES = {
    BatchState.ACCEPTED: "accepted",
    BatchState.DEAD: "dead",
    BatchState.UNKNOWN: "unknown",
    BatchState.PARKED: "unknown",
}
PENDING, FILTERED, DEAD, NOT_READ = "pending", "filtered", "dead", "not-read"
Point = tuple[int, int, int]
"""File, byte and unit."""


class Line(msgspec.Struct):
    """One unit, or a record that was left out as a whole, with the `units` that it stands for. `id` is the customer's;
    `batch`, `sent` and `answer` are those of the last request that carried it."""

    stage: str
    file: str
    record: int
    byte: int
    unit: int
    units: int
    id: str | None
    outcome: str
    code: str | None = None
    batch: int | None = None
    sent: str | None = None
    answer: str | None = None


class Written(NamedTuple):
    """How many lines were written, and their SHA-256."""

    lines: int
    sha256: str


class Input(NamedTuple):
    """What a stage was read from: source, rules, and the names of its files."""

    source: Source
    rules: Rules
    files: Sequence[str]


def write_records(file: Checkpoint, inputs: Mapping[str, Input], out: BinaryIO) -> Written:
    """Write the lines of all stages in reading order. The export must be what the checkpoint is bound to."""
    digest, count = hashlib.sha256(), 0
    encode = msgspec.json.Encoder().encode
    for name, it in inputs.items():
        for line in _Stage(file, name, it).lines():
            data = encode(line) + b"\n"
            digest.update(data)
            out.write(data)
            count += 1
    return Written(count, digest.hexdigest())


class Carried(NamedTuple):
    """A range with what it is of: the later batch counts, and of one batch what was found of it later."""

    range: Range
    rank: tuple[int, bool]
    outcome: str


class Layers:
    """The carriers of one span: for each place the one that counts."""

    def __init__(self, carried: Sequence[Carried]) -> None:
        self._edges: list[Point] = sorted({edge[:3] for it in carried for edge in it.range})
        self._tops: list[Carried | None] = [None] * len(self._edges)
        for it in sorted(carried, key=lambda each: each.rank):
            begin, end = (bisect_right(self._edges, edge[:3]) - 1 for edge in it.range)
            self._tops[begin:end] = [it] * (end - begin)

    def at(self, point: Point) -> Carried | None:
        found = bisect_right(self._edges, point) - 1
        return self._tops[found] if found >= 0 else None


class _Stage:
    """One pass over the spans of a stage, beside the ranges of its batches and its dead letters."""

    def __init__(self, file: Checkpoint, name: str, inputs: Input) -> None:
        past = Timeline(file)
        self._name, self._source, self._rules, self._files = name, *inputs
        self._frontier = file.progress(name).frontier
        self._sent = past.sent(name)
        self._coming = _sorted_in(past.carried(name), self._beside(file))
        self._letters = _Letters(file.dead_letters(name))
        self._next = next(self._coming, None)
        self._open: list[Carried] = []

    def _beside(self, file: Checkpoint) -> list[Carried]:
        """Units that a verify missed, or that were reverted, on top of the batch that carried them."""
        found = [(it, state) for state in (MISSED, REVERTED) for it in file.beside(self._name, state)]
        return [Carried(each, (it.seq, True), state) for it, state in found for each in it.ranges]

    def lines(self) -> Iterator[Line]:
        try:
            for span in self._source.spans(Place()):
                yield from self._of(span)
        except BrokenExport:
            return  # what is behind the break was never sent

    def _of(self, span: Span) -> Iterator[Line]:
        last = span.position(len(span) - 1)
        layers = self._layers(span.position(0).begin, last.end)
        letters = self._letters.until(last)
        chunk = Chunk(span, self._rules.columns(span))
        left_out: dict[int, list[LeftOut]] = {}
        for it in chunk.columns.left_out:
            left_out.setdefault(it.at, []).append(it)
        for at in range(len(span)):
            record = _Record(self, span.position(at), layers, letters)
            first, end = chunk.rows(at)
            columns = chunk.columns
            for row in range(first, end):
                yield from record.sent(columns.owners[row], columns.unit[row], columns.units[row])
            for each in left_out.get(at, ()):
                yield from record.left_out(each)

    def _layers(self, begin: Place, end: Place) -> Layers:
        """What the batches carry of the places up to `end`."""
        self._open = [it for it in self._open if it.range.end > begin]
        while self._next is not None and self._next.range.begin < end:
            self._open.append(self._next)
            self._next = next(self._coming, None)
        return Layers(self._open)

    def line(self, position: Position, unit: int, units: int, owner: str | None) -> Line:
        file = self._files[position.source]
        return Line(
            stage=self._name, file=file, record=position.ordinal, byte=position.offset,
            unit=unit, units=units, id=owner, outcome=NOT_READ,
        )  # fmt: skip

    def carried(self, line: Line, by: Carried) -> Line:
        """The line of a unit that a batch carried."""
        line.outcome, line.batch = by.outcome, by.rank[0]
        if found := self._sent.get(line.batch):
            line.sent, line.answer = iso(found[0]), found[1]
        return line

    def read(self, position: Position) -> bool:
        return position.begin < self._frontier


@dataclass(frozen=True, slots=True)
class _Record:
    """One source record, beside what the batches of its span carried and the dead letters in it."""

    stage: _Stage
    position: Position
    layers: Layers
    letters: Mapping[Point, DeadLetter]

    def sent(self, owner: str, first: int, units: int) -> Iterator[Line]:
        """The units that the rules let through. What is in no batch and no letter, and read, was filtered with its
        customer."""
        dead: DeadLetter | None = None
        until = first
        for unit in range(first, first + units):
            if (found := self.letters.get((*self._spot, unit))) is not None:
                dead, until = found, unit + max(found.tally.units, 1)
            yield self._line(unit, 1, owner, dead if unit < until else None, FILTERED, None)

    def left_out(self, it: LeftOut) -> Iterator[Line]:
        """What the rules do not let through, as they stand now; a replay may have sent it corrected."""
        owner = it.absent[0][0] if it.absent else None
        for reason, tally in it.filtered:
            yield self._line(0, tally.units, owner, None, FILTERED, reason)
        for letter in it.dead:
            kept = self.letters.get((*self._spot, letter.unit))
            yield self._line(letter.unit, letter.tally.units, owner, kept, FILTERED, None)

    @property
    def _spot(self) -> tuple[int, int]:
        return self.position.source, self.position.offset

    def _line(
        self, unit: int, units: int, owner: str | None, dead: DeadLetter | None, otherwise: str, code: str | None
    ) -> Line:
        line = self.stage.line(self.position, unit, units, owner)
        by = self.layers.at((*self._spot, unit)) if code is None else None
        if by is not None:
            line = self.stage.carried(line, by)
        if dead is not None:
            line.outcome, line.code = DEAD, dead.code
        elif by is None and self.stage.read(self.position):
            line.outcome, line.code = otherwise, code
        return line


class _Letters:
    """The dead letters of a stage, handed out in reading order."""

    def __init__(self, letters: Iterator[tuple[int, DeadLetter]]) -> None:
        self._letters = (letter for _, letter in letters)
        self._next = next(self._letters, None)

    def until(self, last: Position) -> dict[Point, DeadLetter]:
        """Those of the records up to this one, by place."""
        found: dict[Point, DeadLetter] = {}
        while (it := self._next) is not None and (it.position.source, it.position.offset) <= (last.source, last.offset):
            found[it.position.source, it.position.offset, it.unit] = it
            self._next = next(self._letters, None)
        return found


def _sorted_in(carried: Iterator[tuple[Range, int, str]], beside: list[Carried]) -> Iterator[Carried]:
    """Batches' ranges in reading order, with those beside them in their places."""
    waiting = sorted(beside, key=lambda it: it.range, reverse=True)
    for found, seq, state in carried:
        while waiting and waiting[-1].range.begin <= found.begin:
            yield waiting.pop()
        yield Carried(found, (seq, False), OUTCOMES.get(BatchState(state), PENDING))
    yield from reversed(waiting)
