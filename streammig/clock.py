"""The time of the wall and of the machine, passed in so that a test can own it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Protocol


class Boot(NamedTuple):
    """Time since the machine was started, which setting the clock does not change."""

    id: str  # of this boot; "" on a system that has none
    seconds: float


class Clock(Protocol):
    """Wall-clock time.

    Durations are measured on the event loop's clock (`loop.time()`, `asyncio.sleep`). A test replaces both clocks
    together. Its clock must not jump while a call is in the executor.
    """

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def boot(self) -> Boot:
        """The time since the machine was started."""
        ...


class SystemClock:
    def time(self) -> float:
        return time.time()

    def boot(self) -> Boot:
        try:
            mark = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return Boot(mark, time.clock_gettime(time.CLOCK_BOOTTIME))
        except (OSError, AttributeError):  # no Linux
            return Boot("", 0.0)
