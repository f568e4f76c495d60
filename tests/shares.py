"""How much of the long proofs runs: all of each, or the share that STREAMMIG_PROOF asks for (0.05 for a hurry)."""

from __future__ import annotations

import os


def share(full: int) -> int:
    """How many of so many cases to run, at least one."""
    part = float(os.environ.get("STREAMMIG_PROOF", "1"))
    return max(1, round(full * min(max(part, 0.0), 1.0)))
