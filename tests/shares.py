"""How much of the long proofs runs: all of each with STREAMMIG_PROOF=1 (hours), else the share that CI has time for."""

from __future__ import annotations

import os

FULL = 1.0
CI = 0.1


def share(full: int) -> int:
    """How many of so many cases to run, at least one."""
    part = float(os.environ.get("STREAMMIG_PROOF", CI))
    return max(1, round(full * min(max(part, 0.0), FULL)))
