"""The time of the wall and of the machine, passed in so that a test can own it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import NamedTuple, Protocol


class Boot(NamedTuple):
    """A time that nobody can set: seconds since the machine was started."""

    id: str  # of that start of the machine; "" where it has none
    seconds: float


class Clock(Protocol):
    """Wall-clock time, passed in so that a test can own it.

    Durations are measured and slept on the event loop's own clock (`loop.time()`, `asyncio.sleep`), which a test
    replaces together with this one. Must not jump while a call is in the executor.
    """

    def time(self) -> float:
        """Seconds since the epoch, UTC."""
        ...

    def boot(self) -> Boot:
        """The time since the machine was started."""
        ...


class SystemClock:
    """The machine's clocks."""

    def time(self) -> float:
        return time.time()

    def boot(self) -> Boot:
        try:
            mark = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
            return Boot(mark, time.clock_gettime(time.CLOCK_BOOTTIME))
        except (OSError, AttributeError):  # no Linux
            return Boot("", 0.0)
