"""The context of a run: clock, random numbers, notices, the stop signal and the target's times."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from dataclasses import dataclass
from random import Random
from threading import Event
from typing import Any, TypeVar

from streammig.clock import Clock
from streammig.telemetry import Notify

T = TypeVar("T")


class Stop(asyncio.Event):
    """An event that ends new requests. Callers that wait for something else can register to be told."""

    def __init__(self) -> None:
        super().__init__()
        self._told: dict[object, Callable[[], None]] = {}

    def set(self) -> None:
        if not self.is_set():  # each caller is told once
            super().set()
            for tell in tuple(self._told.values()):
                tell()

    @contextmanager
    def telling(self, tell: Callable[[], None]) -> Iterator[None]:
        """Call `tell` if the event is set within the block."""
        me = object()
        self._told[me] = tell
        try:
            yield
        finally:
            del self._told[me]


@dataclass(frozen=True, slots=True)
class Times:
    """How long the target gets for its work, in seconds."""

    settle: float  # for its queue, before a read-back counts
    visible: float  # at most, until accepted records can be seen


@dataclass(frozen=True, slots=True)
class Context:
    """Made once a run, and passed to every part of it."""

    clock: Clock
    rng: Random
    notify: Notify
    stop: Stop
    times: Times

    @property
    def stopping(self) -> bool:
        return self.stop.is_set()

    def now(self) -> float:
        """Seconds since the epoch, UTC."""
        return self.clock.time()

    async def until_stopped(
        self, waiting: Coroutine[Any, Any, T], unless: Callable[[], bool] = lambda: False
    ) -> T | None:
        """As the function `until_stopped`, with this run's `stop`."""
        return await until_stopped(self.stop, waiting, unless)

    async def pause(self, seconds: float) -> bool:
        """Wait for some seconds. False if the run is to stop."""
        if seconds > 0:
            await self.until_stopped(asyncio.sleep(seconds))
        return not self.stop.is_set()


async def in_thread(executor: Executor, work: Callable[[], T], halt: Event) -> T:
    """Run `work` in a thread. A cancel sets `halt`, then waits for the end of the work, which may use open files."""
    done = asyncio.get_running_loop().run_in_executor(executor, work)
    try:
        return await asyncio.shield(done)
    except asyncio.CancelledError:
        halt.set()
        await asyncio.gather(done, return_exceptions=True)
        raise


async def until_stopped(
    stop: Stop, waiting: Coroutine[Any, Any, T], unless: Callable[[], bool] = lambda: False
) -> T | None:
    """Await `waiting` and return its result. If `stop` is set, cancel it and return None, unless `unless()` is true.

    It runs in the caller's task, like `asyncio.timeout`: a new task each time costs more than most waits.
    """
    if stop.is_set():
        waiting.close()
        return None
    task, loop = asyncio.current_task(), asyncio.get_running_loop()
    assert task is not None
    cancelled, before = False, task.cancelling()
    due: asyncio.Handle | None = None

    def give_up() -> None:
        nonlocal cancelled
        if not unless():
            cancelled = task.cancel()

    def stopped() -> None:
        nonlocal due
        due = loop.call_soon(give_up)  # not from within the task itself: that would cancel a later wait

    with stop.telling(stopped):
        try:
            return await waiting
        except asyncio.CancelledError:
            if cancelled and task.cancelling() <= before + 1:
                return None
            raise
        finally:
            if due is not None:
                due.cancel()
            if cancelled:
                task.uncancel()
