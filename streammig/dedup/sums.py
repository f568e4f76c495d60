"""Compare sums over two stages by a linear hash of exact amounts: 12 bytes for each owner.

The balance of a customer must equal the sum of its transactions, for each reward and brand. Each amount is scaled to
a whole number and multiplied by a secret number of its reward and brand; the sum is kept modulo a prime of 89 bits.
Equal sums give equal hashes. Different sums give equal hashes in one of 6 * 10**26 comparisons.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache

from streammig.columns import Chunk
from streammig.target import Rules, tells_facts

PRIME = (1 << 89) - 1
WIDTH = 12
UNKNOWN_SUM = b"\xff" * WIDTH  # above any sum
NO_SUM = bytes(WIDTH)


def sums_of(rules: Rules, chunk: Chunk, key: bytes) -> list[bytes]:
    """Hash the sum of each row of a chunk; `UNKNOWN_SUM` for rules whose amounts need not add up."""
    rows, telling = len(chunk.columns), tells_facts(rules)
    if telling is None or not telling.adds_up:
        return [UNKNOWN_SUM] * rows
    totals, weights = [0] * rows, dict[str, int]()
    for row, name, amount in chunk.facts(telling.facts).shares:
        weight = weights.get(name) or weights.setdefault(name, _weight(key, name))
        totals[row] += amount * weight
    return [(total % PRIME).to_bytes(WIDTH, "big") for total in totals]


@lru_cache(maxsize=8192)
def _weight(key: bytes, name: str) -> int:
    digest = hashlib.blake2b(name.encode(), digest_size=16, key=key, person=b"share").digest()
    return int.from_bytes(digest, "big") % (PRIME - 1) + 1
