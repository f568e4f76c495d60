"""Delays between retries."""

from __future__ import annotations

from dataclasses import dataclass
from random import Random


@dataclass(frozen=True, slots=True)
class Backoff:
    """Exponential delays with full jitter, in seconds."""

    initial: float = 1.0
    maximum: float = 60.0

    def delay(self, attempt: int, rng: Random) -> float:
        # Clamp the exponent: 2.0**1024 overflows.
        ceiling = self.initial * 2.0 ** min(attempt - 1, 64)
        return rng.uniform(0.0, min(self.maximum, ceiling))
