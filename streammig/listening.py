"""The notices of a run as an async iterator, for a program that uses the library."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from streammig.telemetry import Notice, Notify

MOST = 10_000  # notices that wait for a slow listener; beyond that the oldest are dropped


@dataclass(eq=False, slots=True)
class _Listener:
    loop: asyncio.AbstractEventLoop
    waiting: deque[Notice] = field(default_factory=lambda: deque(maxlen=MOST))
    more: asyncio.Event = field(default_factory=asyncio.Event)
    over: bool = False

    def offer(self, notice: Notice | None) -> None:
        """Take a notice, or None at the end of the run."""
        if notice is None:
            self.over = True
        else:
            self.waiting.append(notice)
        self.more.set()


class Hub:
    """Passes notices on to another `Notify`, and to any number of listeners until it is closed."""

    def __init__(self, notify: Notify) -> None:
        self._notify = notify
        self._listeners: set[_Listener] = set()
        self.closed = False

    def __call__(self, notice: Notice) -> None:
        self._notify(notice)
        self._offer(notice)

    def close(self) -> None:
        """End all listeners, after the notices so far."""
        self.closed = True
        self._offer(None)

    def _offer(self, notice: Notice | None) -> None:
        for each in tuple(self._listeners):
            each.loop.call_soon_threadsafe(each.offer, notice)  # a scan notifies from a thread

    async def listen(self) -> AsyncIterator[Notice]:
        """Yield each notice from now on, until the hub is closed."""
        me = _Listener(asyncio.get_running_loop(), over=self.closed)
        self._listeners.add(me)
        try:
            while me.waiting or not me.over:
                if me.waiting:
                    yield me.waiting.popleft()
                else:
                    me.more.clear()
                    await me.more.wait()
        finally:
            self._listeners.discard(me)
