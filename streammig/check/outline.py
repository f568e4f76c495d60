"""Outlines: the sizes of rows, which are all that a batcher needs to plan requests; some 30 bytes a row."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import accumulate, chain
from math import inf
from typing import Any

from streammig.batching import Bounds
from streammig.columns import Chunk, Columns
from streammig.dedup.scan import HASH, NONE, hashes
from streammig.model import Place, Position, Record, Span

_NONE = NONE.decode()

RowKey = tuple[int, int]
"""Identifies a row within its file: the offset of its record, and the number of its first unit."""


def _numbers() -> array[int]:
    return array("I")


@dataclass(slots=True)
class Outline:
    """The rows of some spans of one file, in reading order, as flat columns.

    Ordinals count from `counted`. `widths` are bytes, with a comma each. `owners` and `uniques` are joined hashes,
    empty if no two rows can share a key. `inner` holds begin and end for each row with a list of units.

    A list may be split over requests by their limit of bytes; then the batcher needs to know where each unit stands.
    That can only happen if its units have more than `mean` bytes on average: `bounds` holds begin and end of each unit
    of these lists. A list that only the limit of units splits needs no bounds. An infinite `mean` keeps none.
    """

    source: int
    mean: float = inf
    offsets: array[int] = field(default_factory=lambda: array("Q"))
    ordinals: array[int] = field(default_factory=lambda: array("Q"))
    unit: array[int] = field(default_factory=_numbers)
    units: array[int] = field(default_factory=_numbers)
    widths: array[int] = field(default_factory=_numbers)
    inner: array[int] = field(default_factory=_numbers)
    bounds: array[int] = field(default_factory=_numbers)
    owners: bytes = b""
    uniques: bytes = b""
    counted: int = 0

    def add(self, chunk: Chunk, key: bytes, *, shared: bool) -> None:
        """Add the rows of a chunk. `shared`: two rows may have one owner, so hashes under `key` are kept."""
        span, columns = chunk.span, chunk.columns
        if span.origins is None:
            self.offsets.extend(map(span.offset.__add__, chunk.edges[0]))
        else:
            self.offsets.extend([span.origins[at][0] for at in columns.index])
        self.ordinals.extend(span.ordinals if chunk.is_plain else map(span.ordinals.__getitem__, columns.index))
        self.unit.extend(columns.unit)
        self.units.extend(columns.units)
        self.widths.extend(chunk.widths)
        self.inner.extend(chain.from_iterable(columns.inner))
        if shared:
            self.owners += hashes(key, "owner", columns.owners)
            self.uniques += hashes(key, "unique", columns.uniques)
        if columns.inner and self.mean < inf:
            for row in [row for row, width in enumerate(chunk.widths) if width > self.mean]:
                if self.has_bounds(chunk.widths[row], columns.units[row]):
                    found = Bounds(chunk.records(row, row + 1)[0])
                    self.bounds.extend(chain.from_iterable(zip(found.starts, found.ends, strict=True)))

    def has_bounds(self, width: int, units: int) -> bool:
        return units > 1 and width > self.mean * units

    def row_keys(self) -> list[RowKey]:
        return list(zip(self.offsets, self.unit, strict=True))

    def place(self, row: int) -> Place:
        return Place(self.source, self.offsets[row], 0, self.ordinals[row] + self.counted)


class OutlineChunk(Chunk):
    """The rows of an outline without those in `left_out`. Their bodies have the true sizes and a made-up text."""

    def __init__(self, outline: Outline, left_out: Collection[RowKey]) -> None:
        columns, self._outline = Columns(), outline
        self._rows: Sequence[int] = range(len(outline.units))
        if left_out:
            self._rows = [row for row, key in enumerate(outline.row_keys()) if key not in left_out]
        columns.unit, columns.units = self._kept(outline.unit), self._kept(outline.units)
        columns.owners, columns.uniques = (self._kept(_hashes(it)) for it in (outline.owners, outline.uniques))
        offsets = self._kept(outline.offsets)
        columns.index = list(range(len(offsets)))
        if any(columns.unit):  # a record may have several rows
            numbers = {offset: at for at, offset in enumerate(dict.fromkeys(offsets))}
            columns.index, offsets = [numbers[offset] for offset in offsets], list(numbers)
        super().__init__(Span(outline.source, 0, b"", offsets, offsets, offsets), columns)

    def _kept(self, it: Sequence[Any]) -> list[Any]:
        return list(it) if isinstance(self._rows, range) or not it else list(map(it.__getitem__, self._rows))

    @cached_property
    def widths(self) -> list[int]:
        return self._kept(self._outline.widths)

    @cached_property
    def _bounds(self) -> list[int]:
        """For each row of the outline, the index of its first bound."""
        it = self._outline
        rows = zip(it.widths, it.units, strict=True)
        return list(accumulate((2 * units * it.has_bounds(width, units) for width, units in rows), initial=0))

    def records(self, begin: int = 0, end: int | None = None) -> list[Record]:
        it, outline = self.columns, self._outline
        return [
            Record(
                position=Position(outline.source, outline.offsets[at], 0, outline.ordinals[at] + outline.counted),
                unit=outline.unit[at],
                owner=it.owners[row] if it.owners else f"{outline.source} {outline.offsets[at]} {outline.unit[at]}",
                body=self._body(at),
                units=outline.units[at],
                inner=(outline.inner[2 * at], outline.inner[2 * at + 1]) if outline.inner else None,
                unique=it.uniques[row] if it.uniques else "",
            )
            for row, at in enumerate(self._rows[begin:end], begin)
        ]

    def _body(self, at: int) -> bytes:
        outline, size, units = self._outline, self._outline.widths[at] - 1, self._outline.units[at]
        if not outline.inner or outline.mean == inf:
            return bytes(size)
        begin, end = outline.inner[2 * at], outline.inner[2 * at + 1]
        if outline.has_bounds(size + 1, units):
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


def _hashes(joined: bytes) -> list[str]:
    text = joined.decode("latin-1")
    found = [text[at : at + HASH] for at in range(0, len(text), HASH)]
    return [it if it != _NONE else "" for it in found] if _NONE in text else found
