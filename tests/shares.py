"""How much of the long proofs runs: the share that CI has time for, or what STREAMMIG_PROOF asks for (1 is all)."""

from __future__ import annotations

import os

CI = "0.4"


def share(full: int) -> int:
    """How many of so many cases to run, at least one."""
    part = float(os.environ.get("STREAMMIG_PROOF", CI))
    return max(1, round(full * min(max(part, 0.0), 1.0)))
