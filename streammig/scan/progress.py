"""Notices of how far a scan is, with its share and speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import accumulate
from typing import TYPE_CHECKING

from streammig.model import Span
from streammig.sources.source import Source
from streammig.telemetry import Notify, Waiting

if TYPE_CHECKING:
    from streammig.scan.stage import StageScan

SECONDS = 1.0  # between two notices


class Pace:
    """Tells the share and the bytes a second of each scan. Make it in the loop's thread."""

    def __init__(self, notify: Notify, clock: Callable[[], float] = time.monotonic) -> None:
        self._notify, self._clock, self._loop = notify, clock, asyncio.get_running_loop()

    def of(self, job: StageScan) -> Callable[[Span], None]:
        """Begin a scan; call the result with each of its spans. It may be called in any thread."""
        return self.telling(f"scanning the {job.name} once", job.source)

    def telling(self, what: str, source: Source) -> Callable[[Span], None]:
        """As `of`, for any other work over all spans of a source; `what` names it."""
        lengths = [mark["length"] for mark in source.fingerprints()]
        before, size = list(accumulate(lengths, initial=0)), sum(lengths)
        begun = said = self._clock()
        first: int | None = None

        def tell(span: Span) -> None:
            nonlocal said, first
            now, at = self._clock(), before[span.source] + span.offset
            first = at if first is None else first
            if now - said < SECONDS:
                return
            said, done = now, at + len(span.data)
            rate = (done - first) / (now - begun)
            words = f"{what}: {min(done / size, 0.99):.0%}, {rate / 1e6:,.1f} MB/s"
            self._say(Waiting("scanning", words, max(size - done, 0) / rate if rate else None))

        self._say(Waiting("scanning", what))
        return tell

    def _say(self, notice: Waiting) -> None:
        self._loop.call_soon_threadsafe(self._notify, notice)
