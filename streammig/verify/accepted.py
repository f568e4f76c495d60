"""The accepted records of an export: one pass over its spans and the ranges of accepted batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from streammig.batching import cut
from streammig.columns import Chunk, Columns
from streammig.errors import BrokenExport
from streammig.model import START, Place, Range, Record, Span
from streammig.sources.source import Source
from streammig.target import Rules
from streammig.verify.work import Item

Ranges = Callable[[str, int, int, int], tuple[list[Range], list[int]]]
"""The ranges of a stage's accepted batches in reading order, by file and bytes, and the numbers of those batches."""


class Wanted(NamedTuple):
    """The records of a sample: all of these owners, and those at places (file and offset)."""

    owners: Container[str]
    places: Container[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Passage:
    """The accepted records of one stage, in reading order. Synchronous, for the thread that reads.

    The rules are the run's own: with the same mapping they make each record as it was sent. A record that was never
    sent, or not accepted, lies in none of the ranges.
    """

    stage: str
    source: Source
    rules: Rules
    ranges: Ranges

    def items(self, start: Place = START, wanted: Wanted | None = None, corrected: bool = False) -> Iterator[Item]:
        """Each record, or part of one, that an accepted batch carried, from a place on. `wanted` leaves out others.
        `corrected` adds dead letters that a retry has sent corrected: of what was sent only the owner is known, and
        that only where it was right."""
        try:
            for span in self.source.spans(start):
                yield from self._of(span, wanted, corrected)
        except BrokenExport:
            pass  # records behind the break were never sent

    def _of(self, span: Span, wanted: Wanted | None, corrected: bool) -> Iterator[Item]:
        ranges, seqs = self.ranges(self.stage, span.source, span.position(0).offset, span.end.offset)
        if not ranges:
            return
        chunk = Chunk(span, self.rules.columns(span))
        records = self._records(span, chunk, wanted)
        if corrected and chunk.columns.left_out:
            records = iter(sorted([*records, *_letters(chunk.columns)], key=lambda it: it.begin))
        for record in records:
            for part, inside in cut([record], ranges):
                if inside:
                    yield Item(part, seqs[_home(part, ranges)])

    @staticmethod
    def _records(span: Span, chunk: Chunk, wanted: Wanted | None) -> Iterator[Record]:
        if wanted is None:
            yield from chunk.records(0, len(chunk.columns))
            return
        owners, places = wanted
        for row, (owner, at) in enumerate(zip(chunk.columns.owners, chunk.columns.index, strict=True)):
            if owner in owners or (places and span.position(at).begin[:2] in places):
                yield from chunk.records(row, row + 1)


def _letters(columns: Columns) -> Iterator[Record]:
    """The dead letters of records whose owners are known, and of which nothing else is."""
    for it in columns.left_out:
        if len(it.dead) == len(it.absent):
            for letter, (owner, _) in zip(it.dead, it.absent, strict=True):
                yield Record(letter.position, letter.unit, owner, b"{}", 1)


def _home(part: Record, ranges: list[Range]) -> int:
    """The index of the range that a part lies in."""
    place = part.position.source, part.position.offset, part.unit
    return bisect_right(ranges, place, key=lambda it: it.begin[:3]) - 1
