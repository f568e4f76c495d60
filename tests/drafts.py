"""Drafts of any body, as a batcher would hand them out."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec.structs import replace

from streammig.batching import assemble
from streammig.model import Draft, Position, Range, Record, Tally


def made(ranges: Sequence[Range], tally: Tally, body: bytes) -> Draft:
    """A draft whose body is a single record's."""
    at = ranges[0].begin
    position = Position(at.source, at.offset, 9, at.ordinal)
    record = Record(position, at.unit, "c", body, max(tally.units, 1))
    return replace(assemble([record], b"", b"", tuple(ranges)), tally=tally)
