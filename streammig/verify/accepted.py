"""What of an export was accepted: one pass over its spans, beside the ranges of accepted batches."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Container, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from streammig.batching import cut
from streammig.columns import Chunk
from streammig.errors import BrokenExport
from streammig.model import START, Place, Range, Record, Span
from streammig.sources.source import Source
from streammig.target import Rules
from streammig.verify.work import Item

Ranges = Callable[[str, int, int, int], tuple[list[Range], list[int]]]
"""The ranges of a stage's accepted batches in reading order, by file and bytes, and the numbers of those batches."""


class Wanted(NamedTuple):
    """What a sample takes: all that belongs to these owners, and source records by file and offset."""

    owners: Container[str]
    places: Container[tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Passage:
    """A stage of an export, read once from a place on. Synchronous, for the thread that reads.

    The rules are the run's own, so a record is what was sent, as long as its mapping is the same. What was never sent,
    or not accepted, lies in none of the ranges.
    """

    stage: str
    source: Source
    rules: Rules
    ranges: Ranges

    def items(self, start: Place = START, wanted: Wanted | None = None) -> Iterator[Item]:
        """Each record, or the part of one, that an accepted batch carried, or of those only what is wanted."""
        try:
            for span in self.source.spans(start):
                yield from self._of(span, wanted)
        except BrokenExport:
            pass  # what is behind the break was never sent

    def _of(self, span: Span, wanted: Wanted | None) -> Iterator[Item]:
        end = span.offset + span.ends[-1]
        ranges, seqs = self.ranges(self.stage, span.source, span.offset, end)
        if not ranges:
            return
        chunk = Chunk(span, self.rules.columns(span))
        for record in self._records(span, chunk, wanted):
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


def _home(part: Record, ranges: list[Range]) -> int:
    """The index of the range that a part lies in."""
    place = part.position.source, part.position.offset, part.unit
    return bisect_right(ranges, place, key=lambda it: it.begin[:3]) - 1
