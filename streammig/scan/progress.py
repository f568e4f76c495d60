"""Report the progress of a scan: share and speed."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from itertools import accumulate

from streammig.model import Place
from streammig.sources.source import Source
from streammig.telemetry import Notice, Notify, Waiting

INTERVAL = 1.0  # seconds between two notices


class ScanProgress:
    """Sends notices of scans to the event loop, from any thread. Make it in the loop's thread."""

    def __init__(self, notify: Notify, clock: Callable[[], float] = time.monotonic) -> None:
        self._notify, self._clock, self._loop = notify, clock, asyncio.get_running_loop()

    def tracker(self, what: str, source: Source) -> Callable[[Place], None]:
        """Begin work over a whole source, which `what` names. Call the result with each place that the work reaches."""
        lengths = [mark["length"] for mark in source.fingerprints()]
        before, size = list(accumulate(lengths, initial=0)), sum(lengths)
        begun = said = self._clock()
        first: int | None = None

        def tell(place: Place) -> None:
            nonlocal said, first
            now, done = self._clock(), before[place.source] + place.offset
            first = done if first is None else first
            if now - said < INTERVAL:
                return
            said, rate = now, (done - first) / (now - begun)
            words = f"{what}: {min(done / size, 0.99):.0%}, {rate / 1e6:,.1f} MB/s"
            self.say(Waiting("scanning", words, max(size - done, 0) / rate if rate else None))

        self.say(Waiting("scanning", f"{what}: 0%"))
        return tell

    def say(self, notice: Notice) -> None:
        """Notify, in the loop's thread."""
        self._loop.call_soon_threadsafe(self._notify, notice)
