"""Drafts of any body, as a batcher would hand them out."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

from streammig.checkpoint.contents import encode_contents
from streammig.model import Draft, Position, Range, Tally


def made(ranges: Sequence[Range], tally: Tally, body: bytes) -> Draft:
    """A draft whose body is a single record's."""
    at = ranges[0].begin
    position = Position(at.source, at.offset, 9, at.ordinal)
    table, few = encode_contents([((position, at.unit, "c", max(tally.units, 1), (), "", True), (0, len(body)))], 0, 0)
    return Draft(tuple(ranges), tally, body, hashlib.sha256(body).digest(), table, few)
