"""What everything that works on a run is given: time, dice, the way to say something, and when to stop."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from random import Random
from threading import Event
from typing import TypeVar

from streammig.clock import Boot as Boot
from streammig.clock import Clock as Clock
from streammig.clock import SystemClock as SystemClock
from streammig.telemetry import Notify

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Times:
    """What a target is given to do its work, in seconds."""

    settle: float  # for its queue to come to what it accepted
    visible: float  # until what it accepted can be seen, at most


@dataclass(frozen=True, slots=True)
class Context:
    """Made once a run, and passed to whoever needs it."""

    clock: Clock
    rng: Random
    notify: Notify
    stop: asyncio.Event
    times: Times

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self.clock.time()

    async def until_stopped(self, waiting: Awaitable[T]) -> T | None:
        """As `until_stopped`, for the stop of this run."""
        return await until_stopped(self.stop, waiting)

    async def pause(self, seconds: float) -> bool:
        """Wait so long; False if the run is to stop."""
        if seconds > 0:
            await self.until_stopped(asyncio.sleep(seconds))
        return not self.stop.is_set()


async def in_thread(executor: Executor, work: Callable[[], T], halt: Event) -> T:
    """Do `work` in a thread. A cancel sets `halt`, and waits until the work has ended: it may use what the caller is
    about to close."""
    done = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        halt.set()
        await asyncio.gather(done, return_exceptions=True)
        raise


async def until_stopped(stop: asyncio.Event, waiting: Awaitable[T]) -> T | None:
    """The result of `waiting`, which is cancelled, and None returned, as soon as `stop` is set."""
    work = asyncio.ensure_future(waiting)
    stopped = asyncio.ensure_future(stop.wait())
    try:
        await asyncio.wait({work, stopped}, return_when=asyncio.FIRST_COMPLETED)
        return work.result() if work.done() else None
    finally:
        for task in (work, stopped):
            task.cancel()
        await asyncio.gather(work, stopped, return_exceptions=True)
