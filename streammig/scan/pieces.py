"""The map of a scan: what is found in a piece of a stage. Pure and idempotent: it may be done again, in any process."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from streammig.columns import Chunk
from streammig.dedup import Scanned, counted_on, rows_of, sums_of
from streammig.dedup.scan import FIXED, renumbered
from streammig.errors import BrokenExport, Unusable
from streammig.model import Place, Span
from streammig.scan.findings import Break
from streammig.scan.looks import Look
from streammig.sources import FileSource
from streammig.sources.source import Source
from streammig.target import Rules

PIECE_BYTES = 8 << 20


class Piece(NamedTuple):
    """The records of a file that begin from a place on, up to an offset; None: up to the file's end."""

    begin: Place
    stop: int | None = None


class Noting(Protocol):
    """What else is to be noted of each span. Fit for another process, and so is the note."""

    def begin(self) -> Any:
        """An empty note."""
        ...

    def take(self, note: Any, chunk: Chunk) -> None:
        """Add to a note what the rules have made of a span."""
        ...


@dataclass(frozen=True, slots=True)
class Map:
    """What is done with each span. `key` is that of the rows' hashes; without one there are no rows."""

    source: Source
    rules: Rules
    key: bytes = b""
    noting: Noting | None = None

    def part(self, spans: Iterable[Span] = (), *, told: list[BrokenExport] | None = None) -> Part:
        """What is found in these spans; `told` is filled while they are read."""
        part = Part(note=self.noting.begin() if self.noting is not None else None)
        for span in spans:
            self.take(part, span)
        part.breaks = [Break.of(it) for it in told or ()]
        return part

    def take(self, part: Part, span: Span) -> None:
        part.records += len(span)
        if not self.key and self.noting is None and part.look.kept:
            return
        columns = self.rules.columns(span)
        part.look.take(span, columns, self.rules)
        chunk = Chunk(span, columns)
        if self.key:
            scanned = rows_of(chunk, self.key, sums_of(self.rules, chunk, self.key))
            part.rows.append(renumbered(scanned, part.reasons))
        if self.noting is not None:
            self.noting.take(part.note, chunk)


@dataclass(slots=True)
class Part:
    """What was found in a piece. Its ordinals go on from `counted`, that of the last record before it: a worker that
    can't know it counts from 0. `end` is where the next piece begins; None behind a file's last record."""

    records: int = 0
    rows: list[bytes] = field(default_factory=list)
    reasons: list[str] = field(default_factory=lambda: list(FIXED))
    look: Look = field(default_factory=Look)
    breaks: list[Break] = field(default_factory=list)
    note: Any = None
    end: Place | None = None
    counted: int = 0

    def scanned(self) -> Scanned:
        """The rows, as they are where the piece stands."""
        return Scanned(self.records, counted_on(b"".join(self.rows), self.counted), tuple(self.reasons))


def whole_part(job: Map, piece: Piece) -> Part:
    """What is found in a piece of a `FileSource`."""
    assert isinstance(job.source, FileSource)
    told: list[BrokenExport] = []
    ends: list[Place] = []
    part = job.part(_within(job.source.of_file(piece.begin, told.append), piece, ends), told=told)
    part.end = ends[0] if ends else None
    return part


def _within(spans: Iterator[Span], piece: Piece, ends: list[Place]) -> Iterator[Span]:
    """The spans of a piece, and in `ends` the place of the record behind it."""
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
    """The map for another process; `remote`: on another machine."""
    return pickle.dumps((job, os.getcwd() if remote else ""))


def of_piece(recipe: bytes, piece: Piece) -> Part:
    """As `whole_part`, of a packed map."""
    return whole_part(_unpacked(recipe), piece)


def of_spans(recipe: bytes, spans: Iterable[Span]) -> Part:
    """What a packed map finds in spans that were read elsewhere."""
    return _unpacked(recipe).part(spans)


@lru_cache(maxsize=2)
def _unpacked(recipe: bytes) -> Map:
    """The map, made once for all its pieces. Raises `Unusable` where this process can't see its files."""
    try:
        job, folder = pickle.loads(recipe)
        if folder:
            return Map(job.source.here(folder), job.rules, job.key, job.noting)
    except OSError as error:
        raise Unusable("worker-unfit", f"{error.filename}: a worker can't open it: {error.strerror}") from None
    made: Map = job
    return made
