"""Spans made of any records, and the records of spans one by one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from itertools import accumulate
from typing import NamedTuple

from streammig.batching import Batcher, Sealing
from streammig.columns import Chunk, Columns
from streammig.model import START, Examined, Place, Position, Span
from streammig.sources.source import Source
from streammig.target import Rules


class Slice(NamedTuple):
    """One source record, or where `fault` is set what is none."""

    source: int
    offset: int
    ordinal: int
    length: int
    data: bytes
    code: str = ""
    fault: str = ""

    @property
    def position(self) -> Position:
        return Position(self.source, self.offset, self.length, self.ordinal)


def slices(span: Span) -> list[Slice]:
    found = []
    for at, data in enumerate(span.cut(0, len(span))):
        place = span.position(at)
        _, code, fault = span.faults.get(at, (0, "", ""))
        found.append(Slice(place.source, place.offset, place.ordinal, place.length, data, code, fault))
    return found


def records_of(source: Source, start: Place = START) -> Iterator[Slice]:
    for span in source.spans(start):
        yield from slices(span)


def span_of(run: Iterable[Slice]) -> Span:
    """A span of records of one file, wherever they stand in it."""
    run = list(run)
    starts = list(accumulate([len(it.data) + 1 for it in run[:-1]], initial=0))
    ends = [start + len(it.data) for start, it in zip(starts, run, strict=True)]
    faults = {at: (it.length, it.code, it.fault) for at, it in enumerate(run) if it.fault}
    return Span(
        run[0].source, run[0].offset, b",".join([it.data for it in run]), starts, ends, [it.ordinal for it in run],
        faults, [(it.offset, it.length) for it in run],
    )  # fmt: skip


def examine(rules: Rules, run: Iterable[Slice]) -> list[Examined]:
    """What the rules make of each record."""
    span = span_of(run)
    return Chunk(span, rules.columns(span)).all()


def chunk_of(run: Iterable[Examined]) -> Chunk:
    """A span of source records of one file of which this became, with its columns."""
    columns, found = Columns(), list(run)
    for at, each in enumerate(found):
        columns.add(at, each)
    return Chunk(span_of([Slice(*_of(it.position), b"") for it in found]), columns)


def add(batcher: Batcher, it: Examined) -> list[Sealing]:
    """What a batcher hands out as it takes this source record alone."""
    return batcher.take(chunk_of([it]))


def _of(it: Position) -> tuple[int, int, int, int]:
    return it.source, it.offset, it.ordinal, it.length
