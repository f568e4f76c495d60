"""What became of every unit of an export: one line a unit, which an auditor joins with the source."""

from __future__ import annotations

import hashlib
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import merge
from typing import BinaryIO, Generic, NamedTuple, TypeVar

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
T = TypeVar("T")
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


class _Ahead(Generic[T]):
    """Items in reading order, handed out as reading comes to them."""

    def __init__(self, items: Iterator[T]) -> None:
        self._items = items
        self._next = next(items, None)

    def taken(self, are_reached: Callable[[T], bool]) -> Iterator[T]:
        while self._next is not None and are_reached(self._next):
            yield self._next
            self._next = next(self._items, None)


class _Unit(NamedTuple):
    """A unit of a record, or `units` that were left out together; the letter that it became, if any, and the reason why
    the rules filter it."""

    unit: int
    units: int
    owner: str | None
    letter: DeadLetter | None = None
    reason: str | None = None


class _Stage:
    """One pass over the spans of a stage, beside the ranges of its batches and its dead letters."""

    def __init__(self, file: Checkpoint, name: str, inputs: Input) -> None:
        past = Timeline(file)
        self._name, self._source, self._rules, self._files = name, *inputs
        self._frontier = file.progress(name).frontier
        self._sent = past.sent(name)
        self._coming = _Ahead(_sorted_in(past.carried(name), self._beside(file)))
        self._letters = _Ahead(letter for _, letter in file.dead_letters(name))
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
        begin, last = span.position(0).begin, span.position(len(span) - 1)
        upto = _point(last, 0)
        self._open = [it for it in self._open if it.range.end > begin]
        self._open += self._coming.taken(lambda it: it.range.begin < last.end)
        layers = Layers(self._open)
        found = self._letters.taken(lambda it: _point(it.position, 0) <= upto)
        letters = {_point(it.position, it.unit): it for it in found}
        chunk = Chunk(span, self._rules.columns(span))
        left_out: dict[int, list[LeftOut]] = {}
        for it in chunk.columns.left_out:
            left_out.setdefault(it.at, []).append(it)
        for at in range(len(span)):
            position = span.position(at)
            units = [*_let_through(chunk, at, position, letters), *_left_out(left_out.get(at, ()), position, letters)]
            for unit in units:
                yield self._line(position, unit, layers)

    def _line(self, position: Position, it: _Unit, layers: Layers) -> Line:
        """What became of a unit, as the rules stand now: a replay may have sent it corrected. What was read, and is in
        no batch and no letter, was filtered, perhaps with its customer."""
        line = Line(
            stage=self._name, file=self._files[position.source], record=position.ordinal, byte=position.offset,
            unit=it.unit, units=it.units, id=it.owner, outcome=NOT_READ,
        )  # fmt: skip
        by = layers.at(_point(position, it.unit)) if it.reason is None else None
        if by is not None:
            line.outcome, line.batch = by.outcome, by.rank[0]
            if found := self._sent.get(line.batch):
                line.sent, line.answer = iso(found[0]), found[1]
        if it.letter is not None:
            line.outcome, line.code = DEAD, it.letter.code
        elif by is None and position.begin < self._frontier:
            line.outcome, line.code = FILTERED, it.reason
        return line


def _point(position: Position, unit: int) -> Point:
    return position.source, position.offset, unit


def _let_through(chunk: Chunk, at: int, position: Position, letters: Mapping[Point, DeadLetter]) -> Iterator[_Unit]:
    """The units of a record that the rules let through."""
    first, end = chunk.rows(at)
    columns = chunk.columns
    for row in range(first, end):
        letter: DeadLetter | None = None
        upto = begin = columns.unit[row]
        for unit in range(begin, begin + columns.units[row]):
            if (found := letters.get(_point(position, unit))) is not None:
                letter, upto = found, unit + max(found.tally.units, 1)
            yield _Unit(unit, 1, columns.owners[row], letter if unit < upto else None)


def _left_out(parts: Iterable[LeftOut], position: Position, letters: Mapping[Point, DeadLetter]) -> Iterator[_Unit]:
    """The units of a record that the rules do not let through."""
    for it in parts:
        owner = it.absent[0][0] if it.absent else None
        for reason, tally in it.filtered:
            yield _Unit(0, tally.units, owner, reason=reason)
        for letter in it.dead:
            yield _Unit(letter.unit, letter.tally.units, owner, letters.get(_point(position, letter.unit)))


def _sorted_in(carried: Iterator[tuple[Range, int, str]], beside: list[Carried]) -> Iterator[Carried]:
    """Batches' ranges in reading order, with those beside them in their places."""
    found = (Carried(each, (seq, False), OUTCOMES.get(BatchState(state), PENDING)) for each, seq, state in carried)
    return merge(sorted(beside, key=lambda it: it.range), found, key=lambda it: it.range.begin)
