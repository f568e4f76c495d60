"""Reads how a run is from its checkpoint, only while somebody looks, and at a bounded cost."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from streammig.errors import Problem
from streammig.report.history import glance
from streammig.report.watch import Watch
from streammig.telemetry import Notice

EVERY = 2.0  # seconds between two looks, at least
# Seconds until the next look, for each second that the last one took: all looks together take 2 % of the time.
REST = 50.0


class Look(NamedTuple):
    """What was seen; `found` is None while there is no checkpoint. `doing` are lines of what the run waits for.

    `fault` is the code of a look that failed; `found` is then that of the look before.
    """

    found: Mapping[str, Any] | None = None
    doing: Sequence[str] = ()
    fault: str = ""


class View:
    """Looks at a run; one look serves everybody who asks."""

    def __init__(self, checkpoint: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._checkpoint = checkpoint
        self._clock = clock
        self._watch = Watch()
        self._last = Look()
        self._due = clock()
        self._expired = False
        self._lock = asyncio.Lock()

    def hear(self, notice: Notice) -> None:
        """A `Notify`, for a run of this process."""
        self._watch.hear(notice)

    def expire(self) -> None:
        """The run has ended: the next to ask gets a new look."""
        self._expired = True
        self._watch = Watch()

    async def look(self) -> Look:
        """How the run is now, or was at the last look, if the next is not due."""
        async with self._lock:
            began = self._clock()
            if began >= self._due or self._expired:
                self._expired = False  # before the look: where the run ends during it, the next ask looks again
                self._last = await asyncio.to_thread(self._read)
                took = self._clock() - began
                self._due = began + max(EVERY, REST * took)
        return self._last._replace(doing=self._watch.waits())

    def _read(self) -> Look:
        try:
            return Look(glance(self._checkpoint))
        except Problem as problem:
            if problem.code == "checkpoint-missing":
                return Look()
            return self._last._replace(fault=problem.code)
        except Exception as error:  # what is shown never stops a run
            return self._last._replace(fault=type(error).__name__)
