"""What must add up over two stages, in 12 bytes for each owner: a linear hash of exact amounts.

The balance of a customer and the sum of its transactions must be the same for each reward and brand. Each amount is
scaled to a whole number and multiplied by a secret number of its reward and brand; the sum is kept modulo a prime of 89
bits. Equal sums give equal hashes. Two owners whose sums differ are taken for alike in one of 6 * 10**26 comparisons.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from streammig.columns import Columns
from streammig.model import EXACT, Span
from streammig.target import AddsUp, Rules

PRIME = (1 << 89) - 1
WIDTH = 12
UNKNOWN_SUM = b"\xff" * WIDTH  # no sum is so large
NO_SUM = bytes(WIDTH)
SCALE = 12  # fraction digits: a number with more is refused by the rules


def sums_of(rules: Rules | AddsUp, columns: Columns, span: Span, key: bytes) -> list[bytes]:
    """The sum of each row of columns; unknown ones where the rules tell of nothing that must add up."""
    if not isinstance(rules, AddsUp):
        return [UNKNOWN_SUM] * len(columns)
    edited, found = columns.edited, []
    for row, at in enumerate(columns.index):
        body = edited[row] if row in edited else span.data[span.starts[at] : span.ends[at]]
        total = 0
        for name, amount in rules.shares(body):
            total += int(amount.scaleb(SCALE, EXACT)) * _weight(key, name)
        found.append((total % PRIME).to_bytes(WIDTH, "big"))
    return found


@lru_cache(maxsize=8192)
def _weight(key: bytes, name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=16, key=key, person=b"share").digest()
    return int.from_bytes(digest, "big") % (PRIME - 1) + 1
