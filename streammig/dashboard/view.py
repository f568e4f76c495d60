"""What a run looks like now, read from its checkpoint only while somebody looks, and at a bounded cost."""

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
# A look that took a second is taken again after so many: all of them together take 2 % of the time.
REST = 50.0


class Look(NamedTuple):
    """What was seen: nothing before there is a checkpoint. `doing` says what the run waits for, `fault` is the code of
    why the look failed; then `found` is that of the look before."""

    found: Mapping[str, Any] | None = None
    doing: Sequence[str] = ()
    fault: str = ""


class View:
    """Looks at a run for everybody who asks: one look serves all."""

    def __init__(self, checkpoint: Path, clock: Callable[[], float] = time.monotonic) -> None:
        self._checkpoint = checkpoint
        self._clock = clock
        self._watch = Watch()
        self._last = Look()
        self._due = clock()
        self._lock = asyncio.Lock()

    def hear(self, notice: Notice) -> None:
        """A `Notify` of the run in this process, if it is in it."""
        self._watch.hear(notice)

    def expire(self) -> None:
        """Take the next look at once: the run has ended."""
        self._due = self._clock()
        self._watch = Watch()

    async def look(self) -> Look:
        """What the run looks like now, or did a few seconds ago."""
        async with self._lock:
            began = self._clock()
            if began >= self._due:
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
