"""The sizes of what would be sent: all that a batcher needs to plan the requests, in some 30 bytes for each row."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, compress, pairwise
from math import inf
from typing import NamedTuple

from streammig.batching import Batcher, Bounds
from streammig.columns import Chunk, Columns
from streammig.dedup.scan import HASH, hasher
from streammig.model import DeadLetter, Place, Record, Span

Spot = tuple[int, int]  # of a row in its file: the offset of its record, and its first unit


def _numbers() -> array[int]:
    return array("I")


@dataclass(slots=True)
class Outline:
    """The rows of some spans of one file, in reading order. Ordinals go on from `counted`.

    `owners` and `uniques` are hashes one behind the other, empty where no two rows can share one. `inner` has two
    numbers for each row that has a list of units. `bounds` has two for each unit of a list that a request's bytes may
    split: its units have more than `mean` bytes. Where units split a list, it does not matter how long each is. Without
    a `mean` none is split.
    """

    source: int
    mean: float = inf
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    ordinals: array[int] = field(default_factory=lambda: array("Q"))
    unit: array[int] = field(default_factory=_numbers)
    units: array[int] = field(default_factory=_numbers)
    sizes: array[int] = field(default_factory=_numbers)
    inner: array[int] = field(default_factory=_numbers)
    bounds: array[int] = field(default_factory=_numbers)
    owners: bytes = b""
    uniques: bytes = b""
    counted: int = 0

    def add(self, chunk: Chunk, key: bytes, *, shared: bool) -> None:
        """Add the rows of a chunk; `shared`: two may have an owner in common, whose hash is under this key."""
        span, columns = chunk.span, chunk.columns
        places = list(map(span.position, columns.index))
        self.offsets.extend([it.offset for it in places])
        self.ordinals.extend([it.ordinal for it in places])
        self.unit.extend(columns.unit)
        self.units.extend(columns.units)
        upto = chunk.sizes
        self.sizes.extend([high - low - 1 for low, high in pairwise(upto)])
        self.inner.extend([edge for edges in columns.inner for edge in edges])
        if shared:
            self.owners += b"".join(map(hasher(key, "owner"), columns.owners))
            self.uniques += b"".join(map(hasher(key, "unique"), columns.uniques))
        for row, (low, high) in enumerate(pairwise(upto)):
            if columns.inner and self.has_bounds(high - low - 1, columns.units[row]):
                found = Bounds(chunk.records(row, row + 1)[0])
                self.bounds.extend([edge for edges in zip(found.starts, found.ends, strict=True) for edge in edges])

    def has_bounds(self, size: int, units: int) -> bool:
        return units > 1 and size > self.mean * units

    def spots(self) -> list[Spot]:
        return list(zip(self.offsets, self.unit, strict=True))

    def place(self, row: int) -> Place:
        """The place of a row's record."""
        return Place(self.source, self.offsets[row], 0, self.ordinals[row] + self.counted)


class Outlined(Chunk):
    """The rows of an outline but for those at some spots, with bodies that have their sizes and nothing else."""

    def __init__(self, outline: Outline, gone: Collection[Spot], numbers: Iterator[int]) -> None:
        kept = [spot not in gone for spot in outline.spots()] if gone else [True] * len(outline.sizes)
        columns, self._outline = Columns(), outline
        self._rows = list(compress(range(len(kept)), kept))
        columns.unit, columns.units = (list(compress(it, kept)) for it in (outline.unit, outline.units))
        columns.upto = [0] * (len(self._rows) + 1)
        offsets, self._sizes = (list(compress(it, kept)) for it in (outline.offsets, outline.sizes))
        last, index = -1, -1
        for offset in offsets:
            index += offset != last
            columns.index.append(index)
            last = offset
        if outline.inner:
            columns.inner = list(compress(zip(outline.inner[::2], outline.inner[1::2], strict=True), kept))
        columns.owners = _hashes(outline.owners, kept) or [str(next(numbers)) for _ in self._rows]
        columns.uniques = _hashes(outline.uniques, kept)
        origins = list(dict.fromkeys(offsets))
        ends = range(1, len(origins) + 1)
        places = [(offset, 1) for offset in origins]
        span = Span(outline.source, 0, b"", range(len(origins)), ends, ends, origins=places)
        super().__init__(span, columns)

    @cached_property
    def sizes(self) -> list[int]:
        return list(accumulate(map((1).__add__, self._sizes), initial=0))

    @cached_property
    def _bounds(self) -> list[int]:
        """Where the bounds of each row of the outline begin."""
        it = self._outline
        sizes = zip(it.sizes, it.units, strict=True)
        return list(accumulate((2 * units * it.has_bounds(size, units) for size, units in sizes), initial=0))

    def records(self, begin: int = 0, end: int | None = None) -> list[Record]:
        it = self.columns
        return [
            Record(
                position=self.span.position(it.index[row]),
                unit=it.unit[row],
                owner=it.owners[row],
                body=self._body(row),
                units=it.units[row],
                inner=it.inner[row] if it.inner else None,
                unique=it.uniques[row] if it.uniques else "",
            )
            for row in range(begin, len(it) if end is None else end)
        ]

    def _body(self, row: int) -> bytes:
        outline, at, size, units = self._outline, self._rows[row], self._sizes[row], self.columns.units[row]
        if not self.columns.inner or units < 2 or outline.mean == inf:
            return bytes(size)
        begin, end = self.columns.inner[row]
        if outline.has_bounds(size, units):
            bounds = outline.bounds[self._bounds[at] : self._bounds[at + 1]]
            edges = list(zip(bounds[::2], bounds[1::2], strict=True))
        else:
            each = (end - begin + 1) // units
            edges = [(nth * each, (nth + 1) * each - 1) for nth in range(units - 1)]
            edges.append(((units - 1) * each, end - begin))
        text, upto = bytearray(), 0
        for start, stop in edges:
            text += b",".ljust(start - upto) if upto else b""
            text += b'"' + b"x" * (stop - start - 2) + b'"'
            upto = stop
        return bytes(begin) + bytes(text) + bytes(size - end)


def _hashes(joined: bytes, kept: list[bool]) -> list[str]:
    found = (joined[at : at + HASH].decode("latin-1") for at in range(0, len(joined), HASH))
    return list(compress(found, kept)) if joined else []


class Requests(NamedTuple):
    """What a batcher makes of outlines: how many requests, their bytes, and the rows that no request can hold."""

    number: int
    size: int
    letters: list[DeadLetter]


def requests(batcher: Batcher, chunks: Iterator[Outlined]) -> Requests:
    """The requests that a batcher makes of all rows of a stage."""
    batcher.only_sizes = True
    number = size = 0
    letters: list[DeadLetter] = []
    last = False
    while not last:
        chunk = next(chunks, None)
        last = chunk is None
        for sealing in batcher.take(chunk) if chunk is not None else batcher.finish():
            letters += sealing.progress.dead
            if sealing.draft is not None:
                number += 1
                size += sealing.draft.size
    return Requests(number, size, letters)
