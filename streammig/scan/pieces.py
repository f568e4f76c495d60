"""The map of a scan, from a piece of a stage to its findings. Pure: it may be repeated, in any process."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from streammig.columns import Chunk
from streammig.dedup import Scanned, rows_of, shift_ordinals, sums_of
from streammig.dedup.scan import FIXED, remap_reasons
from streammig.errors import BrokenExport, Unusable
from streammig.model import Place, Span
from streammig.scan.looks import Look
from streammig.sources import FileSource
from streammig.sources.source import Break, Source
from streammig.target import Rules

PIECE_BYTES = 8 << 20


class Piece(NamedTuple):
    """The records of a file that begin at `begin` or later, and before the offset `stop`; None: to the file's end."""

    begin: Place
    stop: int | None = None


class NoteMaker(Protocol):
    """Collects more from each span, for a check. It and its notes can be pickled."""

    def begin(self) -> Any:
        """Make an empty note."""
        ...

    def take(self, note: Any, chunk: Chunk) -> None:
        """Add a span, with the columns that the rules made of it, to a note."""
        ...


@dataclass(frozen=True, slots=True)
class Map:
    """What to do with each span. `key` is the key of the rows' hashes; without one no rows are made."""

    source: Source
    rules: Rules
    key: bytes = b""
    note_maker: NoteMaker | None = None

    def part(self, spans: Iterable[Span] = (), *, broken: list[BrokenExport] | None = None) -> Part:
        """Map these spans. `broken` is filled while they are read."""
        part = Part(note=self.note_maker.begin() if self.note_maker is not None else None)
        for span in spans:
            self.take(part, span)
        part.breaks = [Break.of(it) for it in broken or ()]
        return part

    def take(self, part: Part, span: Span) -> None:
        part.records += len(span)
        if not self.key and self.note_maker is None and part.look.kept:
            return
        columns = self.rules.columns(span)
        part.look.take(span, columns, self.rules)
        chunk = Chunk(span, columns)
        if self.key:
            scanned = rows_of(chunk, self.key, sums_of(self.rules, chunk, self.key))
            part.rows.append(remap_reasons(scanned, part.reasons))
        if self.note_maker is not None:
            self.note_maker.take(part.note, chunk)


@dataclass(slots=True)
class Part:
    """The findings in a piece. `end` is where the next piece begins; None after the last record of a file.

    A worker does not know how many records come before its piece, so it counts ordinals from 0. `counted`, set later,
    is that number of records.
    """

    records: int = 0
    rows: list[bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=lambda: list(FIXED))
    look: Look = field(default_factory=Look)
    breaks: list[Break] = field(default_factory=list)
    note: Any = None
    end: Place | None = None
    counted: int = 0

    def scanned(self) -> Scanned:
        """Return the rows, with their true ordinals."""
        return Scanned(self.records, shift_ordinals(b"".join(self.rows), self.counted), tuple(self.reasons))


def whole_part(job: Map, piece: Piece) -> Part:
    """Map a piece of a `FileSource`."""
    assert isinstance(job.source, FileSource)
    broken: list[BrokenExport] = []
    ends: list[Place] = []
    part = job.part(_within(job.source.of_file(piece.begin, broken.append), piece, ends), broken=broken)
    part.end = ends[0] if ends else None
    return part


def _within(spans: Iterator[Span], piece: Piece, ends: list[Place]) -> Iterator[Span]:
    """Give the spans of a piece; put the place of the record after it into `ends`."""
    stop = piece.begin._replace(offset=piece.stop) if piece.stop is not None else None
    for span in spans:
        count = span.before(stop) if stop is not None else len(span)
        if count:
            yield span.part(0, count)
        if count < len(span):
            ends.append(span.position(count).begin)
            getattr(spans, "close", int)()  # a generator closes its file
            return


# -- in another process ------------------------------------------------------------------------------------------------


def packed(job: Map, *, remote: bool) -> bytes:
    """Pack the map for another process; `remote`: on another machine."""
    return pickle.dumps((job, os.getcwd() if remote else ""))


def of_piece(recipe: bytes, piece: Piece) -> Part:
    """As `whole_part`, with a packed map."""
    return whole_part(_unpacked(recipe), piece)


def of_spans(recipe: bytes, spans: Iterable[Span]) -> Part:
    """Map spans that another process read, with a packed map."""
    return _unpacked(recipe).part(spans)


@lru_cache(maxsize=2)
def _unpacked(recipe: bytes) -> Map:
    """Unpack the map, once for all its pieces. Raises `Unusable` if this process can't open its files."""
    try:
        job, folder = pickle.loads(recipe)
        if folder:
            return Map(job.source.here(folder), job.rules, job.key, job.note_maker)
    except OSError as error:
        raise Unusable("worker-unfit", f"{error.filename}: a worker can't open it: {error.strerror}") from None
    made: Map = job
    return made
